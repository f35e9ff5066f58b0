"""What is said of a group's setups: means with their intervals, and paired differences, out of the predictions.

Called by everything in this room that shows results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from throughline.metrics.intervals import (
    Interval,
    MeanError,
    bootstrap_generator,
    hierarchical_bootstrap,
    mean_and_error,
)
from throughline.metrics.paired import PairedDifference, holm, paired_difference
from throughline.reporting.groups import Group, Right, Setup
from throughline.runs.order import ordered

MEASURES = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "macro_f1": "Macro-F1",
    "macro_auc": "Macro-AUC",
}
"""Columns of the results that a table may be of, and what they are called."""

Pair = TypeVar("Pair", bound=tuple[str, str])


@dataclass(frozen=True)
class Summary:
    """One setup's row. All shares in 0..1."""

    setup: Setup
    cells: Mapping[str, MeanError]
    """For each target mean and standard error over seeds; a target without results has no entry."""
    average: MeanError | None
    """Over seeds, of each seed's mean over all targets; None when a target is missing."""
    interval: Interval | None
    """Hierarchical bootstrap of the average over images and seeds, where the predictions are there."""
    n: int
    unparsed: int
    errors: int


@dataclass(frozen=True)
class Comparison:
    """A setup minus a baseline on the units that both have, with Holm's correction over the pairs compared."""

    setup: Setup
    baseline: Setup
    units: int
    paired: PairedDifference
    adjusted_p: float


def summarise(group: Group, split: str, answer: str, measure: str = "accuracy") -> dict[str, Summary]:
    """By setup, for those that have any result in this split and answer path; `measure` is a key of MEASURES.

    Predictions are the target's `all` split, so there are intervals for that split only, and of accuracy only.
    """
    return _summarised(group, split, answer, measure)


@lru_cache(maxsize=256)  # a page asks for the same several times
def _summarised(group: Group, split: str, answer: str, measure: str) -> dict[str, Summary]:
    with_interval = split == "all" and measure == "accuracy"
    rows = group.final[(group.final["split"] == split) & (group.final["answer"] == answer)].dropna(subset=[measure])
    targets = group.targets
    summaries = {}
    for name, ours in ordered(rows, setup=group.setups).groupby("setup", observed=True):
        cells = {str(target): mean_and_error(list(values)) for target, values in ours.groupby("target")[measure]}
        whole = set(cells) == set(targets)
        summaries[name] = Summary(
            setup=group.setups[name],
            cells=cells,
            average=_average(ours, cells, measure) if whole else None,
            interval=_interval(group.right(name, answer), targets) if whole and with_interval else None,
            **{count: int(ours[count].sum()) for count in ("n", "unparsed", "errors")},
        )
    return summaries


def averages(group: Group, split: str, measure: str) -> pd.Series[float]:
    """Avg of a measure by setup and answer path, the mean over targets of the mean over seeds; NaN where a target has
    none."""
    rows = group.final[group.final["split"] == split]
    by_target = rows.groupby(["setup", "answer", "target"])[measure].mean().unstack()
    return by_target.reindex(columns=group.targets).mean(axis=1, skipna=False)


def compare(group: Group, answer: str, pairs: Iterable[tuple[str, str]]) -> tuple[Comparison, ...]:
    """Every (setup, baseline) on the (target, seed) units and samples that both answered."""
    rights: dict[tuple[str, str], tuple[Right, Right]] = {}
    for name, baseline in pairs:
        ours, theirs = group.right(name, answer), group.right(baseline, answer)
        shared = {key: ours[key] for key in ours if key in theirs and ours[key].index.equals(theirs[key].index)}
        if name != baseline:
            rights[name, baseline] = shared, theirs
    return tuple(
        Comparison(group.setups[name], group.setups[baseline], len(rights[name, baseline][0]), *difference)
        for (name, baseline), difference in differences(rights).items()
    )


def against_baseline(group: Group, answer: str, baseline: str | None = None) -> tuple[Comparison, ...]:
    """Every setup minus the baseline (a method; None: see `Group.baseline`) on an answer path; Holm over them all."""
    reference = group.baseline(answer, baseline)
    if reference is None:
        return ()
    return compare(group, answer, [(name, reference) for name in group.final_setups(answer)])


def ahead_of_all(group: Group, answer: str, rows: Mapping[str, Summary]) -> str | None:
    """The setup whose difference from every other of the `rows` is above 0, by its interval and by p after Holm over
    these pairs (below 0.05); None where no setup is that."""
    means = {name: row.average.mean for name, row in rows.items() if row.average}
    if not means:
        return None
    best = max(means, key=means.__getitem__)
    compared = compare(group, answer, [(best, name) for name in rows if name != best])
    ahead = [row for row in compared if row.paired.interval.low > 0 and row.adjusted_p < 0.05]
    return best if ahead and len(ahead) == len(rows) - 1 else None


def differences(rights: Mapping[Pair, tuple[Right, Right]]) -> dict[Pair, tuple[PairedDifference, float]]:
    """By pair the first minus the second, over all of the first, which the second has on the same samples, and p after
    Holm's correction over them all. Left out where the first is empty, or the seeds of a target answered other
    samples."""
    paired = {
        pair: paired_difference(ours, {key: theirs[key] for key in ours}, bootstrap_generator())
        for pair, (ours, theirs) in rights.items()
        if ours and _aligned(ours)
    }
    adjusted = holm([difference.p_value for difference in paired.values()])
    return {pair: (paired[pair], p_value) for pair, p_value in zip(paired, adjusted, strict=True)}


def same_samples(ours: Right, theirs: Right) -> bool:
    """Whether both are of the same targets, seeds and samples."""
    return ours.keys() == theirs.keys() and all(ours[key].index.equals(theirs[key].index) for key in ours)


def drawn_over(seeds: int) -> str:
    """What a bootstrap interval of so many seeds speaks of."""
    return "seeds and images" if seeds > 1 else "images only, one seed"


def _average(rows: pd.DataFrame, cells: Mapping[str, MeanError], measure: str) -> MeanError:
    """As DomainBed's averages table: the spread over seeds of each seed's mean over targets.

    Where a seed lacks a target but every target has some seed, the mean of the cells stands without a spread.
    """
    last = dict(zip(zip(rows["seed"], rows["target"], strict=True), rows[measure], strict=True))
    by_seed = np.array([[last.get((seed, name), np.nan) for name in cells] for seed in sorted(set(rows["seed"]))])
    if not np.isnan(by_seed).any():
        return mean_and_error(list(map(float, by_seed.mean(axis=1))))
    return MeanError(mean=float(np.mean([cell.mean for cell in cells.values()])), error=0.0, count=1)


def _interval(right: Right, targets: tuple[str, ...]) -> Interval | None:
    if {target for target, _ in right} != set(targets) or not _aligned(right):
        return None
    first = right[min(right)]
    if all(own.index.equals(first.index) for own in right.values()):  # descriptions are the same for every target
        right = {key: own for key, own in right.items() if key[0] == targets[0]}
    return hierarchical_bootstrap(right, bootstrap_generator())


def _aligned(right: Right) -> bool:
    """Whether all seeds of each target answered the same samples."""
    first: dict[str, pd.Index[Any]] = {}
    return all(first.setdefault(key[0], right[key].index).equals(right[key].index) for key in right)
