"""Is one method better than another on the same targets, seeds and images? A paired bootstrap, and Holm's correction
for several comparisons. Called by analysis and reporting."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from throughline.metrics.intervals import Interval, Runs, bootstrap_means, mean_over_targets, percentile_interval


@dataclass(frozen=True)
class PairedDifference:
    """First minus second, in the unit of the values, as a mean with its bootstrap interval, and two-sided p-value."""

    interval: Interval
    p_value: float


def paired_difference(first: Runs, second: Runs, rng: np.random.Generator, *, draws: int = 2000) -> PairedDifference:
    """The hierarchical bootstrap on the sample-wise differences of two methods.

    Both have the same targets, seeds and samples: `first` and `second` hold one vector `(samples,)` per
    (target, seed), with the same keys and lengths (else ValueError). The p-value is twice the smaller tail of
    the resampled differences at zero, with one added to count and draws, so it is never 0 and it is below 1 -
    LEVEL about when the interval leaves zero out.
    """
    if set(first) != set(second):
        raise ValueError("the two methods have different targets or seeds")
    differences: dict[tuple[str, int], ArrayLike] = {}
    for key in first:
        one, other = np.asarray(first[key], dtype=np.float64), np.asarray(second[key], dtype=np.float64)
        if one.shape != other.shape:
            raise ValueError(f"the samples of {key} are not aligned: {one.shape} and {other.shape}")
        differences[key] = one - other
    means = bootstrap_means(differences, rng, draws=draws)
    interval = percentile_interval(means, mean_over_targets(differences))
    # resampled means of a difference of zero may miss it by a rounding
    near_zero = 1e-12
    tail = min(int((means <= near_zero).sum()), int((means >= -near_zero).sum()))
    return PairedDifference(interval, min(1.0, 2 * (tail + 1) / (draws + 1)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment (Holm 1979): compared with α, they bound the family-wise error by α."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted
