"""Is one method better than another on the same targets, seeds and images? A paired bootstrap, McNemar's
exact test, a paired t test over (target, seed), and Holm's correction for several comparisons. Called by
evaluation and reporting."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from throughline.metrics.intervals import (
    Runs,
    SeedResampling,
    bootstrap_means,
    mean_over_targets,
    percentile_interval,
)


@dataclass(frozen=True)
class PairedDifference:
    """First minus second, in the unit of the values, with its bootstrap interval and two-sided p-value."""

    difference: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True)
class McNemar:
    """The samples on which two methods part, and the exact two-sided p-value."""

    only_first: int
    only_second: int
    p_value: float


@dataclass(frozen=True)
class PairedT:
    """Mean difference over pairs of runs; statistic and p-value are NaN where no test is possible."""

    difference: float
    statistic: float
    p_value: float
    pairs: int


def paired_difference(
    first: Runs,
    second: Runs,
    rng: np.random.Generator,
    *,
    draws: int = 2000,
    level: float = 0.95,
    seeds: SeedResampling = "within_target",
    resample_targets: bool = False,
) -> PairedDifference:
    """The hierarchical bootstrap on the sample-wise differences of two methods.

    Both have the same targets, seeds and samples: `first` and `second` hold one vector `(samples,)` per
    (target, seed), with the same keys and lengths (else ValueError). The p-value is twice the smaller tail of
    the resampled differences at zero, with one added to count and draws, so it is never 0 and it is below 1 -
    level about when the interval leaves zero out.
    """
    if set(first) != set(second):
        raise ValueError("the two methods have different targets or seeds")
    differences: dict[tuple[str, int], ArrayLike] = {}
    for key in first:
        one, other = np.asarray(first[key], dtype=np.float64), np.asarray(second[key], dtype=np.float64)
        if one.shape != other.shape:
            raise ValueError(f"the samples of {key} are not aligned: {one.shape} and {other.shape}")
        differences[key] = one - other
    means = bootstrap_means(differences, rng, draws=draws, seeds=seeds, resample_targets=resample_targets)
    interval = percentile_interval(means, mean_over_targets(differences), level)
    # resampled means of a difference of zero may miss it by a rounding
    near_zero = 1e-12
    tail = min(int((means <= near_zero).sum()), int((means >= -near_zero).sum()))
    return PairedDifference(interval.mean, interval.low, interval.high, min(1.0, 2 * (tail + 1) / (draws + 1)))


def mcnemar_exact(first: ArrayLike, second: ArrayLike) -> McNemar:
    """McNemar's exact test on `first` and `second`, `(samples,)` of right (true) or wrong on the same
    samples.

    Only for one target and one seed: pooled over seeds, the same image would count as several independent
    ones.
    """
    one, other = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if one.ndim != 1 or one.shape != other.shape:
        raise ValueError(f"expected two vectors of one length, got {one.shape} and {other.shape}")
    only_first, only_second = int((one & ~other).sum()), int((~one & other).sum())
    parted = only_first + only_second
    p_value = float(stats.binomtest(only_first, parted, 0.5).pvalue) if parted else 1.0
    return McNemar(only_first, only_second, p_value)


def paired_t(first: Mapping[tuple[str, int], float], second: Mapping[tuple[str, int], float]) -> PairedT:
    """Paired t test over (target, seed) of two methods' accuracies; unlike keys are a ValueError.

    Seeds of one target share their images and targets differ in difficulty, so the pairs are not quite
    independent: read it beside the bootstrap. One pair, or pairs that all differ by the same amount, allow no
    test.
    """
    if set(first) != set(second) or not first:
        raise ValueError("the two methods have different targets or seeds, or none")
    keys = sorted(first)
    ours, theirs = np.array([first[key] for key in keys]), np.array([second[key] for key in keys])
    differences = ours - theirs
    statistic = p_value = math.nan
    # accuracies are ratios of small integers: differences closer than this are the same difference
    if len(keys) > 1 and np.ptp(differences) > 1e-12:
        result = stats.ttest_rel(ours, theirs)
        statistic, p_value = float(result.statistic), float(result.pvalue)
    return PairedT(float(differences.mean()), statistic, p_value, len(keys))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment (Holm 1979): compared with α, they bound the family-wise error by α."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted
