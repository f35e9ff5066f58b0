"""Are confidences calibrated: calibration error, likelihood, and what refusing doubtful answers buys.
Called by evaluation with the label likelihoods of each sample, and by reporting."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class RiskCoverage:
    """Error among the answers kept, when only the most confident are kept."""

    coverage: NDArray[np.float64]
    """`(samples,)`: k / samples for k = 1 … samples."""
    risk: NDArray[np.float64]
    """`(samples,)`: expected share of wrong answers among the k most confident."""

    @property
    def area(self) -> float:
        """AURC: the mean risk over all coverages; lower is better."""
        return float(self.risk.mean())

    def risk_at(self, coverage: float) -> float:
        """The risk when `coverage` of the samples, to the nearest sample and at least one, are answered."""
        count = len(self.risk)
        return float(self.risk[min(count, max(1, round(coverage * count))) - 1])


@dataclass(frozen=True)
class Reliability:
    """Bins of equal width over the confidence; a bin without samples has NaN for both means."""

    confidence: NDArray[np.float64]
    """`(bins,)`: mean confidence of the samples in each bin."""
    accuracy: NDArray[np.float64]
    """`(bins,)`: share of right answers among them."""
    counts: NDArray[np.int64]
    """`(bins,)`."""


@dataclass(frozen=True)
class Abstention:
    """What one rule of answering or not comes to. `risk` is NaN where nothing is answered."""

    coverage: float
    """Share of the samples that are answered."""
    risk: float
    """Share of wrong answers among those answered."""


def reliability(confidence: ArrayLike, correct: ArrayLike, bins: int = 10) -> Reliability:
    """The diagram's bins, (a, b] with 0 in the first, as in `expected_calibration_error`.

    `confidence` `(samples,)` in 0..1, `correct` `(samples,)`.
    """
    confidences, flags = _confidences(confidence, correct)
    number = _equal_width(confidences, bins)
    counts = np.bincount(number, minlength=bins)
    filled = np.where(counts > 0, counts, np.nan)
    return Reliability(
        confidence=np.bincount(number, weights=confidences, minlength=bins) / filled,
        accuracy=np.bincount(number, weights=flags, minlength=bins) / filled,
        counts=counts.astype(np.int64),
    )


def abstention(answered: ArrayLike, correct: ArrayLike) -> Abstention:
    """Coverage and risk of answering the samples of `answered` `(samples,)` only; `correct` `(samples,)`."""
    kept, flags = np.asarray(answered, dtype=bool), np.asarray(correct, dtype=bool)
    if kept.ndim != 1 or kept.shape != flags.shape or kept.size == 0:
        raise ValueError(f"expected two filled vectors of one length, got {kept.shape} and {flags.shape}")
    risk = float((~flags[kept]).mean()) if kept.any() else float("nan")
    return Abstention(coverage=float(kept.mean()), risk=risk)


def expected_calibration_error(confidence: ArrayLike, correct: ArrayLike, bins: int = 15) -> float:
    """ECE: mean gap between confidence and accuracy over bins, weighted by the samples in each.

    `confidence` `(samples,)` in 0..1, `correct` `(samples,)`. Equal-width bins are (a, b] with 0 in the first
    (Guo et al. 2017, 15 bins).
    """
    confidences, flags = _confidences(confidence, correct)
    if bins < 1:
        raise ValueError("at least one bin")
    gaps = np.bincount(_equal_width(confidences, bins), weights=confidences - flags, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidences))


def negative_log_likelihood(probabilities: ArrayLike, true: ArrayLike) -> float:
    """Mean -log p(true class) in nats; a probability of zero counts as the smallest positive float.

    `probabilities` `(samples, classes)`, `true` `(samples,)` class indices.
    """
    table, indices = _probabilities(probabilities, true)
    chosen = table[np.arange(len(indices)), indices]
    return float(-np.log(np.maximum(chosen, np.finfo(np.float64).tiny)).mean())


def risk_coverage_curve(confidence: ArrayLike, correct: ArrayLike) -> RiskCoverage:
    """The curve for `confidence` `(samples,)` and `correct` `(samples,)`.

    Samples of equal confidence cannot be told apart, so each of them carries their mean error: the curve does
    not depend on the order of the input.
    """
    confidences, flags = _confidences(confidence, correct)
    _, group, sizes = np.unique(-confidences, return_inverse=True, return_counts=True)
    group_error = np.bincount(group, weights=1.0 - flags) / sizes
    kept = np.arange(1, len(flags) + 1)
    return RiskCoverage(coverage=kept / len(flags), risk=np.cumsum(np.repeat(group_error, sizes)) / kept)


def _equal_width(confidences: NDArray[np.float64], bins: int) -> NDArray[np.int64]:
    """The bin of each confidence, bins (a, b] and 0 in the first."""
    number: NDArray[np.int64] = np.digitize(confidences, np.linspace(0.0, 1.0, bins + 1)[1:-1], right=True)
    return number


def _confidences(confidence: ArrayLike, correct: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    confidences = np.asarray(confidence, dtype=np.float64)
    flags = np.asarray(correct, dtype=bool).astype(np.float64)
    if confidences.ndim != 1 or confidences.shape != flags.shape or confidences.size == 0:
        raise ValueError(f"expected two filled vectors of one length, got {confidences.shape} and {flags.shape}")
    if not ((confidences >= 0) & (confidences <= 1)).all():
        raise ValueError("a confidence lies outside 0..1")
    return confidences, flags


def _probabilities(probabilities: ArrayLike, true: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    table, indices = np.asarray(probabilities, dtype=np.float64), np.asarray(true, dtype=np.int64)
    if table.ndim != 2 or indices.shape != (len(table),) or len(table) == 0:
        raise ValueError(f"expected (samples, classes) and (samples,), got {table.shape} and {indices.shape}")
    # float32 softmaxes sum to one within about 1e-6 per class
    if (table < 0).any() or not np.allclose(table.sum(axis=1), 1.0, atol=1e-3):
        raise ValueError("every row of probabilities has to be a distribution")
    if indices.min() < 0 or indices.max() >= table.shape[1]:
        raise ValueError(f"a true class lies outside 0..{table.shape[1] - 1}")
    return table, indices
