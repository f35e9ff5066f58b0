"""Results lines by hand: who is counted, what is wrong, what agrees."""

import math
from dataclasses import asdict, replace

import numpy as np
import pytest
from sklearn.metrics import f1_score, recall_score, roc_auc_score
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
        # recalls 1/2, 0, 1 and F1 2/3, 0, 1 of cat, dog, cup
        "metrics": {"balanced_accuracy": 0.5, "macro_f1": pytest.approx(5 / 9)},
        "unparsed": 1,
        "errors": 1,
        "seconds": 1.235,
    }


def test_agreement_is_with_the_label_path_and_needs_a_class() -> None:
    assert line("reasoning", "all").metrics["agrees_with_label"] == 2 / 5  # a and e; c names nothing twice
    assert line("reasoning", "in").metrics["agrees_with_label"] == 1 / 3


def test_calibration_is_of_those_with_probabilities() -> None:
    metrics = line("likelihood", "all").metrics
    assert metrics["nll"] == pytest.approx((math.log(2) + math.log(4)) / 2, abs=1e-6)
    assert metrics["ece"] == pytest.approx(0)  # half sure and half right
    assert line("likelihood", "out").metrics["ece"] == pytest.approx(0.5)


def test_a_split_without_samples_has_no_accuracy() -> None:
    lines = results_lines([predicted("a", "cat", "cat")], CLASSES, {"out": set(), "all": None}, UNIT, {})
    assert [(found.split, found.n) for found in lines] == [("all", 1)]


@pytest.mark.parametrize("seed", range(4))
def test_samples_with_several_labels_are_right_as_sets_and_measured_class_by_class(seed: int) -> None:
    rng = np.random.default_rng(seed)
    true, given = (rng.uniform(size=(2, 40, len(CLASSES))) < 0.4).tolist()
    true[0] = [True] * len(CLASSES)
    sets = [
        [tuple(c for c, shown in zip(CLASSES, row, strict=True) if shown) for row in side] for side in (true, given)
    ]
    answers = [
        replace(predicted(str(n), "cat", "cat"), labels=labels, predicted=said or None)
        for n, (labels, said) in enumerate(zip(*sets, strict=True))
    ]
    (found,) = results_lines(answers, CLASSES, {"all": None}, UNIT, {})
    assert found.correct == sum(labels == said and said != () for labels, said in zip(*sets, strict=True))
    options = {"average": "macro", "zero_division": 0}
    assert found.metrics["macro_f1"] == pytest.approx(f1_score(true, given, **options))
    assert found.metrics["balanced_accuracy"] == pytest.approx(recall_score(true, given, **options))
    assert "macro_auc" not in found.metrics  # nobody was asked for a likelihood
    scores = rng.dirichlet(np.ones(len(CLASSES)), size=len(answers))
    likely = [
        replace(said, answer="likelihood", predicted=CLASSES[row.index(max(row))], probabilities=tuple(row))
        for said, row in zip(answers, scores.tolist(), strict=True)
    ]
    (found,) = results_lines(likely, CLASSES, {"all": None}, UNIT, {})
    assert found.metrics["macro_auc"] == pytest.approx(roc_auc_score(np.array(true), scores, average="macro"))
    of_one = [replace(said, labels=("cat",)) for said in likely]
    (found,) = results_lines(of_one, CLASSES, {"all": None}, UNIT, {})
    assert "macro_auc" not in found.metrics


@pytest.mark.parametrize("seed", range(8))
def test_measures_that_count_classes_equal_scikit_learns_scores_and_a_count_by_hand(seed: int) -> None:
    """A long tail; some classes absent, some answers missing or of a class that is never true; first one class."""
    rng = np.random.default_rng(seed)
    share = rng.dirichlet(np.full(1 + seed, 0.4))
    true = rng.choice(len(share), size=60, p=share)
    given = np.where(rng.uniform(size=60) < 0.6, true, rng.integers(-1, len(share) + 2, size=60))
    answers = [
        predicted(str(n), str(t), None if g < 0 else str(g)) for n, (t, g) in enumerate(zip(true, given, strict=True))
    ]
    (found,) = results_lines(answers, [str(n) for n in range(10)], {"all": None}, UNIT, {})
    shown = np.unique(true)
    right = np.array([((true == c) & (given == c)).sum() for c in shown])
    size, named = (np.array([(side == c).sum() for c in shown]) for side in (true, given))
    by_hand = {"balanced_accuracy": np.mean(right / size), "macro_f1": np.mean(2 * right / (size + named))}
    scores = {"balanced_accuracy": recall_score, "macro_f1": f1_score}
    options = {"labels": shown, "average": "macro", "zero_division": 0}
    assert found.metrics == pytest.approx(by_hand)
    assert found.metrics == pytest.approx({name: score(true, given, **options) for name, score in scores.items()})


def test_no_class_at_all_in_the_answers_is_nothing_right() -> None:
    (found,) = results_lines([LABEL[2], LABEL[3]], CLASSES, {"all": None}, UNIT, {})
    assert found.metrics == {"balanced_accuracy": 0, "macro_f1": 0}
