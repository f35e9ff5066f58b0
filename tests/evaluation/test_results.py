"""Results lines by hand: who is counted, what is wrong, what agrees."""

import math
from dataclasses import asdict

import pytest
from tests.evaluation.questions import CLASSES, predicted

from throughline.evaluation.results import results_lines
from throughline.runs.records import ResultsLine
from throughline.runs.unit import Unit

LABEL = [
    predicted("a", "cat", "cat"),
    predicted("b", "cat", "dog"),
    predicted("c", "dog", None),
    predicted("d", "dog", None, outcome="error"),
    predicted("e", "cup", "cup"),
]
CHAIN = [
    predicted("a", "cat", "cat", "reasoning"),
    predicted("b", "cat", "cat", "reasoning"),
    predicted("c", "dog", None, "reasoning", outcome="truncated"),
    predicted("d", "dog", None, "reasoning", outcome="error"),
    predicted("e", "cup", "cup", "reasoning"),
]
LIKELIHOOD = [
    predicted("a", "cat", "cat", "likelihood", probabilities=(0.5, 0.25, 0.25)),
    predicted("b", "cat", "dog", "likelihood", probabilities=(0.25, 0.25, 0.5)),
    predicted("d", "dog", None, "likelihood", outcome="error"),
]
SPLITS = {"in": {"a", "c", "d"}, "out": {"b", "e"}, "all": None}
UNIT = Unit("fold", "d", ("sketch",), "cls", "m", 0, {"severity": 3})


def line(answer: str, split: str) -> ResultsLine:
    seconds = {"label": 1.23456, "reasoning": 2.0, "likelihood": 3.0}
    lines = results_lines(LABEL + CHAIN + LIKELIHOOD, CLASSES, SPLITS, UNIT, seconds)
    assert len(lines) == 9
    (found,) = [row for row in lines if (row.answer, row.split) == (answer, split)]
    return found


@pytest.mark.parametrize(
    ("answer", "split", "n", "correct", "unparsed", "errors"),
    [
        ("label", "all", 5, 2, 1, 1),
        ("label", "in", 3, 1, 1, 1),
        ("label", "out", 2, 1, 0, 0),
        ("reasoning", "all", 5, 3, 1, 1),
        ("likelihood", "all", 3, 1, 0, 1),
    ],
)
def test_every_planned_sample_counts_and_what_has_no_class_is_wrong(
    answer: str, split: str, n: int, correct: int, unparsed: int, errors: int
) -> None:
    found = line(answer, split)
    assert (found.n, found.correct, found.unparsed, found.errors) == (n, correct, unparsed, errors)
    assert found.accuracy == correct / n


def test_a_line_has_the_fields_of_the_contract() -> None:
    assert asdict(line("label", "all")) == {
        "schema": 1,
        "unit": UNIT.name,
        "dataset": "d",
        "model": "m",
        "targets": ("sketch",),
        "method": "cls",
        "seed": 0,
        "round": None,
        "answer": "label",
        "split": "all",
        "factors": {"severity": 3},
        "n": 5,
        "correct": 2,
        "accuracy": 0.4,
        "metrics": {},
        "unparsed": 1,
        "errors": 1,
        "seconds": 1.235,
    }


def test_agreement_is_with_the_label_path_and_needs_a_class() -> None:
    assert line("reasoning", "all").metrics == {"agrees_with_label": 2 / 5}  # a and e; c names nothing twice
    assert line("reasoning", "in").metrics == {"agrees_with_label": 1 / 3}


def test_calibration_is_of_those_with_probabilities() -> None:
    metrics = line("likelihood", "all").metrics
    assert metrics["nll"] == pytest.approx((math.log(2) + math.log(4)) / 2, abs=1e-6)
    assert metrics["ece"] == pytest.approx(0)  # half sure and half right
    assert line("likelihood", "out").metrics["ece"] == pytest.approx(0.5)


def test_a_split_without_samples_is_told_as_such() -> None:
    (found,) = results_lines([predicted("a", "cat", "cat")], CLASSES, {"out": set()}, UNIT, {})
    assert (found.n, found.correct, found.accuracy, found.seconds) == (0, 0, 0.0, 0.0)
