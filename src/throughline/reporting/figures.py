"""Figures as SVG text: rounds, loss curves, accuracy with intervals. Drawn without a display, the same bytes
for the same numbers; text takes the page's own colour, so that one figure serves light and dark. Called by
`page` and by the commands that renew the documents' figures."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from throughline.reporting.runs import LossPoint, Run
from throughline.reporting.summaries import METHOD_ORDER, Group, MethodSummary, in_order

# Okabe and Ito's colours, told apart with every common colour blindness, without black and yellow (lost on a
# dark
# or a light page); marker and dash differ as well, so that no reading hangs on colour.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C8C8C", "#A65628")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_DASHES = ("-", "--", ":")
_LOSS_STYLES = {"label": (_COLOURS[0], "-"), "chain": (_COLOURS[1], "--"), "loss": (_COLOURS[6], "-")}
# A colour nobody would choose: replaced by `currentColor` in the finished SVG.
_INK = "#010203"
_SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10.0,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


def accuracy_figure(summaries: Mapping[str, Sequence[MethodSummary]]) -> str | None:
    """Horizontal bars of Avg per method, one bar per answer path in `summaries`; whiskers are the 95 %
    interval, or the standard error where there is none. None when no method has an Avg."""
    rows = {
        answer: {row.method: row for row in found if row.average is not None} for answer, found in summaries.items()
    }
    methods = in_order((method for found in rows.values() for method in found), METHOD_ORDER)
    if not methods:
        return None
    shown = [answer for answer, found in rows.items() if found]
    height = 0.8 / len(shown)
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(7.5, 1.1 + 0.3 * len(methods) * (0.4 + len(shown) * 0.6)))
        axes = figure.subplots()
        for number, answer in enumerate(shown):
            places, values, errors = [], [], []
            for place, method in enumerate(methods):
                row = rows[answer].get(method)
                if row is None or row.average is None:
                    continue
                mean = row.average.mean
                low, high = (
                    (row.interval.low, row.interval.high)
                    if row.interval
                    else (mean - row.average.error, mean + row.average.error)
                )
                places.append(place + (number - (len(shown) - 1) / 2) * height)
                values.append(100 * mean)
                errors.append((100 * max(0.0, mean - low), 100 * max(0.0, high - mean)))
            axes.barh(
                places, values, height=height * 0.9, color=_COLOURS[number], label=f"{answer} path",
                xerr=np.array(errors).T, error_kw={"ecolor": _INK, "elinewidth": 1.0, "capsize": 2},
            )  # fmt: skip
        axes.set_yticks(range(len(methods)), methods)
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.set_xlabel("accuracy, mean over targets (%)")
        axes.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=len(shown))
        return _svg(figure, "accuracy", "Accuracy of each method, averaged over the held-out domains")


def rounds_figure(run: Run, group: Group, split: str) -> str | None:
    """Left, accuracy after each self-labelling round (mean over targets and seeds) per method and answer
    path; right, share of sampled chains accepted in each round. None when the run has no rounds."""
    lines = [line for line in run.results if group.holds(line) and line.round is not None and line.split == split]
    acceptance = _acceptance(run, group)
    if not lines and not acceptance:
        return None
    methods = in_order([*(line.method for line in lines), *acceptance], METHOD_ORDER)
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(7.5, 4.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        for number, method in enumerate(methods):
            style: dict[str, Any] = {"color": _COLOURS[number % 8], "marker": _MARKERS[number % 8]}
            answers = in_order((line.answer for line in lines if line.method == method), ("label", "reasoning"))
            for place, answer in enumerate(answers):
                by_round: dict[int, list[float]] = {}
                for line in lines:
                    if (line.method, line.answer) == (method, answer) and line.round is not None:
                        by_round.setdefault(line.round, []).append(100 * line.accuracy)
                means = [float(np.mean(by_round[r])) for r in sorted(by_round)]
                dash = _DASHES[place % 3]
                left.plot(sorted(by_round), means, linestyle=dash, label=f"{method}, {answer}", **style)
            accepted = acceptance.get(method, {})
            if accepted:
                shares = [100 * float(np.mean(accepted[r])) for r in sorted(accepted)]
                right.plot(sorted(accepted), shares, label=method, **style)
        for axes, label in ((left, "accuracy (%)"), (right, "chains accepted (%)")):
            axes.set_xlabel("round of self-labelling")
            axes.set_ylabel(label)
            axes.xaxis.get_major_locator().set_params(integer=True)
            if axes.get_legend_handles_labels()[0]:
                axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), fontsize=8)
            else:
                axes.text(0.5, 0.5, "no data", ha="center", transform=axes.transAxes)
        right.set_ylim(0, 100)
        return _svg(figure, "rounds", "Accuracy and acceptance over the rounds of self-labelling")


def loss_figure(run: Run, group: Group) -> str | None:
    """One panel per method: every unit's logged losses over its optimiser steps, the parts of the objective
    apart, dotted lines where a stage begins. None when nothing was trained."""
    by_method: dict[str, list[tuple[LossPoint, ...]]] = {}
    for name, method in _methods_of_units(run, group).items():
        if run.units[name].training:
            by_method.setdefault(method, []).append(run.units[name].training)
    methods = in_order(by_method, METHOD_ORDER)
    if not methods:
        return None
    columns = min(3, len(methods))
    rows = -(-len(methods) // columns)
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(7.5, 2.2 * rows + 0.5), layout="constrained")
        panels = np.atleast_1d(figure.subplots(rows, columns, sharey=True, squeeze=False)).ravel()
        for axes, method in zip(panels, methods, strict=False):
            for points in by_method[method]:
                _draw_losses(axes, points)
            axes.set_title(method, fontsize=10)
            axes.set_xlabel("optimiser step", fontsize=8)
        for axes in panels[len(methods) :]:
            axes.set_visible(False)
        panels[0].set_ylabel("loss (nats)")
        found: dict[str, Any] = {}
        for axes in panels:
            found.update(dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True)))
        figure.legend(found.values(), found.keys(), loc="outside upper center", ncols=len(found))
        return _svg(figure, "loss", "Training loss of each method over its optimiser steps")


def _draw_losses(axes: Any, points: Sequence[LossPoint]) -> None:
    """Stages follow each other on one axis, though each counts its steps from the start."""
    parts = in_order((name for point in points for name in point.losses), ("label", "chain")) or ("loss",)
    xs: list[int] = []
    begun, offset = points[0], 0
    for number, point in enumerate(points):
        if (point.stage, point.round) != (begun.stage, begun.round):
            offset, begun = xs[number - 1], point
            axes.axvline(offset, color=_INK, linewidth=0.6, linestyle=":", alpha=0.5)
        xs.append(offset + point.step)
    for place, part in enumerate(parts):
        held = [
            (x, point.loss if part == "loss" else point.losses[part])
            for x, point in zip(xs, points, strict=True)
            if part == "loss" or part in point.losses
        ]
        colour, dash = _LOSS_STYLES.get(part, (_COLOURS[(place + 2) % 8], ":"))
        axes.plot(*zip(*held, strict=True), color=colour, linestyle=dash, linewidth=1.1, alpha=0.8, label=part)


def _acceptance(run: Run, group: Group) -> dict[str, dict[int, list[float]]]:
    """Accepted shares per method and round, one entry per unit."""
    found: dict[str, dict[int, list[float]]] = {}
    for name, method in _methods_of_units(run, group).items():
        for line in run.units[name].rounds:
            if line.sampled:
                shares = found.setdefault(method, {}).setdefault(line.round, [])
                shares.append(line.accepted / line.sampled)
    return found


def _methods_of_units(run: Run, group: Group) -> dict[str, str]:
    """The method of every unit of the group that has a folder, units by name."""
    methods = {line.unit: line.method for line in run.results if group.holds(line)}
    return {name: methods[name] for name in sorted(methods) if name in run.units}


def _svg(figure: Figure, salt: str, description: str) -> str:
    """The figure as an `<svg>` element: no date, no generator's name, ids of its own, text in `currentColor`."""
    buffer = io.StringIO()
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.hashsalt": salt}):
        figure.savefig(buffer, format="svg", bbox_inches="tight", pad_inches=0.05, transparent=True, metadata=metadata)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = text.replace(_INK, "currentColor")
    text = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{salt}-", text)
    text = re.sub(r' (?:width|height)="[\d.]+pt"', "", text, count=2)
    label = f'role="img" aria-label="{description}"'
    return _trimmed(text.replace("<svg", f"<svg {label}", 1).splitlines())


def _trimmed(lines: Iterable[str]) -> str:
    return "\n".join(line.rstrip() for line in lines) + "\n"
