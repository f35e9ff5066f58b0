"""A figure and the numbers it shows: inline SVG for a page, and SVG, PNG and CSV as files. Drawn without a display, the
same bytes for the same numbers; text takes the page's own colour, so that one figure serves light and dark. Called by
the modules that draw figures and by those that write pages."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from throughline.core.files import write_atomically

# Okabe and Ito's colours, told apart with every common colour blindness, without black and yellow (lost on a dark
# or a light page); marker and dash differ as well, so that no reading hangs on colour.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C8C8C", "#A65628")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", ":", "-.")
HATCHES = ("", "///", "...", "xxx", "\\\\\\", "+++", "ooo", "---")
# A colour nobody would choose: replaced by `currentColor` in the finished SVG.
INK = "#010203"
PNG_DPI = 144
_SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10.0,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "text.parse_math": False,  # names come from folders and files: a dollar sign in one is a dollar sign
}


@dataclass(frozen=True)
class Plot:
    """A drawn figure; `name` is that of its files, `rows` under `columns` are the numbers in it."""

    name: str
    description: str
    figure: Figure
    columns: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]
    box: str | None = None
    """What savefig is told of the paper's size: `tight`, or None for a figure that fills its paper."""

    def svg(self) -> str:
        """An `<svg>` element: no date, no generator's name, ids of its own, text in `currentColor`."""
        buffer = io.StringIO()
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        with house_style(), matplotlib.rc_context({"svg.hashsalt": self.name}):
            self.figure.savefig(buffer, format="svg", bbox_inches=self.box, transparent=True, metadata=metadata)
        text = buffer.getvalue()
        text = text[text.index("<svg") :]
        text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
        text = text.replace(INK, "currentColor")
        text = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{self.name}-", text)
        text = re.sub(r' (?:width|height)="[\d.]+pt"', "", text, count=2)
        label = f'role="img" aria-label="{escape(self.description)}"'
        return _trimmed(text.replace("<svg", f"<svg {label}", 1).splitlines())

    def png(self) -> bytes:
        """On white, for slides and papers."""
        buffer = io.BytesIO()
        with house_style():
            self.figure.savefig(
                buffer,
                format="png",
                dpi=PNG_DPI,
                bbox_inches=self.box,
                facecolor="white",
                metadata={"Software": None},
            )
        return buffer.getvalue()

    def csv(self) -> str:
        """A line of names, then the numbers; an empty cell where there is none."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(["" if cell is None else _cell(cell) for cell in row] for row in self.rows)
        return buffer.getvalue()


def house_style() -> AbstractContextManager[None]:
    """The settings that every figure is made and saved under."""
    style: AbstractContextManager[None] = matplotlib.rc_context(_SETTINGS)
    return style


def write_figures(folder: Path, plots: Sequence[Plot]) -> dict[str, str]:
    """Writes NAME.svg, NAME.png and NAME.csv of every figure, removes those of figures that are no more, and gives the
    SVG of each by name."""
    for old in sorted(folder.glob("*.csv")):
        trio = [old.with_suffix(ending) for ending in (".svg", ".png", ".csv")]
        # all three or none: what somebody put beside our files stays
        if old.stem not in {plot.name for plot in plots} and all(path.is_file() for path in trio):
            for path in trio:
                path.unlink()
    drawn = {}
    for plot in map(laid_out, plots):
        drawn[plot.name] = plot.svg()
        write_atomically(folder / f"{plot.name}.svg", drawn[plot.name], durable=False)
        write_atomically(folder / f"{plot.name}.png", plot.png(), durable=False)
        write_atomically(folder / f"{plot.name}.csv", plot.csv(), durable=False)
    return drawn


def laid_out(plot: Plot) -> Plot:
    """The same with its layout settled: every saving would find it again, and draw twice to do so."""
    if plot.figure.get_layout_engine() is None:
        return replace(plot, box="tight")
    with house_style():
        plot.figure.draw_without_rendering()
        plot.figure.set_layout_engine(None)
    return replace(plot, box=None)


def panels(count: int, height: float, columns: int = 3, **shared: Any) -> tuple[Figure, list[Any]]:
    """A figure of `count` panels, each `height` inches high, in rows of `columns` at most."""
    across = min(columns, count)
    down = -(-count // across)
    figure = Figure(figsize=(7.5, height * down + 0.5), layout="constrained")
    found = list(np.atleast_1d(figure.subplots(down, across, squeeze=False, **shared)).ravel())
    for axes in found[count:]:
        axes.set_visible(False)
    for axes in found[max(0, count - across) : count]:
        axes.tick_params(labelbottom=True)  # shared axes are named at the very bottom only, and there may be no panel
    return figure, found[:count]


def legend_above(figure: Figure, axes: Iterable[Any], columns: int | None = None) -> None:
    """One legend for all panels, above them, each name once."""
    found: dict[str, Any] = {}
    for one in axes:
        found.update(dict(zip(*one.get_legend_handles_labels()[::-1], strict=True)))
    figure.legend(found.values(), found.keys(), loc="outside upper center", ncols=columns or max(1, len(found)))


def _cell(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _trimmed(lines: Iterable[str]) -> str:
    return "\n".join(line.rstrip() for line in lines) + "\n"
