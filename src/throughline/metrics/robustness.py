"""How far answers fall when images are corrupted: corruption error beside a baseline's, and relative robustness
(Hendrycks and Dietterich 2019, arXiv 1903.12261). The first axis is draws: what was observed, then a bootstrap. Called
by reporting."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from throughline.metrics.intervals import LEVEL

Numbers = NDArray[np.float64]


def bootstrap_columns(tables: Mapping[str, ArrayLike], rng: np.random.Generator, *, draws: int = 1000) -> Numbers:
    """`(1 + draws, columns)`: means over the images of each target's table `(images, columns)`, then over the targets;
    first as observed, then with each target's images drawn with replacement, the same ones for all columns."""
    means = []
    for table in (np.asarray(tables[target], dtype=np.float64) for target in sorted(tables)):
        images = len(table)
        drawn = rng.multinomial(images, np.full(images, 1 / images), size=draws)
        means.append(np.vstack([table.mean(axis=0), drawn @ table / images]))
    return np.asarray(np.mean(means, axis=0))


def corruption_error(errors: Numbers, baseline: Numbers) -> Numbers:
    """CE of one kind of corruption, `(draws,)`: the sum over severities of the shares of wrong answers `(draws,
    severities)` over that of the baseline. Of each one's errors beyond its own on clean images, the relative CE."""
    return _ratio(errors.sum(axis=1), baseline.sum(axis=1))


def relative_robustness(errors: Numbers, clean: Numbers) -> Numbers:
    """Accuracy, the mean over the severities of one kind, over that on clean images, `(draws,)`; the shares of wrong
    answers are `(draws, severities)` and `(draws, 1)`."""
    return _ratio(1 - errors.mean(axis=1), 1 - clean[:, 0])


def mean_over_kinds(values: Sequence[Numbers]) -> Numbers:
    """Mean over the kinds that have a number, `(draws,)`; of CE it is the mCE. NaN where no kind has one."""
    return np.asarray(np.mean([own for own in values if not np.isnan(own[0])] or values[:1], axis=0))


def _ratio(above: Numbers, below: Numbers) -> Numbers:
    """NaN in all draws where `below` is not surely above 0: a ratio to almost nothing says nothing. Otherwise draws
    whose `below` is 0 or less are divided by the smallest positive one."""
    sure = min(below[0], np.quantile(below, (1 - LEVEL) / 2)) > 0
    return above / np.maximum(below, below[below > 0].min()) if sure else np.full(len(below), np.nan)
