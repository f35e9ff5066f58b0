"""Curves of an out-of-distribution evaluation: accuracy over the severity of a view, and over the number of labelled
examples. Called by `page`; the levels are those of `ood.factors`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from throughline.core.nested import flattened, settings_below
from throughline.core.plot import Panel, Plot, Series
from throughline.core.table import Table
from throughline.metrics.intervals import Interval, bootstrap_generator, hierarchical_bootstrap
from throughline.metrics.paired import PairedDifference, paired_difference
from throughline.ood.factors import EXAMPLES, VIEW, examples_of_level
from throughline.reporting.groups import Group, Right
from throughline.reporting.tables import bracketed, drawn_notes, share_cell
from throughline.runs.records import COPIED

DRAWS = 1000
"""More than examples are ever drawn: tells the draws of one seed from those of the next."""


@dataclass(frozen=True)
class Point:
    """Answers at one place of a curve. The draws of examples stand for further seeds."""

    x: float
    right: Right
    copied: float = np.nan
    """In percent, what copying the label of one of the examples would give."""

    @property
    def accuracy(self) -> Interval:
        """The mean over targets with its 95 % interval over draws, seeds and images."""
        return hierarchical_bootstrap(self.right, bootstrap_generator())

    def minus(self, other: "Point") -> PairedDifference:
        """The difference on the same images; what has no draws stands beside each of them."""
        theirs = {(target, run): other.right[target, run - run % DRAWS] for target, run in self.right}
        return paired_difference(self.right, theirs, bootstrap_generator())


@dataclass(frozen=True)
class Curve:
    """Points in the order of x, the first without any shift; `name` is what is varied, `about` method and other
    levels."""

    about: str
    name: str
    points: tuple[Point, ...]


def severity_curves(group: Group, answer: str) -> list[Curve]:
    """A curve for each kind of view, from the images as they are."""
    return list(_curves(group, answer, VIEW, lambda level, view: (view["kind"], float(view["severity"]), 0)))


def shot_curves(group: Group, answer: str) -> list[Curve]:
    """A curve for each kind of examples, from none."""

    def place(level: str, examples: Mapping[str, Any]) -> tuple[str, float, int]:
        kind, draw = examples_of_level(level)
        return kind, examples["shots"], draw

    return list(_curves(group, answer, EXAMPLES, place))


def curve_table(group: Group, answer: str, curves: Sequence[Curve], heads: tuple[str, str]) -> Table | None:
    """One row for each point but the first, with what it is worth against that; None without curves."""
    if not curves:
        return None
    several = len({curve.about for curve in curves}) > 1
    with_copying = any(not np.isnan(point.copied) for curve in curves for point in curve.points)
    rows = []
    for curve in curves:
        first, *others = curve.points
        for point in others:
            name = (curve.about, curve.name) if several else (curve.name,)
            copying = ("–" if np.isnan(point.copied) else f"{point.copied:.1f}",) if with_copying else ()
            shares = (share_cell(own.accuracy) for own in (point, first))
            rows.append((*name, f"{point.x:g}", *shares, *copying, bracketed(point.minus(first))))
    columns = (*("method",) * several, *heads, "accuracy", "without", *("labels copied",) * with_copying, "difference")
    notes = (
        "Accuracy in percent, the mean over the domains; 95 % intervals over images, seeds and draws of examples, the "
        "difference on the same images.",
        *(("Labels copied: the expected accuracy of repeating the label of any example shown.",) * with_copying),
        *drawn_notes(group.drawn),
    )
    return Table(f"{group.title} · {answer} path · {heads[0]}", columns, tuple(rows), notes)


def curve_figure(group: Group, answer: str, curves: Sequence[Curve], name: str, x_label: str) -> Plot | None:
    """A panel for each kind, a line for each method and further levels; None without curves."""
    if not curves:
        return None
    abouts = list(dict.fromkeys(curve.about for curve in curves))
    panels, rows = [], []
    for kind in dict.fromkeys(curve.name for curve in curves):
        series = []
        for curve in (curve for curve in curves if curve.name == kind):
            number, xs = abouts.index(curve.about), [point.x for point in curve.points]
            found = [point.accuracy.scaled(100) for point in curve.points]
            whiskers = [own.low for own in found], [own.high for own in found]
            series.append(
                Series(curve.about, xs, [own.mean for own in found], colour=number, marker=number, whiskers=whiskers)
            )
            if number == 0 and not np.isnan(copied := [point.copied for point in curve.points]).all():
                series.append(Series("labels copied", xs, copied, colour=None, marker=1, dash=1))
            rows += [
                (kind, curve.about, x, *(round(value, 2) for value in (own.mean, own.low, own.high)))
                for x, own in zip(xs, found, strict=True)
            ]
        panels.append(Panel(tuple(series), title=kind, y_limits=(0, 100)))
    return Plot(
        name,
        f"Accuracy on the {answer} path over {x_label}, with 95 % intervals",
        tuple(panels),
        ("kind", "method", x_label, "accuracy, %", "low", "high"),
        tuple(rows),
        x_label=x_label,
        y_label="accuracy, %",
        shared="y",
    )


def _curves(
    group: Group, answer: str, factor: str, place: Callable[[str, Mapping[str, Any]], tuple[str, float, int]]
) -> Iterator[Curve]:
    """From the level that sets nothing over those that set `evaluation.<factor>` alone; `place` gives the curve, the x
    and the number of the draw of a level by its name and what it sets there. A point has the targets and seeds of the
    first, too; those that lack a target are left out."""
    levels = group.run.config.get("factors", {}).get(factor, {})
    first: dict[str, Right] = {}
    found: dict[tuple[str, str], dict[float, Right]] = {}
    copied: dict[tuple[str, str, float], list[float]] = {}
    expected = group.final[group.final["answer"] == answer].groupby("setup")[COPIED].mean()
    for setup in group.setups.values():
        level, right = setup.levels.get(factor), group.right(setup.name, answer)
        if str(level) not in levels or not right:
            continue
        keys, about = flattened(levels[str(level)]), setup.without(factor).name
        own = settings_below(keys, f"evaluation.{factor}")
        if len(own) < len(keys):
            continue  # it sets something else, too
        kind, x, draw = place(str(level), own) if own else ("", 0, 0)
        runs = {(target, seed * DRAWS + draw): row for (target, seed), row in right.items()}
        if not own:
            first[about] = runs
            continue
        points = found.setdefault((about, kind), {})
        points[x] = {**points.get(x, {}), **runs}
        copied.setdefault((about, kind, x), []).append(100 * expected[setup.name])
    for (about, kind), points in found.items():
        begin, whole = first.get(about, {}), []
        for x in sorted(points):
            shared = {run: row for run, row in points[x].items() if (run[0], run[1] - run[1] % DRAWS) in begin}
            if {target for target, _ in shared} == set(group.targets):
                whole.append(Point(x, shared, float(np.mean(copied[about, kind, x]))))
        if whole:
            yield Curve(about, kind, (Point(0, begin), *whole))
