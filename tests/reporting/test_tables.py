from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from throughline.core.files import read_json_lines, write_json, write_json_lines
from throughline.core.table import Table
from throughline.drawn import DRAWN_NOTE
from throughline.reporting.estimates import summarise
from throughline.reporting.groups import contradictions, groups
from throughline.reporting.tables import comparison_table, headline_table, results_table, rounds_table
from throughline.reporting.text import to_latex, to_markdown, to_terminal
from throughline.reporting.warnings import warnings
from throughline.runs.reader import Run, read_run

if TYPE_CHECKING:
    from tests.reporting.conftest import FakeRun

TABLE = Table("a_b · 50 %", ("method", "Avg"), (("mtct_sarr", "85.5 ± 0.2"), ("x|y", "X")), ("of 100 %",))


@pytest.fixture(scope="module")
def run(fake_run: FakeRun) -> Run:
    return read_run(fake_run.folder)


def rewrite(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> Run:
    rows = [change(row) for row in read_json_lines(folder / "results.jsonl")]
    write_json_lines(folder / "results.jsonl", [row for row in rows if row is not None])
    return read_run(folder)


def test_cells_are_mean_and_standard_error_over_seeds_as_domainbed_prints_them(fake_run: FakeRun, run: Run) -> None:
    (group,) = groups(run)
    table = results_table(group, "in", "label")
    assert table.columns == ("method", "painting", "sketch", "Avg", "balanced", "macro-F1", "unparsed")
    assert [row[0] for row in table.rows] == list(fake_run.methods)
    lines = [json.loads(line) for line in (run.folder / "results.jsonl").read_text().splitlines()]
    found = {
        target: [
            100 * line["accuracy"]
            for line in sorted(lines, key=lambda line: line["seed"])
            if (line["method"], line["targets"], line["answer"], line["split"], line["round"])
            == ("mtct", [target], "label", "in", None)
        ]
        for target in ("painting", "sketch")
    }
    row = next(row for row in table.rows if row[0] == "mtct")
    values = np.array([found["painting"], found["sketch"]])
    assert row[2] == f"{values[1].mean():.1f} ± {values[1].std() / math.sqrt(3):.1f}"
    per_seed = values.mean(axis=0)
    assert row[3] == f"{per_seed.mean():.1f} ± {per_seed.std() / math.sqrt(3):.1f}"


def test_rounds_do_not_enter_the_table_and_other_methods_stand_last(make_run: Callable[..., FakeRun]) -> None:
    folder = make_run(methods=("cls", "mtct_sarr"), seeds=(0,), targets=("sketch",)).folder
    run = rewrite(folder, lambda row: {**row, "method": {"cls": "erm"}.get(row["method"], row["method"])})
    (group,) = groups(run)
    rows = summarise(group, "all", "label")
    assert list(rows) == ["mtct_sarr", "erm"]
    assert rows["mtct_sarr"].cells["sketch"].count == 1


def test_a_missing_target_is_an_x_and_leaves_no_average(make_run: Callable[..., FakeRun]) -> None:
    folder = make_run(methods=("zero_shot", "cls"), seeds=(0,), targets=("painting", "sketch")).folder
    run = rewrite(folder, lambda row: None if (row["method"], row["targets"]) == ("cls", ["sketch"]) else row)
    (group,) = groups(run)
    table = results_table(group, "all", "label")
    zero_shot, cls = table.rows
    assert "X" not in zero_shot and "±" not in "".join(zero_shot)
    assert cls[2:5] == ("X", "X", "X")


def test_a_seed_that_lacks_a_target_does_not_spread_the_average(make_run: Callable[..., FakeRun]) -> None:
    folder = make_run(methods=("cls",), seeds=(0, 1), targets=("painting", "sketch")).folder
    run = rewrite(folder, lambda row: None if (row["seed"], row["targets"]) == (1, ["sketch"]) else row)
    (group,) = groups(run)
    (row,) = summarise(group, "all", "label").values()
    assert row.average is not None
    assert row.average.count == 1
    assert row.average.mean == pytest.approx(np.mean([cell.mean for cell in row.cells.values()]))


def test_the_interval_holds_the_average_and_stands_for_the_whole_target_only(run: Run) -> None:
    (group,) = groups(run)
    for row in summarise(group, "all", "reasoning").values():
        assert row.interval is not None and row.average is not None
        assert row.interval.low < row.interval.mean < row.interval.high
        assert row.interval.mean == pytest.approx(row.average.mean)
    assert all(row.interval is None for row in summarise(group, "in", "reasoning").values())


def test_comparisons_are_paired_and_corrected(fake_run: FakeRun, run: Run) -> None:
    (group,) = groups(run)
    table = comparison_table(group, "label", "cls")
    assert table is not None
    rows = {row[0]: row for row in table.rows}
    assert "cls" not in rows and len(rows) == 5
    assert rows["mtct_sarr"][1].startswith("+") and rows["zero_shot"][1].startswith("-")
    assert all(float(row[4]) >= float(row[3]) for row in table.rows)
    assert rows["mtct_sarr"][5] == "6"
    assert comparison_table(group, "label", "nothing") is None


def test_results_that_contradict_their_predictions_are_named(make_run: Callable[..., FakeRun]) -> None:
    folder = make_run(methods=("cls",), seeds=(0,), targets=("sketch",)).folder
    run = read_run(folder)
    assert contradictions(run) == ()
    run = rewrite(folder, lambda row: {**row, "correct": 29} if row["answer"] == "label" else row)
    (found,) = contradictions(run)
    assert "label: 29 of 30 right in the results" in found


def test_what_is_said_of_a_classifier_beside_two_models_is_said_once(make_run: Callable[..., FakeRun]) -> None:
    folder = make_run(methods=("zero_shot", "cls", "mtct"), seeds=(0,), targets=("sketch",)).folder
    models = {"zero_shot": "pocket", "mtct": "larger", "cls": "timm/resnet18"}

    def change(row: dict[str, Any]) -> dict[str, Any]:
        of_classifier = row["method"] == "cls" and row["answer"] == "label"
        wrong = {"correct": 29, "unparsed": 29} if of_classifier else {}
        return {**row, **wrong, "model": models[row["method"]]}

    run = rewrite(folder, change)
    assert [group.model for group in groups(run)] == ["larger", "pocket"]
    assert len(contradictions(run)) == 1
    assert [line for line in warnings(run) if line.startswith("cls")] == [
        "cls, label path: 29 of 30 answers name no class"
    ]


def test_levels_of_a_factor_do_not_mix(make_run: Callable[..., FakeRun]) -> None:
    folder = make_run(methods=("cls",), seeds=(0,), targets=("sketch",)).folder
    run = rewrite(folder, lambda row: {**row, "factors": {"shots": 4} if row["split"] == "in" else {}})
    (group,) = groups(run)
    assert group.factors == ("shots",) and list(group.setups) == ["cls", "cls, shots=4"]
    assert [row[:2] for row in results_table(group, "in", "label").rows] == [("cls", "4")]
    assert [row[:2] for row in results_table(group, "all", "label").rows] == [("cls", "–")]


def test_every_table_of_the_drawn_world_says_what_it_is_not(make_run: Callable[..., FakeRun], run: Run) -> None:
    (group,) = groups(run)
    assert DRAWN_NOTE in results_table(group, "in", "label").notes
    assert DRAWN_NOTE in headline_table(group, "all").notes
    folder = make_run(methods=("cls",), seeds=(0,), targets=("sketch",)).folder
    real = rewrite(folder, lambda row: {**row, "dataset": "pacs"})
    assert DRAWN_NOTE not in results_table(groups(real)[0], "in", "label").notes


def test_headline_has_one_column_per_answer_path_and_rounds_add_up(run: Run) -> None:
    (group,) = groups(run)
    headline = headline_table(group, "all")
    paths = ("label path", "reasoning path", "likelihood path")
    assert headline.columns[:6] == ("method", *paths, "balanced", "macro-F1")
    *methods, chance, most = headline.rows
    assert all(" to " in cell for row in methods for cell in row[1:4])
    assert (chance[0], most[0]) == ("chance", "most frequent class")
    rounds = rounds_table(group)
    assert rounds is not None
    assert rounds.columns[:4] == ("method", "round", "sampled", "accepted %")
    assert rounds.rows[0][:4] == ("sarr", "1", "600", "70.0")
    assert rounds.rows[-1][-1] == "6 of 6" and "rejected_class" not in rounds.notes[0]
    of_class = {"accepted": 60, "rejected_class": 40}
    units = {
        name: replace(unit, rounds=tuple(replace(line, outcomes=of_class) for line in unit.rounds))
        for name, unit in run.units.items()
    }
    (other,) = groups(replace(run, units=units))
    rounds = rounds_table(other)
    assert rounds is not None and "rejected_class" in rounds.columns
    assert "rejected_class: well-formed, but concludes in another class." in rounds.notes[0]


def cost_of(run: Run, method: str, answer: str = "label") -> dict[str, str]:
    (group,) = groups(run)
    table = results_table(group, "all", answer, with_cost=True)
    (row,) = (row for row in table.rows if row[0] == method)
    found = dict(zip(table.columns, row, strict=True))
    (shown,) = (row for row in headline_table(group, "all").rows if row[0] == method)
    cost = {name: found[name] for name in table.columns[table.columns.index("unparsed") + 1 :]}
    assert list(cost.values()) == list(shown[-len(cost) :])
    return cost


def test_the_cost_of_a_method_stands_in_its_row(make_run: Callable[..., FakeRun]) -> None:
    """Two targets and three seeds of 180 seconds on two threads; 160 images in 0.5, 1 and 1.5 seconds."""
    folder = make_run(methods=("zero_shot", "mtct"), size=6).folder
    with (folder / "config.yaml").open("a") as config:
        config.write("threads: 2\n")
    run = read_run(folder)
    mtct = {"parameters trained": "1,234", "training images/s": "160", "core hours": "0.6"}
    assert cost_of(run, "mtct") == mtct
    assert cost_of(run, "zero_shot") == {**dict.fromkeys(mtct, "–"), "core hours": "0.6"}
    write_json(folder / "environment.json", {"device": "NVIDIA H200"})
    assert cost_of(read_run(folder), "mtct")["GPU hours"] == "0.3"


def test_hours_that_are_known_of_some_units_only_are_not_told(make_run: Callable[..., FakeRun]) -> None:
    folder = make_run(methods=("cls", "mtct"), size=6).folder
    next((folder / "units").glob("mtct-*/cost.json")).unlink()
    run = read_run(folder)
    assert (cost_of(run, "cls")["core hours"], cost_of(run, "mtct")["core hours"]) == ("0.3", "–")
    for path in (folder / "units").glob("*/cost.json"):
        path.unlink()
    assert "core hours" not in cost_of(read_run(folder), "cls")


def test_hours_of_what_is_asked_are_there_with_those_of_its_training(make_run: Callable[..., FakeRun]) -> None:
    """Six adapters of ten minutes each, asked three minutes each."""
    folder = make_run(methods=("mtct",), size=6).folder
    for asked in list((folder / "units").iterdir()):
        unit, trained = json.loads((asked / "unit.json").read_text()), asked.with_name(f"trained-{asked.name}")
        write_json(trained / "unit.json", {**unit, "kind": "validate"})
        write_json(trained / "cost.json", {"seconds": 600.0})
        (asked / "stage.json").rename(trained / "stage.json")
        write_json(asked / "unit.json", {**unit, "kind": "evaluate", "needs": {"start": trained.name}})
    known = {"parameters trained": "1,234", "training images/s": "160"}
    assert cost_of(read_run(folder), "mtct") == {**known, "core hours": "1.3"}
    next((folder / "units").glob("trained-*/cost.json")).unlink()
    assert cost_of(read_run(folder), "mtct") == known


def test_a_model_behind_an_endpoint_costs_money_instead_of_hours(make_run: Callable[..., FakeRun]) -> None:
    folder = make_run(methods=("zero_shot",), size=6).folder
    for path in (folder / "units").glob("*/cost.json"):
        write_json(path, {"dollars": 0.25})
    assert cost_of(read_run(folder), "zero_shot") == {"US dollars": "1.5"}


def test_failed_answers_get_a_column_when_there_are_any(make_run: Callable[..., FakeRun]) -> None:
    folder = make_run(methods=("cls",), seeds=(0,), targets=("sketch",)).folder
    run = rewrite(folder, lambda row: {**row, "errors": 3, "unparsed": 6})
    table = results_table(groups(run)[0], "all", "label")
    assert table.columns[-2:] == ("unparsed", "failed")
    assert table.rows[0][-2:] == ("20.0", "10.0")


def test_markdown_escapes_what_would_break_a_table() -> None:
    text = to_markdown(TABLE)
    lines = text.splitlines()
    assert lines[2] == "| method | Avg |" and lines[3] == "|---|---:|"
    assert lines[4] == r"| mtct\_sarr | 85.5 ± 0.2 |"
    assert lines[5] == r"| x\|y | X |"


def test_a_markdown_note_keeps_its_code_and_escapes_the_rest() -> None:
    noted = Table("t", ("a",), (), ("`throughline bench --json` with lora_rank 8, a ` alone",))
    assert to_markdown(noted).splitlines()[-1] == r"`throughline bench --json` with lora\_rank 8, a \` alone"


def test_latex_escapes_signs_and_uses_booktabs() -> None:
    text = to_latex(TABLE)
    assert r"mtct\_sarr & 85.5 $\pm$ 0.2 \\" in text
    assert r"50 \%" in text and r"\toprule" in text and r"\begin{tabular}{lr}" in text


def test_the_terminal_shows_every_cell_whole_however_many_columns() -> None:
    columns = ("method", *(f"location_{number}" for number in range(30)))
    wide = Table("wide", columns, (("cls", *["85.5 ± 0.2"] * 30),))
    text = to_terminal(wide)
    assert text.count("85.5 ± 0.2") == 30 and "location_29" in text and "…" not in text
    assert to_terminal(TABLE).splitlines()[0].strip() == TABLE.title
    assert "\x1b" not in text
