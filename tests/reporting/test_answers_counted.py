"""Confusion, calibration and abstention, counted again by hand from the predictions."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from throughline.metrics.calibration import expected_calibration_error
from throughline.reporting.answers import UnitAnswers, read_answers
from throughline.reporting.confidence import abstention_figure, confidence_table, confidences, reliability_figure
from throughline.reporting.confusion import confusion_data, confusion_figures, confusions
from throughline.reporting.runs import Prediction, Run, read_run
from throughline.reporting.summaries import groups

if TYPE_CHECKING:
    from conftest import FakeRun


@pytest.fixture(scope="module")
def run(fake_run: FakeRun) -> Run:
    return read_run(fake_run.folder)


@pytest.fixture(scope="module")
def units(run: Run) -> tuple[UnitAnswers, ...]:
    return read_answers(run, groups(run.results)[0])


def said(run: Run, method: str, target: str | None = None) -> list[Prediction]:
    names = {r.unit for r in run.results if r.method == method and target in {None, r.target}}
    return [prediction for name in sorted(names) for prediction in run.units[name].predictions()]


def test_every_unit_is_read_once_with_all_paths(units: tuple[UnitAnswers, ...]) -> None:
    assert len(units) == 2 * 6 * 3
    assert all(list(unit.predicted) == ["label", "reasoning", "likelihood"] for unit in units)
    assert all(unit.confidence is not None and (unit.confidence >= 0.5).all() for unit in units)


def test_confusion_is_scikit_learns_with_a_column_for_no_class(run: Run, units: tuple[UnitAnswers, ...]) -> None:
    tables = confusions(units)
    assert len(tables) == 2 * 6 * 3
    one = next(t for t in tables if (t.target, t.method, t.answer) == ("sketch", "cls", "label"))
    answers = [p for p in said(run, "cls", "sketch") if p.answer == "label"]
    names = [*one.classes, "none"]
    expected = confusion_matrix([p.labels[0] for p in answers], [p.predicted or "none" for p in answers], labels=names)
    np.testing.assert_array_equal(one.counts, expected[:-1])
    assert one.counts[:, -1].sum() > 0


def test_what_the_script_gets_and_what_the_files_get_add_up(units: tuple[UnitAnswers, ...]) -> None:
    tables = confusions(units)
    data = confusion_data(tables)
    for table, found in zip(tables, data["tables"], strict=True):
        cells = np.array(found["cells"]).reshape(-1, 3)
        assert cells[:, 2].sum() == table.counts.sum() == 90
        assert all(table.counts[true, given] == count for true, given, count in cells)
    first, second = confusion_figures(tables)
    assert (first.name, second.name) == ("confusion-1", "confusion-2")
    assert sum(int(str(row[-1])) for row in first.rows) == 6 * 3 * 90
    assert {row[0] for row in first.rows} == {"painting"}
    assert any(row[4] is None for row in first.rows) and "painting,cls,label,boat,," in first.csv()


def test_calibration_and_both_ways_to_abstain(run: Run, units: tuple[UnitAnswers, ...]) -> None:
    found = {one.method: one for one in confidences(units)}
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


def test_figures_of_confidence_hold_their_points(units: tuple[UnitAnswers, ...]) -> None:
    found = confidences(units)
    reliability, abstention = reliability_figure(found), abstention_figure(found)
    assert reliability is not None and abstention is not None
    assert sum(int(str(row[2])) for row in reliability.rows) == 6 * 180
    points = [row for row in abstention.rows if row[1] == "paths agree"]
    assert len(points) == 6 and all("currentColor" in plot.svg() for plot in (reliability, abstention))


def test_without_probabilities_only_agreement_is_left() -> None:
    unit = UnitAnswers("cls", "sketch", 0, (("a",), ("b",)), {"label": ("a", "a"), "reasoning": ("a", None)}, None)
    (one,) = confidences([unit])
    assert one.curve is None and one.agreement is not None and (one.agreement.coverage, one.agreement.risk) == (0.5, 0)
    assert reliability_figure([one]) is None and abstention_figure([one]) is not None
    table = confidence_table([one])
    assert table is not None and table.rows[0][2:] == ("X", "X", "X", "50.0", "0.0", "X")
    assert confidences([UnitAnswers("cls", "sketch", 0, (("a",),), {"label": ("a",)}, None)]) == ()
    assert confidence_table([]) is None and abstention_figure([]) is None
