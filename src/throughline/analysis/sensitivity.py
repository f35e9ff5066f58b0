"""How much a setting matters: accuracy with each of its values, and whether the difference is more than chance.

Runs are compared on the same targets, seeds and images, by the paired bootstrap of `metrics.paired`.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from throughline.analysis.folds import averaged
from throughline.analysis.paper import ROUNDS_NOTE, dataset_of
from throughline.analysis.records import Record
from throughline.analysis.section import Scope, Section
from throughline.core.table import Table, tabulate
from throughline.metrics.intervals import Interval, Runs, bootstrap_generator, hierarchical_bootstrap
from throughline.metrics.paired import paired_difference


class Setting(Record):
    """One value of what is varied: the accuracy with it, and its difference from the value named `against`."""

    value: str
    method: str
    answer: str
    units: int
    """Targets times seeds."""
    accuracy: Interval
    against: str | None
    points: Interval | None
    """Paired difference in points, over the same images."""
    p_value: float | None


class Sensitivity(Record):
    """How much a setting matters: rounds of one run, or the config keys in which several runs differ."""

    setting: str
    rows: tuple[Setting, ...]


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
    for value, runs in values.items():
        against = rows[-1 if against_previous else 0].value if rows else None
        gap = None
        if against is not None and comparable(runs, values[against]):
            gap = paired_difference(runs, values[against], bootstrap_generator())
        rows.append(
            Setting(
                value=value,
                method=method,
                answer=answer,
                units=len(runs),
                accuracy=hierarchical_bootstrap(runs, bootstrap_generator()),
                against=against,
                points=None if gap is None else gap.interval.scaled(100),
                p_value=None if gap is None else gap.p_value,
            )
        )
    return Sensitivity(setting=setting, rows=tuple(rows))


def comparable(first: Runs, second: Runs) -> bool:
    """Whether both have the same targets and seeds with as many images."""
    return set(first) == set(second) and all(np.shape(first[key]) == np.shape(second[key]) for key in first)


def section(measured: Sequence[Sensitivity], scope: Scope) -> Section:
    """A table for each setting."""
    return Section(
        "sensitivity",
        "The effect of settings",
        "Accuracy after each round of this run. `throughline analyze` with several runs adds the config keys in which "
        "they differ.",
        tuple(_table(varied, scope) for varied in measured if varied.rows),
    )


def summary(measured: Sequence[Sensitivity]) -> list[str]:
    """A line for each setting, method and answer path."""
    lines = []
    for varied in measured:
        values = ", ".join(f"{row.value}: {100 * row.accuracy.mean:.1f} %" for row in varied.rows)
        lines.append(f"{varied.setting}, {varied.rows[0].method}, {varied.rows[0].answer} path: {values}")
    return lines


def _table(varied: Sensitivity, scope: Scope) -> Table:
    first = varied.rows[0]
    published = varied.setting == "rounds" and dataset_of(scope.dataset) == "terraincognita"
    # of the run that is analysed, or of another that has more units on its targets
    several = max(row.units for row in varied.rows) // max(1, scope.targets) > 1
    return tabulate(
        f"{varied.setting}: {first.method}, {first.answer} path",
        varied.rows,
        {
            varied.setting: lambda row: row.value,
            "units": lambda row: str(row.units),
            "accuracy, %": lambda row: averaged([row.accuracy], 1, 100),
            "compared with": lambda row: row.against or "",
            "points": lambda row: averaged([row.points], sign="+") if row.points else "",
            "p": lambda row: f"{row.p_value:.3f}" if row.p_value is not None else "",
        },
        scope.notes(
            "Units: targets times seeds. Accuracy has a bootstrap interval over "
            f"{'seeds and images' if several else 'images only, one seed'}. Points: paired difference on the same "
            "images; p is not corrected.",
            *([ROUNDS_NOTE] if published else []),
        ),
    )
