"""How methods depend on the number of training images and on the teacher, as tables and figures. Called by
`documents.py` and by `evidence.py docs`."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from certificate_block import NOT_MEASURED
from records import Dependence, DependenceRow, DependenceValue, read_record
from throughline.core.files import write_atomically
from throughline.core.plot import Panel, Plot, Series
from throughline.core.table import Table
from throughline.drawn import DRAWN_NOTE
from throughline.metrics.intervals import Interval
from throughline.reporting.drawing import svg_of
from throughline.reporting.text import to_markdown
from throughline.runs.order import ANSWER_ORDER, in_order

RECORD = "dependence.json"
HALVES = {"images": "training images per source domain", "mistakes": "teacher's mistakes about the deciding part, %"}
Numbers = tuple[str, str, float, float, float, float, float]
"""Answer path, method, place on the axis, value, points with both ends."""
CARD = '<svg width="760" style="color: #1f2328; background: white"'
"""A figure of its own has no page whose colours it could take: dark on white, whatever is around it."""


def dependence(evidence: Path) -> str:
    """A figure and a table for each half."""
    record = read_record(evidence / RECORD, Dependence)
    if record is None:
        return NOT_MEASURED
    parts = []
    for plot, half in zip(_plots(record), HALVES, strict=True):
        table = to_markdown(_table(record, half), with_title=False)
        parts += [f"![{plot.description}](images/{plot.name}.svg)", "", table]
    notes = (
        f"`{record.command}`: sketch and photo held out, three seeds. Accuracy in percent and paired differences in "
        "points, each with its 95 % interval over seeds and images, not corrected for the number of comparisons. "
        "Steps: optimiser steps from the base, rounds included, mean over targets and seeds. With a chain: share of "
        "the training images with an accepted chain, in the stage that saw most; in a round the model's own.",
        DRAWN_NOTE,
        record.environment.sentence(),
    )
    return "\n".join([*parts, "\n\n".join(notes), ""])


def write_plots(evidence: Path, folder: Path) -> None:
    """Each half's figure into `folder`, once there are numbers."""
    record = read_record(evidence / RECORD, Dependence)
    for plot in _plots(record) if record else ():
        write_atomically(folder / f"{plot.name}.svg", svg_of(plot).replace("<svg", CARD, 1))


def _table(record: Dependence, half: str) -> Table:
    values = [value for value in record.values if value.half == half]
    answers = _answers(values)
    measures = ("%", "minus cls", "minus mtct")
    columns = ("method", "steps", "with a chain, %", *(f"{answer}, {name}" for answer in answers for name in measures))
    rows = []
    for value in values:
        for method in dict.fromkeys(row.method for row in value.rows):
            ours = {row.answer: row for row in value.rows if row.method == method}
            common = ours[answers[0]]
            cells = (cell for answer in answers for cell in _cells(ours[answer]))
            rows.append((_shown(value), method, f"{common.steps:.0f}", f"{100 * common.with_chain:.0f}", *cells))
    return Table(half, (HALVES[half], *columns), tuple(rows))


def _cells(row: DependenceRow) -> tuple[str, ...]:
    """Accuracy, and the differences from `cls` and `mtct`."""
    return (_interval(row.accuracy), *(_interval(row.minus.get(other), "+") for other in ("cls", "mtct")))


def _interval(value: Interval | None, sign: str = "") -> str:
    return "" if value is None else "{:{s}.1f} ({:{s}.1f} to {:{s}.1f})".format(*_points(value), s=sign)


def _points(value: Interval) -> tuple[float, float, float]:
    """Mean and both ends, in hundredths."""
    return 100 * value.mean, 100 * value.low, 100 * value.high


def _shown(value: DependenceValue) -> str:
    """As it stands in a table and on an axis."""
    return f"{value.value if value.half == 'images' else 100 * value.value:g}"


def _answers(values: Sequence[DependenceValue]) -> tuple[str, ...]:
    return in_order((row.answer for value in values for row in value.rows), ANSWER_ORDER)


def _plots(record: Dependence) -> Iterator[Plot]:
    """The difference from `cls` against the value, a series for each method, a panel for each answer path."""
    for half, words in HALVES.items():
        values = [value for value in record.values if value.half == half]
        # images double from point to point
        places = [math.log2(value.value) if half == "images" else value.value for value in values]
        numbers = [
            (row.answer, row.method, place, value.value, *_points(row.minus["cls"]))
            for place, value in zip(places, values, strict=True)
            for row in value.rows
            if "cls" in row.minus
        ]
        ticks = [(place, _shown(value)) for place, value in zip(places, values, strict=True)]
        panels = (
            Panel(tuple(_series(numbers, answer, places)), title=f"{answer} path", x_ticks=ticks)
            for answer in _answers(values)
        )
        yield Plot(
            f"dependence-{half}",
            f"Difference from cls in points by {words}",
            tuple(panels),
            ("answer", "method", "place", half, "points", "low", "high"),
            tuple(numbers),
            across=2,
            x_label=words,
            y_label="points above cls",
            shared="y",
        )


def _series(numbers: Sequence[Numbers], answer: str, places: Sequence[float]) -> Iterator[Series]:
    """A line at nought, and each method's differences on one path, moved a little so that no whisker hides another."""
    ends = (min(places), max(places))
    yield Series("", ends, (0, 0), colour=None, dash=2, width=0.9)
    for number, method in enumerate(dict.fromkeys(row[1] for row in numbers)):
        ours = [row[2:] for row in numbers if row[:2] == (answer, method)]
        x, _, y, low, high = zip(*ours, strict=True)
        aside = (number - 0.5) * 0.015 * (ends[1] - ends[0])
        yield Series(
            method, [place + aside for place in x], y, colour=number, marker=number, dash=number, whiskers=(low, high)
        )
