"""A search on a few drawn images: it equals runs of the same settings, and its rules choose what plain reading of the
run folder's files chooses."""

import json
import random
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from tests.experiment.test_executors import Run, files_in, wait_for
from tests.forks import typed

from throughline.cli.main import main
from throughline.core.files import read_json_lines
from throughline.domains.folders import read_images
from throughline.domains.samples import ImageSet
from throughline.domains.splits import split_domains
from throughline.reporting.selection import selection_tables
from throughline.runs.draws import choose, find_draws
from throughline.runs.reader import read_run

pytestmark = pytest.mark.slow

TARGETS = ("photo", "sketch")
RULES = ("training_domain", "leave_one_domain_out", "oracle", "last")
WRITTEN, OTHER = 1.0e-3, 1.0e-2
DRAWS = {0: WRITTEN, 2: OTHER}
"""Draw 1 is the rate of the config as it is written."""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    """One image of each of twelve classes in three styles."""
    root = tmp_path_factory.mktemp("drawn") / "images"
    assert main(["data", "draw", str(root), "--per-class", "1", "--styles", "cartoon,photo,sketch"]) == 0
    return read_images(root)


@pytest.fixture(scope="module")
def config_file(images: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labels only, on the likelihood path, two of three targets, two rates."""
    values = {
        "data": {"images": str(images.root), "targets": list(TARGETS)},
        "methods": ["zero_shot", "cls"],
        "training": {"stage": {"epochs": 1, "batch": 10, "micro_batch": 10, "lr": WRITTEN}},
        "search": {"over": {"training.stage.lr": [WRITTEN, OTHER]}, "rules": list(RULES)},
        "evaluation": {"answering": {"answers": ["likelihood"]}},
    }
    path = tmp_path_factory.mktemp("config") / "searched.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="module")
def searched(config_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of the undisturbed search; read only. What was said is in `said` beside it."""
    return run(config_file, tmp_path_factory.mktemp("runs") / "searched")


VALIDATION = ("search.measure=validation", "search.rules=training_domain")


@pytest.fixture(scope="module")
def validated(config_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `searched`, of a search that asks about no target."""
    return run(config_file, tmp_path_factory.mktemp("runs") / "validated", *VALIDATION)


def run(config_file: Path, folder: Path, *overrides: str) -> Path:
    words = [word for override in overrides for word in ("--set", override)]
    process = typed(["run", str(config_file), "--out", str(folder), *words], folder.parent / "said")
    process.join()
    assert process.exitcode == 0, (folder.parent / "said").read_text()
    return folder


def units(folder: Path) -> pd.DataFrame:
    """What the files say: a row for each unit."""
    rows = []
    for path in sorted((folder / "units").iterdir()):
        unit = json.loads((path / "unit.json").read_text())
        final = json.loads((path / "metrics.json").read_text())["results"]
        row = {"method": unit["method"], "targets": tuple(unit["targets"]), "draw": int(unit["factors"]["draw"])}
        row |= {line["split"]: line["accuracy"] for line in final}
        if (path / "validation.jsonl").is_file():
            (line,) = read_json_lines(path / "validation.jsonl")
            row["domains"] = line["domains"]
        rows.append(row)
    return pd.DataFrame(rows)


def chosen_by_hand(folder: Path) -> dict[tuple[str, str], tuple[int, float]]:
    """For each rule and target the draw and its accuracy on the target's `in` split."""
    frame = units(folder)
    frame = frame[frame["method"] == "cls"]
    chosen = {}
    for target in TARGETS:
        ours = frame[frame["targets"] == (target,)].set_index("draw").sort_index()
        pairs = frame[[len(targets) == 2 and target in targets for targets in frame["targets"]]]
        held_out = [
            (row.draw, share) for row in pairs.itertuples() for source, share in row.domains.items() if source != target
        ]
        by_rule = {
            "training_domain": ours["domains"].map(lambda domains: np.mean(list(domains.values()))),
            "leave_one_domain_out": pd.DataFrame(held_out, columns=["draw", "share"]).groupby("draw")["share"].mean(),
            "oracle": ours["out"],
            "last": pd.Series({0: 1.0}),
        }
        for rule, shares in by_rule.items():
            best = int(shares.round(12).idxmax())  # of equal ones the first
            chosen[rule, target] = best, float(ours.loc[best, "in"])
    return chosen


def chosen_by_the_rules(folder: Path) -> dict[tuple[str, str], int]:
    found = [draws for draws in find_draws(read_run(folder)) if draws[0].unit.method == "cls"]
    picks = [(rule, choose(draws, rule)) for draws in found for rule in RULES]
    return {(rule, draw.unit.targets[0]): draw.number for rule, draw in picks if draw is not None}


def test_a_grid_has_the_numbers_of_runs_of_the_same_settings(searched: Path, here: Run, tmp_path: Path) -> None:
    """The rate of the config itself stands in the grid, and is not run twice."""
    frame = units(searched)
    assert sorted(frame[frame["method"] == "zero_shot"]["draw"]) == [0, 0]
    trained = frame[(frame["method"] == "cls") & (frame["targets"].map(len) == 1)]
    assert sorted(trained["draw"]) == [0, 0, 2, 2]
    assert trained["in"].nunique() > 2, "the draws do not differ, so that nothing is shown here"
    for draw, rate in DRAWS.items():
        keys = ("search=null", "methods=cls", "data.targets=photo", f"training.stage.lr={rate}")
        alone = here(tmp_path / f"alone_{draw}", *keys).folder
        rows = [row for row in read_json_lines(alone / "results.jsonl") if row["round"] is None]
        ours = [row for row in read_json_lines(searched / "results.jsonl") if row["factors"] == {"draw": str(draw)}]
        of_cls = [row for row in ours if (row["method"], row["targets"]) == ("cls", ["photo"])]
        assert {row["split"]: row["correct"] for row in of_cls} == {row["split"]: row["correct"] for row in rows}
        assert not list(alone.glob("units/*/validation.jsonl"))


def test_every_rule_chooses_what_plain_reading_of_the_files_chooses(searched: Path) -> None:
    by_hand = chosen_by_hand(searched)
    assert chosen_by_the_rules(searched) == {place: draw for place, (draw, _) in by_hand.items()}
    assert len({draw for draw, _ in by_hand.values()}) > 1, "every rule chooses the same, so that nothing is shown here"
    rules, draws = selection_tables(read_run(searched))
    assert rules.columns == ("method", "rule", *TARGETS, "Avg", "unparsed")
    cells = {row[:2]: row[2:5] for row in rules.rows}
    for rule in RULES:
        shares = [by_hand[rule, target][1] for target in TARGETS]
        assert cells["cls", rule] == tuple(f"{100 * share:.1f}" for share in (*shares, float(np.mean(shares))))
    assert {method for method, rule in cells if rule == "last"} == {"zero_shot", "cls"}
    assert len(cells) == len(RULES) + 1
    counts = {row[1]: dict(zip(draws.columns[-len(RULES) :], row[-len(RULES) :], strict=True)) for row in draws.rows}
    for rule in RULES:
        for draw in DRAWS:
            expected = sum(by_hand[rule, target][0] == draw for target in TARGETS)
            assert counts[str(draw)][rule] == f"{expected} of 2"


def test_the_shares_are_those_of_the_splits_that_domainbed_names(searched: Path, images: ImageSet) -> None:
    """Sources on their `out` parts, pairs on their `in` parts; each pair is trained once and serves both targets."""
    splits = split_domains(images, 0)
    frame = units(searched)
    pairs = frame[frame["targets"].map(len) == 2]
    assert sorted(zip(pairs["targets"], pairs["draw"].tolist(), strict=True)) == sorted(
        (pair, draw)
        for pair in {tuple(sorted((target, other))) for target in TARGETS for other in splits if other != target}
        for draw in DRAWS
    )
    asked: dict[str, int]
    for path in (searched / "units").glob("*-cls-*"):
        targets = json.loads((path / "unit.json").read_text())["targets"]
        (line,) = read_json_lines(path / "validation.jsonl")
        assert line["selected"] and line["answer"] == "likelihood"
        if len(targets) == 2:
            asked = {domain: len(splits[domain].inside) for domain in targets}
            assert not (path / "predictions.jsonl").exists()
        else:
            asked = {domain: len(split.out) for domain, split in splits.items() if domain not in targets}
        assert set(line["domains"]) == set(asked) and line["n"] == sum(asked.values())
        right = sum(float(line["domains"][domain]) * count for domain, count in asked.items())
        assert right == pytest.approx(line["correct"])


def test_the_tables_stand_at_the_end_of_the_run_in_the_report_and_on_the_page(searched: Path, tmp_path: Path) -> None:
    tables = selection_tables(read_run(searched))
    page = (searched / "report" / "index.html").read_text()
    said = tmp_path / "said"
    reported = typed(["report", str(searched), "--out", str(tmp_path / "page")], said)
    reported.join()
    assert reported.exitcode == 0, said.read_text()
    for text in (said.read_text(), (searched.parent / "said").read_text(), page):
        assert all(table.title in text for table in tables)


def test_killed_and_started_again_it_chooses_the_same(
    validated: Path, config_file: Path, here: Run, tmp_path: Path
) -> None:
    folder, moments = tmp_path / "run", random.Random(1)
    words = [word for key in VALIDATION for word in ("--set", key)]
    for kill in range(2):
        seen = files_in(folder)
        process = typed(["run", str(config_file), "--out", str(folder), *words], tmp_path / "said")
        wait_for(lambda seen=seen, process=process: files_in(folder) > seen + 7 or not process.is_alive())
        time.sleep(moments.uniform(0, 0.3))
        assert process.is_alive(), f"kill {kill}: it was over before it could be killed"
        process.kill()
        process.join()
    assert len(list(folder.glob("units/*/done"))) < len(list(validated.glob("units/*/done")))
    here(folder, *VALIDATION)
    assert selection_tables(read_run(folder)) == selection_tables(read_run(validated))
    assert numbers(folder) == numbers(validated)


def numbers(folder: Path) -> dict[str, str]:
    return {path.parent.name: path.read_text() for path in folder.glob("units/*/validation.jsonl")}


def test_validation_alone_asks_about_no_target(searched: Path, validated: Path, tmp_path: Path) -> None:
    folder = validated
    assert not list(folder.rglob("predictions.jsonl")) and read_json_lines(folder / "results.jsonl") == []
    before, after = units(searched), units(folder)
    assert set(after["method"]) == {"cls"} and set(after["targets"]) == {(target,) for target in TARGETS}
    for row in after.itertuples():
        same = before[(before["method"] == "cls") & (before["targets"] == row.targets) & (before["draw"] == row.draw)]
        assert same["domains"].item() == row.domains
    by_hand = {target: chosen_by_hand(searched)["training_domain", target][0] for target in TARGETS}
    (table,) = selection_tables(read_run(folder))
    assert table.columns == ("method", "draw", "training.stage.lr", *TARGETS, "Avg", "training_domain")
    chosen = {row[1]: row[-1] for row in table.rows}
    assert chosen == {str(draw): f"{list(by_hand.values()).count(draw)} of 2" for draw in DRAWS}
    for text in ((folder.parent / "said").read_text(), (folder / "report" / "index.html").read_text()):
        assert table.title in text
    reported = typed(["report", str(folder), "--format", "markdown"], tmp_path / "reported")
    reported.join()
    assert reported.exitcode == 0 and table.title in (tmp_path / "reported").read_text()
