"""AUROC with weights, ties and draws, against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from throughline.metrics.auroc import auroc_intervals, weighted_auroc


def test_it_is_scikit_learns_with_ties_and_weights() -> None:
    rng = np.random.default_rng(0)
    positive, score = rng.random(60) < 0.4, rng.integers(0, 9, 60).astype(float)
    weights = rng.integers(0, 4, (5, 60))
    expected = [roc_auc_score(positive, score, sample_weight=row) for row in weights]
    assert weighted_auroc(positive, score, weights) == pytest.approx(expected, abs=1e-12)


def test_a_draw_of_one_kind_is_not_a_number() -> None:
    assert np.isnan(weighted_auroc([True, True, False], [1, 2, 3], [[1, 1, 0]])).all()
    assert auroc_intervals([True, True], {"a": [1, 2]}, ["x", "y"], "a", np.random.default_rng(0)) == {}


def test_a_score_that_tells_more_is_ahead_of_one_that_tells_nothing() -> None:
    rng = np.random.default_rng(1)
    positive = rng.random(400) < 0.5
    scores = {"noise": rng.random(400), "signal": positive + rng.normal(0, 1, 400)}
    found = auroc_intervals(positive, scores, np.arange(400), "noise", rng)
    (area, gain), (_, nothing) = found["signal"], found["noise"]
    assert area.mean == pytest.approx(roc_auc_score(positive, scores["signal"]))
    assert area.low < area.mean < area.high and gain.low > 0.1
    assert nothing.mean == nothing.low == nothing.high == 0


def test_what_belongs_together_is_drawn_together() -> None:
    """Each thing ten times over says no more than once."""
    rng = np.random.default_rng(2)
    positive, score = rng.random(30) < 0.5, rng.random(30)
    groups = np.repeat(np.arange(30), 10)
    once, _ = auroc_intervals(positive, {"a": score}, np.arange(30), "a", np.random.default_rng(3))["a"]
    tenfold = {"a": np.repeat(score, 10)}
    often, _ = auroc_intervals(np.repeat(positive, 10), tenfold, groups, "a", np.random.default_rng(3))["a"]
    assert (often.mean, often.low, often.high) == pytest.approx((once.mean, once.low, once.high))
