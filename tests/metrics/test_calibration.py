import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss

from throughline.metrics.calibration import (
    abstention,
    expected_calibration_error,
    negative_log_likelihood,
    reliability,
    risk_coverage_curve,
)

RNG = np.random.default_rng(1)
PROBABILITIES = RNG.dirichlet(np.ones(4), size=300)
TRUE = RNG.integers(4, size=300)


def test_the_likelihood_equals_scikit_learns() -> None:
    assert negative_log_likelihood(PROBABILITIES, TRUE) == pytest.approx(log_loss(TRUE, PROBABILITIES))


def test_a_probability_of_zero_gives_a_finite_loss() -> None:
    assert np.isfinite(negative_log_likelihood([[1.0, 0.0]], [1]))


def test_rows_that_are_no_distribution_are_refused() -> None:
    with pytest.raises(ValueError):
        negative_log_likelihood([[0.5, 0.2]], [0])


def naive_equal_width(confidence: NDArray[np.float64], correct: NDArray[np.bool_], bins: int) -> float:
    total = 0.0
    for b in range(bins):
        low, high = b / bins, (b + 1) / bins
        held = [i for i, c in enumerate(confidence) if low < c <= high or (b == 0 and c == 0)]
        if held:
            gap = np.mean([confidence[i] for i in held]) - np.mean([correct[i] for i in held])
            total += len(held) / len(confidence) * abs(gap)
    return float(total)


@pytest.mark.parametrize("bins", [1, 7, 15])
def test_equal_width_error_equals_the_bin_by_bin_loop(bins: int) -> None:
    confidence, correct = PROBABILITIES.max(axis=1), PROBABILITIES.argmax(axis=1) == TRUE
    found = expected_calibration_error(confidence, correct, bins)
    assert found == pytest.approx(naive_equal_width(confidence, correct, bins))


def test_a_calibrated_forecaster_has_almost_no_error_and_a_boaster_has_much() -> None:
    rng = np.random.default_rng(2)
    confidence = rng.uniform(size=200_000)
    correct = rng.uniform(size=200_000) < confidence
    assert expected_calibration_error(confidence, correct) < 0.01
    assert expected_calibration_error(np.ones(10), np.zeros(10)) == 1.0


def test_risk_at_full_coverage_is_the_error_rate_and_confident_right_answers_lower_it() -> None:
    correct = np.array([True, True, False, True])
    curve = risk_coverage_curve([0.9, 0.8, 0.1, 0.7], correct)
    assert curve.coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert curve.risk.tolist() == [0.0, 0.0, 0.0, 0.25]
    assert curve.area == 0.0625


def test_the_curve_does_not_depend_on_the_order_of_equal_confidences() -> None:
    confidence, correct = np.array([0.5, 0.5, 0.5, 0.9]), np.array([True, False, False, True])
    areas = {round(risk_coverage_curve(confidence[p], correct[p]).area, 12) for p in ([0, 1, 2, 3], [3, 2, 1, 0])}
    # expected over all orders of the three tied samples
    orders = [[3, *p] for p in ([0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0])]
    expected = np.mean([np.mean(np.cumsum(~correct[o]) / np.arange(1, 5)) for o in orders])
    assert areas == {round(float(expected), 12)}


def test_reliability_bins_are_scikit_learns_curve() -> None:
    rng = np.random.default_rng(5)
    confidence = rng.uniform(0.3, 1.0, 400)
    correct = rng.uniform(size=400) < confidence**2
    found = reliability(confidence, correct, bins=10)
    true, predicted = calibration_curve(correct, confidence, n_bins=10)
    filled = found.counts > 0
    assert found.counts.sum() == 400 and filled.sum() == len(true) == 7
    np.testing.assert_allclose(found.accuracy[filled], true)
    np.testing.assert_allclose(found.confidence[filled], predicted)
    assert np.isnan(found.accuracy[~filled]).all()


def test_reliability_bins_give_the_calibration_error() -> None:
    confidence, correct = np.array([0.1, 0.2, 0.95, 1.0, 0.0]), np.array([0, 1, 1, 0, 0], dtype=bool)
    found = reliability(confidence, correct, bins=10)
    assert found.counts.tolist() == [2, 1, 0, 0, 0, 0, 0, 0, 0, 2]
    gaps = np.abs(found.confidence - found.accuracy) * found.counts / 5
    assert np.nansum(gaps) == pytest.approx(expected_calibration_error(confidence, correct, bins=10))


def test_abstaining_by_a_rule_is_one_point_and_a_threshold_a_curve() -> None:
    found = abstention([True, True, False, True], [True, False, False, True])
    assert (found.coverage, found.risk) == (0.75, pytest.approx(1 / 3))
    nothing = abstention([False, False], [True, True])
    assert nothing.coverage == 0 and np.isnan(nothing.risk)
    with pytest.raises(ValueError, match="one length"):
        abstention([True], [True, False])
    curve = risk_coverage_curve([0.9, 0.8, 0.7, 0.6], [True, False, True, False])
    assert [curve.risk_at(share) for share in (0.0, 0.25, 0.5, 0.75, 1.0)] == [0, 0, 0.5, pytest.approx(1 / 3), 0.5]
