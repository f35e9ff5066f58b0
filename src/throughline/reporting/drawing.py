"""Figures drawn by matplotlib from `core.plot`: inline SVG for a page, and SVG, PNG and CSV as files.

Drawn without a display, the same bytes for the same numbers. Text takes the page's own colour, so that one figure
serves light and dark. Called by the modules that write pages."""

import io
import re
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, MaxNLocator

from throughline.core.files import write_atomically
from throughline.core.plot import Panel, Plot, Series

# Okabe and Ito's colours, told apart with every common colour blindness, without black and yellow (lost on a dark
# or a light page); marker and dash differ as well, so that no reading hangs on colour.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C8C8C", "#A65628")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", ":", "-.")
HEAT = (0x00 / 255, 0x72 / 255, 0xB2 / 255)
PNG_DPI = 144
_STYLE = matplotlib.rc_params_from_file(Path(__file__).with_name("figures.mplstyle"), use_default_template=False)
INK = _STYLE["text.color"]
"""A colour nobody would choose: replaced by `currentColor` in the finished SVG."""


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
    for plot in plots:
        figure = drawn_figure(plot)
        drawn[plot.name] = _svg(plot, figure)
        write_atomically(folder / f"{plot.name}.svg", drawn[plot.name], durable=False)
        write_atomically(folder / f"{plot.name}.png", _png(figure), durable=False)
        write_atomically(folder / f"{plot.name}.csv", csv_of(plot), durable=False)
    return drawn


def svg_of(plot: Plot) -> str:
    """An `<svg>` element: no date, no generator's name, ids of its own, text in `currentColor`."""
    return _svg(plot, drawn_figure(plot))


def csv_of(plot: Plot) -> str:
    """A line of names, then the numbers; an empty cell where there is none."""
    frame = pd.DataFrame(plot.rows, columns=list(plot.columns))
    text: str = frame.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    return text


def drawn_figure(plot: Plot) -> Figure:
    """The figure with its layout settled: every saving would find it again, and draw twice to do so."""
    count, across = len(plot.panels), min(plot.across, len(plot.panels))
    down = -(-count // across)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(7.5, plot.height * down + 0.5), layout="constrained")
        axes_grid = figure.subplots(down, across, squeeze=False, sharex="x" in plot.shared, sharey="y" in plot.shared)
        places = list(axes_grid.ravel())
        for axes in places[count:]:
            axes.set_visible(False)
        for axes, panel in zip(places, plot.panels, strict=False):
            _draw_panel(axes, panel, plot.legend)
        for axes in places[max(0, count - across) : count]:
            axes.tick_params(labelbottom=True)  # shared axes are named at the very bottom, where a panel may be missing
        figure.supxlabel(plot.x_label)
        figure.supylabel(plot.y_label)
        if plot.legend == "above":
            _legend_above(figure, places[:count])
        layout = figure.get_layout_engine()
        assert layout is not None
        layout.execute(figure)
        figure.set_layout_engine(None)
    return figure


def _draw_panel(axes: Any, panel: Panel, legend: str) -> None:
    for series in panel.series:
        _DRAW.get(series.kind, _draw_line)(axes, series)
    if panel.heat is not None:
        shares = np.asarray(panel.heat, dtype=np.float64)
        colours = np.broadcast_to(np.array(HEAT), (*shares.shape, 3))
        axes.imshow(np.concatenate([colours, shares[..., None]], axis=-1), interpolation="nearest", aspect="auto")
    for ruler in panel.rulers:
        axes.axvline(ruler, color=INK, linewidth=0.9, linestyle=":", alpha=0.8)
    for x, y, words in panel.texts:
        axes.annotate(words, (x, y), xytext=(6, 0), textcoords="offset points", va="center", fontsize=7)
    axes.set(title=panel.title, xlabel=panel.x_label, ylabel=panel.y_label)
    if panel.logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(LogFormatter())
        axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.4)))
    if panel.downwards and panel.heat is None:
        axes.invert_yaxis()
    if panel.x_limits is not None:
        axes.set_xlim(*panel.x_limits)
    if panel.y_limits is not None:
        axes.set_ylim(*panel.y_limits)
    _set_ticks(axes, panel)
    if legend != "above":
        _own_legend(axes, legend)


def _set_ticks(axes: Any, panel: Panel) -> None:
    small = {"fontsize": 8} if panel.heat is not None else {}
    if panel.x_ticks is not None:
        places, names = [place for place, _ in panel.x_ticks], [name for _, name in panel.x_ticks]
        axes.set_xticks(places, names, **(small | {"rotation": 90} if small else {}))
    elif panel.x_label.startswith("round"):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if panel.y_ticks is not None:
        axes.set_yticks([place for place, _ in panel.y_ticks], [name for _, name in panel.y_ticks], **small)


def _look(series: Series) -> dict[str, Any]:
    colour = INK if series.colour is None else COLOURS[series.colour % len(COLOURS)]
    return {"color": colour, "alpha": series.alpha, "label": series.name or None}


def _draw_line(axes: Any, series: Series) -> None:
    look: dict[str, Any] = {**_look(series), "linestyle": DASHES[series.dash % len(DASHES)], "linewidth": series.width}
    if series.kind == "points":
        look |= {"linestyle": "none", "markersize": 8}
    if series.kind == "ticks":
        look |= {"linestyle": "none", "marker": "|", "markersize": 13, "markeredgewidth": 2}
    elif series.marker is not None:
        look |= {"marker": MARKERS[series.marker % len(MARKERS)], "markevery": series.every}
        look.setdefault("markersize", 5)
    if series.whiskers is None:
        axes.plot(series.x, series.y, **look)
    else:
        axes.errorbar(series.x, series.y, yerr=_lengths(series.y, series.whiskers), capsize=2, **look)


def _draw_bars(axes: Any, series: Series) -> None:
    axes.bar(series.x, series.y, width=series.width, **_look(series))


def _draw_dots(axes: Any, series: Series) -> None:
    lengths = None if series.whiskers is None else _lengths(series.x, series.whiskers)
    marker = MARKERS[(series.marker or 0) % len(MARKERS)]
    axes.errorbar(series.x, series.y, xerr=lengths, fmt=marker, markersize=5, capsize=2, **_look(series))


def _draw_histogram(axes: Any, series: Series) -> None:
    axes.stairs(series.y, series.x, fill=series.kind == "area", linewidth=series.width, **_look(series))


_DRAW = {
    "bars": _draw_bars,
    "dots": _draw_dots,
    "area": _draw_histogram,
    "steps": _draw_histogram,
}


def _lengths(middles: Sequence[float], ends: tuple[Sequence[float], Sequence[float]]) -> np.ndarray:
    """Of both whiskers of each point, `(2, points)`."""
    low, high = ends
    return np.array([np.subtract(middles, low), np.subtract(high, middles)]).clip(0)


def _own_legend(axes: Any, legend: str) -> None:
    if not axes.get_legend_handles_labels()[0]:
        axes.text(0.5, 0.5, "no data", ha="center", transform=axes.transAxes)
    elif legend == "below":
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), fontsize=8)
    else:
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8)


def _legend_above(figure: Figure, places: Iterable[Any]) -> None:
    """One legend for all panels, each name once; about ninety letters fit beside each other."""
    entries: dict[str, Any] = {}
    for axes in places:
        handles, names = axes.get_legend_handles_labels()
        entries.update(zip(names, handles, strict=True))
    if entries:
        columns = max(1, min(len(entries), 90 // (6 + max(map(len, entries)))))
        figure.legend(entries.values(), entries.keys(), loc="outside upper center", ncols=columns)


def _svg(plot: Plot, figure: Figure) -> str:
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.hashsalt": plot.name}):
        text = _saved(figure, format="svg", transparent=True, metadata=metadata).decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = text.replace(INK, "currentColor")
    text = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{plot.name}-", text)
    text = re.sub(r' (?:width|height)="[\d.]+pt"', "", text, count=2)
    text = text.replace("<svg", f'<svg role="img" aria-label="{escape(plot.description)}"', 1)
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


def _png(figure: Figure) -> bytes:
    """On white, for slides and papers."""
    return _saved(figure, format="png", dpi=PNG_DPI, facecolor="white", metadata={"Software": None})


def _saved(figure: Figure, **options: Any) -> bytes:
    buffer = io.BytesIO()
    with matplotlib.rc_context(_STYLE):
        figure.savefig(buffer, **options)
    return buffer.getvalue()
