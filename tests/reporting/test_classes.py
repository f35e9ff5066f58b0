"""Measures that count every class alike, and recall by class, counted again from the files of a run."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score, recall_score

from throughline.core.files import read_json_lines, write_json_lines
from throughline.reporting.classes import FAINTEST, class_figure, class_table
from throughline.reporting.drawing import drawn_figure
from throughline.reporting.estimates import summarise
from throughline.reporting.groups import Group, groups
from throughline.reporting.tables import headline_table, results_table
from throughline.runs.reader import read_run

if TYPE_CHECKING:
    from tests.reporting.conftest import FakeRun

Row = dict[str, Any]


@pytest.fixture(scope="module")
def group(fake_run: FakeRun) -> Group:
    return groups(read_run(fake_run.folder))[0]


def written(folder: Path, method: str, target: str, answer: str) -> dict[int, list[Row]]:
    """The lines of predictions.jsonl of each seed."""
    return {
        unit["seed"]: [row for row in read_json_lines(path.parent / "predictions.jsonl") if row["answer"] == answer]
        for path in sorted(folder.glob("units/*/unit.json"))
        for unit in [json.loads(path.read_text())]
        if (unit["method"], unit["targets"]) == (method, [target])
    }


def score(rows: list[Row], measure: str) -> float:
    true, said = [row["labels"][0] for row in rows], [row["predicted"] or "none" for row in rows]
    function = {"balanced_accuracy": recall_score, "macro_f1": f1_score}[measure]
    return float(function(true, said, labels=sorted(set(true)), average="macro", zero_division=0))


@pytest.mark.parametrize(
    ("measure", "head", "words"),
    [("balanced_accuracy", "balanced", "Balanced accuracy"), ("macro_f1", "macro-F1", "Macro-F1")],
)
def test_reported_measures_are_scikit_learns_of_the_predictions(
    fake_run: FakeRun, group: Group, measure: str, head: str, words: str
) -> None:
    by_target = {
        target: 100
        * np.array([score(rows, measure) for rows in written(fake_run.folder, "mtct", target, "label").values()])
        for target in ("painting", "sketch")
    }
    table = results_table(group, "all", "label", measure=measure)
    row = dict(zip(table.columns, next(row for row in table.rows if row[0] == "mtct"), strict=True))
    for target, values in by_target.items():
        assert row[target] == f"{values.mean():.1f} ± {values.std() / np.sqrt(3):.1f}"
    assert "Avg, 95 % interval" not in row and table.title.endswith(f"split all · {words}")
    average = f"{np.mean([*by_target.values()]):.1f}"
    assert row["Avg"].startswith(average)
    beside = results_table(group, "all", "label")
    assert dict(zip(beside.columns, beside.rows[3], strict=True))[head] == average
    headline = headline_table(group, "all")
    assert dict(zip(headline.columns, headline.rows[3], strict=True))[head].split(" / ")[0] == average


def test_a_target_without_the_measure_leaves_no_mean_and_a_run_without_it_no_column(
    make_run: Callable[..., FakeRun],
) -> None:
    folder = make_run(methods=("cls",), seeds=(0,), size=10).folder
    rows = read_json_lines(folder / "results.jsonl")
    write_json_lines(
        folder / "results.jsonl", [row | ({"metrics": {}} if row["targets"] == ["sketch"] else {}) for row in rows]
    )
    (some,) = groups(read_run(folder))
    headline = headline_table(some, "all")
    assert dict(zip(headline.columns, headline.rows[0], strict=True))["balanced"] == "X / X / X"
    assert summarise(some, "all", "label", measure="macro_f1")["cls"].average is None
    write_json_lines(folder / "results.jsonl", [row | {"metrics": {}} for row in rows])
    (none,) = groups(read_run(folder))
    assert not none.class_measured and "balanced" not in headline_table(none, "all").columns
    assert "macro-F1" not in results_table(none, "all", "label").columns


def test_recall_of_a_class_has_wilsons_interval_over_its_images(make_run: Callable[..., FakeRun]) -> None:
    folder = make_run(methods=("zero_shot", "cls"), seeds=(0,), targets=("sketch",)).folder
    table = class_table(groups(read_run(folder))[0], "label")
    assert table is not None and table.columns == ("class", "images", "zero_shot", "cls")
    (rows,) = written(folder, "cls", "sketch", "label").values()
    for name, images, _, cell in table.rows:
        right = sum(row["predicted"] == name for row in rows if row["labels"] == [name])
        interval = stats.binomtest(right, int(images)).proportion_ci(method="wilson")
        assert (images, cell) == ("10", f"{10 * right:.1f} ({100 * interval.low:.1f} to {100 * interval.high:.1f})")


def test_seeds_do_not_make_an_interval_of_images_narrower(fake_run: FakeRun, group: Group) -> None:
    table = class_table(group, "label", ("cls",))
    assert table is not None and table.columns == ("class", "images", "cls")
    answers = [written(fake_run.folder, "cls", target, "label") for target in ("painting", "sketch")]
    rows = [row for of_target in answers for of_seed in of_target.values() for row in of_seed]
    for name, images, cell in table.rows:
        right = np.mean([row["predicted"] == name for row in rows if row["labels"] == [name]])
        assert images == "20" and cell.startswith(f"{100 * right:.1f} (")
        low, high = map(float, cell.split("(")[1].strip(")").split(" to "))
        assert high - low > 30  # Wilson's of 20 images, not of 60


def long_tailed(folder: Path, label_of: Callable[[Row], str | None]) -> Group:
    """The group of a run whose images show these classes, always named; an image without one is left out."""
    for path in folder.glob("units/*/predictions.jsonl"):
        rows = [row | {"labels": [label_of(row)]} for row in read_json_lines(path)]
        write_json_lines(path, [row for row in rows if row["labels"] != [None]])
    return groups(read_run(folder))[0]


def test_a_class_that_a_domain_lacks_is_blank_and_one_never_recognised_is_not(make_run: Callable[..., FakeRun]) -> None:
    def label_of(row: Row) -> str | None:
        """Boats are never called so, and no sketch shows one."""
        boat = row["labels"] == ["boat"]
        return None if boat and row["domain"] == "sketch" else "ship" if boat else str(row["labels"][0])

    group = long_tailed(make_run(methods=("cls", "mtct_sarr"), seeds=(0,), size=12).folder, label_of)
    figure, table = class_figure(group, "label"), class_table(group, "label")
    assert figure is not None and table is not None
    assert [row[:2] for row in table.rows] == [("bowl", "8"), ("cup", "8"), ("ship", "4")]
    assert [panel.title for panel in figure.panels] == ["cls", "mtct_sarr"]
    for panel in figure.panels:
        assert panel.heat is not None and panel.heat[2] == [FAINTEST, 0]
        assert min(min(row) for row in panel.heat[:2]) >= FAINTEST
    assert {row[2] for row in figure.rows if row[1] == "ship"} == {"painting"}


def test_of_many_classes_the_figure_shows_those_with_the_lowest_recall(make_run: Callable[..., FakeRun]) -> None:
    folder = make_run(methods=("cls",), seeds=(0,), targets=("sketch",), size=60).folder
    group = long_tailed(folder, lambda row: row["predicted"] if int(row["sample_id"][-7:-4]) > 40 else row["sample_id"])
    figure, table = class_figure(group, "likelihood"), class_table(group, "likelihood")
    assert figure is not None and table is not None and len(table.rows) == 44
    (panel,) = figure.panels
    assert panel.heat is not None and len(panel.heat) == 40 and np.max(panel.heat) == FAINTEST
    assert "the 40 of 44 classes with the lowest" in figure.description


def test_long_names_leave_room_for_the_cells(make_run: Callable[..., FakeRun]) -> None:
    folder = make_run(methods=("cls",), seeds=(0,), targets=("sketch",), size=6).folder
    for path in folder.glob("units/*/predictions.jsonl"):
        write_json_lines(path, [row | {"domain": 60 * "d"} for row in read_json_lines(path)])
    figure = class_figure(long_tailed(folder, lambda row: 60 * "c"), "label")
    assert figure is not None
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of matplotlib, where a layout has no room for the axes
        (axes,) = (axes for axes in drawn_figure(figure).axes if axes.get_visible())
    assert axes.get_position().height > 0.05


def test_images_with_several_labels_have_no_recall_by_class(make_run: Callable[..., FakeRun]) -> None:
    folder = make_run(methods=("cls",), seeds=(0,), targets=("sketch",), size=10).folder
    for path in folder.glob("units/*/predictions.jsonl"):
        write_json_lines(path, [row | {"labels": ["cup", "boat"]} for row in read_json_lines(path)])
    (group,) = groups(read_run(folder))
    assert class_table(group, "label") is None and class_figure(group, "label") is None
