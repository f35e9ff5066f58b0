"""How sure a number is: Wilson's interval for one share, mean and standard error over runs, and a
hierarchical bootstrap that knows that the same images were answered by every seed. Called by evaluation,
reporting and `paired`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

LEVEL = 0.95
"""Of every interval."""
NORMAL = float(special.ndtri((1 + LEVEL) / 2))
"""Half the width of such an interval of a normal distribution, in standard deviations."""

Runs = Mapping[tuple[str, int], ArrayLike]
"""One vector `(samples,)` per (target, seed); a target's vectors are aligned by sample over its seeds."""


@dataclass(frozen=True)
class Interval:
    """A mean with the ends of its interval, all in the unit of the values."""

    mean: float
    low: float
    high: float

    def scaled(self, factor: float) -> Interval:
        """In a unit that is 1/`factor` of this one."""
        return Interval(mean=factor * self.mean, low=factor * self.low, high=factor * self.high)


@dataclass(frozen=True)
class MeanError:
    """A mean over runs with its standard error, and the number of runs."""

    mean: float
    error: float
    count: int


def bootstrap_generator() -> np.random.Generator:
    """The draws behind every interval and comparison that is shown: one contrast has one p, wherever it stands."""
    return np.random.default_rng(0)


def wilson_interval(correct: float, n: int) -> Interval:
    """Wilson's score interval of a share (Wilson 1927); behaves at 0 and at n, unlike the normal interval. `correct`
    may be a mean over seeds that answered the same `n` images, so no whole number, as scipy's own wants it."""
    if not 0 <= correct <= n or n == 0:
        raise ValueError(f"{correct} of {n} is no share")
    square = NORMAL**2
    half = math.sqrt(square * (square + 4 * correct * (1 - correct / n)))
    low, high = ((2 * correct + square + side) / (2 * (n + square)) for side in (-half, half))
    return Interval(low=max(low, 0.0), high=min(high, 1.0), mean=correct / n)


def mean_and_error(values: Sequence[float]) -> MeanError:
    """Mean and standard error as DomainBed prints them: numpy's std (ddof 0) over sqrt(runs).

    Source: facebookresearch/DomainBed, domainbed/scripts/collect_results.py, `format_mean`. With few runs
    this is smaller than the unbiased error, by sqrt(1 - 1/runs), and 0 for one run; it is kept so that tables
    compare.
    """
    if not values:
        raise ValueError("mean of no runs")
    return MeanError(
        mean=float(np.mean(values)), error=float(np.std(values) / math.sqrt(len(values))), count=len(values)
    )


def hierarchical_bootstrap(correct: Runs, rng: np.random.Generator, *, draws: int = 2000) -> Interval:
    """Percentile interval of the mean over targets of the mean over seeds.

    `correct` holds one vector `(samples,)` per (target, seed), aligned by sample within a target. Each draw
    takes a target's seeds with replacement and its images with replacement; one draw of images serves all
    seeds of the target, since the same images stand behind every seed. The targets are fixed.
    With the few seeds that runs have (three, say) the seeds' share of the interval comes out too small, by
    about 1 - 1/seeds in variance, and with one seed it is absent: the interval is then about images only.
    """
    means = bootstrap_means(correct, rng, draws=draws)
    return percentile_interval(means, mean_over_targets(correct))


def percentile_interval(means: NDArray[np.float64], mean: float) -> Interval:
    """The central `LEVEL` of bootstrap means `(draws,)` around the observed mean."""
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(low=float(low), high=float(high), mean=mean)


def mean_over_targets(values: Runs) -> float:
    """Mean over targets of the mean over that target's seeds: the Avg column."""
    return float(np.mean([table.mean() for table in tables_by_target(values).values()]))


def bootstrap_means(values: Runs, rng: np.random.Generator, *, draws: int = 2000) -> NDArray[np.float64]:
    """`(draws,)` resampled means over targets of `values`, whose entries may be any few distinct numbers; each target's
    seeds are drawn on their own."""
    resampled = []
    for table in tables_by_target(values).values():
        chosen = rng.integers(len(table), size=(draws, len(table)))
        resampled.append(_resampled_means(table, chosen, draws, rng))
    means: NDArray[np.float64] = np.mean(resampled, axis=0)
    return means


def tables_by_target(values: Runs) -> dict[str, NDArray[np.float64]]:
    """`(seeds, samples)` per target, targets and seeds sorted; vectors of unlike length are a ValueError."""
    if not values:
        raise ValueError("no runs")
    tables = {}
    for target in sorted({name for name, _ in values}):
        rows = [np.asarray(values[key], dtype=np.float64) for key in sorted(values) if key[0] == target]
        if any(row.ndim != 1 or row.size == 0 or row.shape != rows[0].shape for row in rows):
            raise ValueError(f"the seeds of target {target} are not aligned by sample: {[r.shape for r in rows]}")
        tables[target] = np.stack(rows)
    return tables


def clustered_interval(sums: ArrayLike, counts: ArrayLike, rng: np.random.Generator, *, draws: int = 1000) -> Interval:
    """Percentile interval of `sum(sums) / sum(counts)` over images drawn with replacement.

    `sums`, `counts` `(images,)`: what an image's tokens add up to, and how many they are. The tokens of one image are
    not independent, so whole images are drawn.
    """
    total, weight = np.asarray(sums, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    if total.shape != weight.shape or total.ndim != 1 or not weight.sum() > 0:
        raise ValueError(f"sums {total.shape} and counts {weight.shape} of no images")
    drawn = rng.multinomial(len(total), np.full(len(total), 1 / len(total)), size=draws)  # (draws, images)
    below = drawn @ weight
    means = (drawn @ total)[below > 0] / below[below > 0]
    return percentile_interval(means, float(total.sum() / weight.sum()))


def _resampled_means(
    table: NDArray[np.float64], chosen: NDArray[np.int64], draws: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Bootstrap means `(draws,)` of one target's `(seeds, samples)`; `chosen` `(draws, seeds)`: drawn seeds.

    Samples with equal columns are interchangeable, so drawing samples with replacement is drawing how many
    fall on each distinct column: one multinomial over at most 2^seeds (or 3^seeds) columns in place of an
    index per sample.
    """
    columns, counts = np.unique(table, axis=1, return_counts=True)
    samples = table.shape[1]
    drawn = rng.multinomial(samples, counts / samples, size=draws)  # (draws, columns)
    per_seed = drawn @ columns.T / samples  # (draws, seeds)
    means: NDArray[np.float64] = np.take_along_axis(per_seed, chosen, axis=1).mean(axis=1)
    return means
