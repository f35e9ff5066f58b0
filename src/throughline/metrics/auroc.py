"""How well scores tell two kinds of things apart: the area under the ROC curve, with intervals over groups of things
that belong together, such as the chains about one image."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from throughline.metrics.intervals import Interval, percentile_interval


def weighted_auroc(positive: ArrayLike, score: ArrayLike, weights: ArrayLike) -> NDArray[np.float64]:
    """`(draws,)`: the probability that a positive has a higher score than a negative, ties half; NaN for a draw of one
    kind only. `positive` and `score` `(n,)`; `weights` `(draws, n)` say how often each counts."""
    order = np.argsort(score, kind="stable")
    ranked, flags, counts = np.asarray(score)[order], np.asarray(positive, bool)[order], np.asarray(weights)[:, order]
    starts = np.flatnonzero(np.append(True, ranked[1:] != ranked[:-1]))  # of equal scores
    ours, others = (np.add.reduceat(counts * kind, starts, axis=1) for kind in (flags, ~flags))
    below = others.cumsum(axis=1) - others / 2
    with np.errstate(invalid="ignore"):
        return np.asarray((ours * below).sum(axis=1) / (ours.sum(axis=1) * others.sum(axis=1)))


def auroc_intervals(
    positive: ArrayLike, scores: Mapping[str, ArrayLike], groups: ArrayLike, baseline: str, rng: np.random.Generator
) -> dict[str, tuple[Interval, Interval]]:
    """Of each score its AUROC, and how much that is above the baseline's. The same groups `(n,)`, drawn with
    replacement a thousand times, stand behind all. Empty where all things are of one kind."""
    _, member = np.unique(np.asarray(groups), return_inverse=True)
    count = int(member.max()) + 1
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=1000)[:, member]
    weights = np.concatenate([np.ones((1, len(member)), np.int64), drawn])  # first all as they are
    areas = {name: weighted_auroc(positive, score, weights) for name, score in scores.items()}
    both = ~np.isnan(areas[baseline])
    if not both[0]:
        return {}
    return {name: (_interval(own[both]), _interval((own - areas[baseline])[both])) for name, own in areas.items()}


def _interval(values: NDArray[np.float64]) -> Interval:
    """Of a value and its draws."""
    return percentile_interval(values[1:], float(values[0]))
