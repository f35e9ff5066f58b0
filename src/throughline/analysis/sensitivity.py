"""How much a setting matters: accuracy with each of its values, and whether the difference is more than chance.

Runs are compared on the same targets, seeds and images, by the paired bootstrap of `metrics.paired`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from throughline.analysis.records import Estimate, Sensitivity, Setting
from throughline.metrics.intervals import Runs, bootstrap_generator, hierarchical_bootstrap
from throughline.metrics.paired import paired_difference


def sensitivity(
    setting: str, method: str, answer: str, values: Mapping[str, Runs], *, against_previous: bool
) -> Sensitivity | None:
    """`values` gives for each value of the setting the right answers `(images,)` by (target, seed).

    Each is set against the value before it, or against the first. Where targets, seeds or images differ there is no
    comparison. None for fewer than two values.
    """
    if len(values) < 2:
        return None
    rows: list[Setting] = []
    names = list(values)
    for number, name in enumerate(names):
        other = None if number == 0 else names[number - 1 if against_previous else 0]
        rows.append(_setting(name, method, answer, values[name], other, None if other is None else values[other]))
    return Sensitivity(setting=setting, rows=tuple(rows))


def _setting(value: str, method: str, answer: str, runs: Runs, against: str | None, other: Runs | None) -> Setting:
    found = hierarchical_bootstrap(runs, bootstrap_generator())
    points, p_value = None, None
    if other is not None and comparable(runs, other):
        gap = paired_difference(runs, other, bootstrap_generator())
        points = Estimate(mean=100 * gap.difference, low=100 * gap.low, high=100 * gap.high)
        p_value = gap.p_value
    return Setting(
        value=value,
        method=method,
        answer=answer,
        units=len(runs),
        accuracy=Estimate(mean=found.mean, low=found.low, high=found.high),
        against=against,
        points=points,
        p_value=p_value,
    )


def comparable(first: Runs, second: Runs) -> bool:
    """Whether both have the same targets and seeds with as many images."""
    return set(first) == set(second) and all(np.shape(first[key]) == np.shape(second[key]) for key in first)
