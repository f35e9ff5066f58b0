"""A figure as data: made where its numbers are known, drawn by `reporting.drawing`. Free of matplotlib.

Colours, markers and dashes are numbers here, places in the palettes of `reporting.drawing`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["line", "points", "bars", "dots", "area", "steps", "ticks"]
"""`area` and `steps` are a histogram, filled or as an outline: `x` has its edges. `ticks` are upright strokes; the
whiskers of `dots` lie along the horizontal axis."""


@dataclass(frozen=True)
class Series:
    """Numbers that are drawn alike; `name` stands in the legend, none where it is empty."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    kind: Kind = "line"
    colour: int | None = 0
    """None is the ink of the page."""
    marker: int | None = None
    dash: int = 0
    whiskers: tuple[Sequence[float], Sequence[float]] | None = None
    """Lower and upper ends, along the axis of the measure."""
    width: float = 1.3
    """Of a line in points, of a bar in units of its axis."""
    every: int = 1
    """A marker at every so many points."""
    alpha: float = 1.0


@dataclass(frozen=True)
class Panel:
    """One pair of axes. Limits of None are left to the data."""

    series: tuple[Series, ...] = ()
    title: str = ""
    x_label: str = ""
    y_label: str = ""
    x_limits: tuple[float | None, float | None] | None = None
    y_limits: tuple[float | None, float | None] | None = None
    x_ticks: Sequence[tuple[float, str]] | None = None
    y_ticks: Sequence[tuple[float, str]] | None = None
    logarithmic: bool = False
    """The upright axis."""
    downwards: bool = False
    """The upright axis begins at the top, as rows of a table do."""
    rulers: Sequence[float] = ()
    """Where dotted upright lines stand."""
    texts: Sequence[tuple[float, float, str]] = ()
    """Words beside a place."""
    heat: Sequence[Sequence[float]] | None = None
    """Shares, row by row, drawn as a map in place of series."""


@dataclass(frozen=True)
class Plot:
    """A figure; `name` is that of its files, `rows` under `columns` are the numbers in it."""

    name: str
    description: str
    panels: tuple[Panel, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]
    height: float = 2.2
    """Of a panel, in inches."""
    across: int = 3
    """Panels beside each other, at most."""
    x_label: str = ""
    y_label: str = ""
    """Of the whole figure."""
    shared: Literal["", "x", "y", "xy"] = ""
    """Axes that all panels have in common."""
    legend: Literal["above", "below", "beside"] = "above"
    """`above` is one for all panels; `below` and `beside` are each panel's own."""
