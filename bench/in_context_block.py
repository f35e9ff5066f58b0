"""Labelled examples as tables: accuracy by number and kind of examples, and what the target's own are worth beside each
other kind. Called by `documents.py`."""

from collections.abc import Callable
from functools import partial
from math import isnan
from pathlib import Path

from certificate_block import NOT_MEASURED
from in_context import PATH, SETS, record_name
from throughline.core.table import Table
from throughline.metrics.intervals import bootstrap_generator
from throughline.metrics.paired import paired_difference
from throughline.reporting.estimates import same_samples
from throughline.reporting.groups import Group, groups
from throughline.reporting.shifts import DRAWS, Curve, Point, shot_curves
from throughline.reporting.tables import drawn_notes, share_cell
from throughline.reporting.text import to_markdown
from throughline.runs.reader import read_run

TARGET = "target"
"""The kind that the others stand beside."""


def in_context(name: str) -> Callable[[Path], str]:
    """The block of one image set."""

    def block(evidence: Path) -> str:
        folder = evidence / record_name(name)
        if not folder.is_dir():
            return NOT_MEASURED
        (group,) = groups(read_run(folder))
        return "\n".join(to_markdown(table, with_title=False) for table in _tables(group))

    return block


def _tables(group: Group) -> list[Table]:
    curves = shot_curves(group, PATH)
    shots = sorted({point.x for curve in curves for point in curve.points[1:]})
    heads = [f"{count:g}" for count in shots]
    (none,) = {share_cell(curve.points[0].accuracy) for curve in curves}
    own = {point.x: point for curve in curves if curve.name == TARGET for point in curve.points[1:]}
    accuracies = tuple(
        (curve.name, *(_cell(curve, count, lambda point: share_cell(point.accuracy)) for count in shots))
        for curve in curves
    )
    gaps = tuple(
        (curve.name, *(_cell(curve, count, partial(_gap, own[count])) for count in shots))
        for curve in curves
        if curve.name != TARGET
    )
    copied = tuple(
        (curve.name, *(_cell(curve, count, lambda point: f"{point.copied:.1f}") for count in shots))
        for curve in curves
        if not any(isnan(point.copied) for point in curve.points[1:])
    )
    images = group.final.query("split == 'all'").drop_duplicates("target")["n"].sum()
    notes = (
        "`python bench/evidence.py in-context`: accuracy in percent by label likelihood, by number and kind of "
        f"examples, over {len(group.targets)} domains and {images:,} images; without examples {none}. 95 % intervals "
        "over draws of examples and images.",
        *drawn_notes(group.drawn),
    )
    beside = "Points that the target's own examples are ahead of the other kind, on the same images, draw by draw."
    return [
        Table("accuracy", ("examples", *heads), accuracies, notes),
        Table("gaps", ("the target's own minus", *heads), gaps, (beside,)),
        Table("copied", ("a label copied from", *heads), copied, ("Percent that copying one of its labels scores.",)),
    ]


def _cell(curve: Curve, shots: float, shown: Callable[[Point], str]) -> str:
    return next((shown(point) for point in curve.points[1:] if point.x == shots), "")


def _gap(first: Point, second: Point) -> str:
    """First minus second; what is not drawn stands beside every draw of the other."""
    beside = {
        (target, run): second.right.get((target, run), second.right[target, run - run % DRAWS])
        for target, run in first.right
    }
    assert same_samples(first.right, beside)
    gap = paired_difference(first.right, beside, bootstrap_generator()).interval.scaled(100)
    return f"{gap.mean:+.1f} ({gap.low:+.1f} to {gap.high:+.1f})"


BLOCKS = {f"in-context-{name.replace('_', '-')}": in_context(name) for name in SETS}
