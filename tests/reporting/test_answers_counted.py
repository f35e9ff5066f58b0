"""Confusion, calibration and abstention, counted again by hand from the predictions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from throughline.core.files import read_json_lines, write_json_lines
from throughline.metrics.calibration import expected_calibration_error
from throughline.reporting.confidence import abstention_figure, confidence_table, confidences, reliability_figure
from throughline.reporting.confusion import confusion_data, confusion_figures, confusions, mixups_table
from throughline.reporting.drawing import csv_of, svg_of
from throughline.reporting.groups import Group, groups
from throughline.reporting.page import write_page
from throughline.runs.reader import Run, read_run
from throughline.runs.records import Prediction

if TYPE_CHECKING:
    from tests.reporting.conftest import FakeRun


@pytest.fixture(scope="module")
def run(fake_run: FakeRun) -> Run:
    return read_run(fake_run.folder)


@pytest.fixture(scope="module")
def group(run: Run) -> Group:
    return groups(run)[0]


def said(run: Run, method: str, target: str | None = None) -> list[Prediction]:
    names = {r.unit for r in run.results if r.method == method and target in {None, r.target}}
    return [prediction for name in sorted(names) for prediction in run.units[name].predictions()]


def test_confusion_is_scikit_learns_with_a_column_for_no_class(run: Run, group: Group) -> None:
    tables = confusions(group)
    assert len(tables) == 2 * 6 * 3
    one = next(t for t in tables if (t.target, t.method, t.answer) == ("sketch", "cls", "label"))
    answers = [p for p in said(run, "cls", "sketch") if p.answer == "label"]
    names = [*one.classes, "none"]
    expected = confusion_matrix([p.labels[0] for p in answers], [p.predicted or "none" for p in answers], labels=names)
    np.testing.assert_array_equal(one.counts, expected[:-1])
    assert one.counts[:, -1].sum() > 0


def test_what_the_script_gets_and_what_the_files_get_add_up(group: Group) -> None:
    tables = confusions(group)
    data = confusion_data(tables)
    for table, found in zip(tables, data["tables"], strict=True):
        cells = np.array(found["cells"]).reshape(-1, 3)
        assert cells[:, 2].sum() == table.counts.sum() == 90
        assert all(table.counts[true, given] == count for true, given, count in cells)
    first, second = confusion_figures(tables, "label", ("cls", "mtct_sarr"))
    assert [panel.title for panel in first.panels] == ["cls", "mtct_sarr"]
    assert (first.name, second.name) == ("confusion-1", "confusion-2")
    assert sum(int(str(row[-1])) for row in first.rows) == 6 * 3 * 90
    assert {row[0] for row in first.rows} == {"painting"}
    assert any(row[4] is None for row in first.rows) and "painting,cls,label,boat,," in csv_of(first)


def test_of_several_classes_named_one_counts(make_run: Callable[..., FakeRun]) -> None:
    """The first that is right, else the first; an image counts under the class that was named, or under its first."""
    named = [["bowl", "cup"], ["boat", "bowl"], ["boat"], None]
    expected = [("cup", "cup"), ("cup", "boat"), ("cup", "boat"), ("cup", None)]

    def several(row: dict[str, Any]) -> dict[str, Any] | None:
        place = int(row["sample_id"][-7:-4])
        if row["answer"] == "likelihood" or place >= len(named):
            return None
        return {**row, "labels": ["cup", "saucer"], "predicted": named[place]}

    fake = make_run(methods=("cls",), seeds=(0,), targets=("sketch",))
    table, _ = confusions(rewritten(fake.folder, several))
    names = [*table.classes, None]
    found = Counter({(names[true], names[given]): count for true, given, count in table.cells.tolist()})
    assert found == Counter(expected)
    page = write_page(fake.folder).read_text()
    assert "bowl, cup" in page and "every image was answered with one class" not in page


def test_the_most_frequent_confusions_are_counted_over_targets_and_seeds(run: Run, group: Group) -> None:
    table = mixups_table(confusions(group), "cls", "label")
    answers = [p for p in said(run, "cls") if p.answer == "label"]
    wrong = Counter((p.labels[0], p.predicted or "no class") for p in answers if p.predicted != p.labels[0])
    assert table is not None and {row[:2]: int(row[2]) for row in table.rows} == dict(wrong.most_common(8))
    assert [int(row[2]) for row in table.rows] == sorted(wrong.values(), reverse=True)[:8]
    (true, _, count, total, share), *_ = table.rows
    assert int(total) == sum(p.labels[0] == true for p in answers) and share == f"{100 * int(count) / int(total):.1f}"
    assert mixups_table(confusions(group), "nothing", "label") is None


def test_calibration_and_both_ways_to_abstain(run: Run, group: Group) -> None:
    found = {entry.setup.name: entry for entry in confidences(group)}
    table = confidence_table(list(found.values()))
    assert table is not None
    row = next(row for row in table.rows if row[0] == "mtct")
    sure = [p for p in said(run, "mtct") if p.answer == "likelihood"]
    ece = expected_calibration_error([p.confidence or 0 for p in sure], [p.correct for p in sure])
    assert row[1:3] == ("180", f"{100 * ece:.1f}")
    # each unit apart, since the three seeds answered the same images
    pairs: Counter[tuple[bool, bool]] = Counter()
    for name in {r.unit for r in run.results if r.method == "mtct"}:
        predictions = run.units[name].predictions()
        paths = {a: {p.sample_id: p for p in predictions if p.answer == a} for a in ("label", "reasoning")}
        for sample_id, label in paths["label"].items():
            same = label.predicted is not None and label.predicted == paths["reasoning"][sample_id].predicted
            pairs[same, label.correct] += 1
    answered = pairs[True, True] + pairs[True, False]
    point = found["mtct"].agreement
    assert point is not None
    assert (point.coverage, point.risk) == (answered / 180, pytest.approx(pairs[True, False] / answered))
    assert row[5:7] == (f"{100 * point.coverage:.1f}", f"{100 * point.risk:.1f}")


def test_figures_of_confidence_hold_their_points(group: Group) -> None:
    found = confidences(group)
    reliability, abstention = reliability_figure(found), abstention_figure(found)
    assert reliability is not None and abstention is not None
    assert sum(int(str(row[2])) for row in reliability.rows) == 6 * 180
    points = [row for row in abstention.rows if row[1] == "paths agree"]
    assert len(points) == 6 and all("currentColor" in svg_of(plot) for plot in (reliability, abstention))


def rewritten(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> Group:
    """The group of the run in a folder, each line of its predictions changed, or left out."""
    for path in folder.glob("units/*/predictions.jsonl"):
        rows = (change(row) for row in read_json_lines(path))
        write_json_lines(path, [row for row in rows if row is not None])
    return groups(read_run(folder))[0]


def test_an_unreadable_image_leaves_the_others_their_calibration(make_run: Callable[..., FakeRun]) -> None:
    def without_one(row: dict[str, Any]) -> dict[str, Any]:
        if not row["sample_id"].endswith("000.png"):
            return row
        return {**row, "predicted": None, "outcome": "error", "text": "cannot be read", "probabilities": None}

    fake = make_run(methods=("cls",), seeds=(0,), targets=("sketch",))
    (entry,) = confidences(rewritten(fake.folder, without_one))
    sure = [p for p in said(read_run(fake.folder), "cls") if p.answer == "likelihood" and p.outcome == "ok"]
    assert entry.samples == 30 and entry.likelihood is not None and len(sure) == 29
    assert sorted(entry.likelihood[0].tolist()) == sorted(p.confidence or 0 for p in sure)
    table = confidence_table([entry])
    assert table is not None and "X" not in table.rows[0] and table.notes[-1].endswith("which have no confidence: 1.")
    lacking = rewritten(fake.folder, lambda row: {**row, "probabilities": None} if "001" in row["sample_id"] else row)
    assert confidences(lacking)[0].likelihood is None


def test_without_probabilities_only_agreement_is_left(make_run: Callable[..., FakeRun]) -> None:
    def two_images(row: dict[str, Any]) -> dict[str, Any] | None:
        """Both paths are right about the first image; the reasoning path names no class for the second."""
        place = int(row["sample_id"][-7:-4])
        if row["answer"] == "likelihood" or place > 1:
            return None
        return {**row, "predicted": None if place and row["answer"] == "reasoning" else row["labels"][0]}

    folder = make_run(methods=("cls",), seeds=(0,), targets=("sketch",)).folder
    (entry,) = confidences(rewritten(folder, two_images))
    assert entry.curve is None and entry.agreement is not None
    assert (entry.agreement.coverage, entry.agreement.risk) == (0.5, 0)
    assert reliability_figure([entry]) is None and abstention_figure([entry]) is not None
    table = confidence_table([entry])
    assert table is not None and table.rows[0][2:] == ("X", "X", "X", "50.0", "0.0", "X")
    assert confidences(rewritten(folder, lambda row: row if row["answer"] == "label" else None)) == ()
    assert confidence_table([]) is None and abstention_figure([]) is None
