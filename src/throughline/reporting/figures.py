"""The figures of a run's results: rounds, loss curves, accuracy with intervals. Called by `page`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from throughline.reporting.plotting import COLOURS, DASHES, INK, MARKERS, Plot, house_style, legend_above, panels
from throughline.reporting.runs import LossPoint, Run
from throughline.reporting.summaries import METHOD_ORDER, Group, MethodSummary, in_order

_LOSS_STYLES = {"label": (COLOURS[0], "-"), "chain": (COLOURS[1], "--"), "loss": (COLOURS[6], "-")}


def accuracy_figure(summaries: Mapping[str, Sequence[MethodSummary]]) -> Plot | None:
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
    drawn: list[tuple[object, ...]] = []
    with house_style():
        figure = Figure(figsize=(7.5, 1.1 + 0.3 * len(methods) * (0.4 + len(shown) * 0.6)), layout="constrained")
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
                drawn.append((answer, method, mean, low, high))
            axes.barh(
                places, values, height=height * 0.9, color=COLOURS[number], label=f"{answer} path",
                xerr=np.array(errors).T, error_kw={"ecolor": INK, "elinewidth": 1.0, "capsize": 2},
            )  # fmt: skip
        axes.set_yticks(range(len(methods)), methods)
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.set_xlabel("accuracy, mean over targets (%)")
        axes.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=len(shown))
    description = "Accuracy of each method, averaged over the held-out domains"
    columns = ("answer", "method", "accuracy", "low", "high")
    return Plot("accuracy", description, figure, columns, tuple(drawn))


def rounds_figure(run: Run, group: Group, split: str) -> Plot | None:
    """Left, accuracy after each self-labelling round (mean over targets and seeds) per method and answer
    path; right, share of sampled chains accepted in each round. None when the run has no rounds."""
    lines = [line for line in run.results if group.holds(line) and line.round is not None and line.split == split]
    acceptance = _acceptance(run, group)
    if not lines and not acceptance:
        return None
    methods = in_order([*(line.method for line in lines), *acceptance], METHOD_ORDER)
    drawn: list[tuple[object, ...]] = []
    with house_style():
        figure = Figure(figsize=(7.5, 4.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        for number, method in enumerate(methods):
            style: dict[str, Any] = {"color": COLOURS[number % 8], "marker": MARKERS[number % 8]}
            answers = in_order((line.answer for line in lines if line.method == method), ("label", "reasoning"))
            for place, answer in enumerate(answers):
                by_round: dict[int, list[float]] = {}
                for line in lines:
                    if (line.method, line.answer) == (method, answer) and line.round is not None:
                        by_round.setdefault(line.round, []).append(100 * line.accuracy)
                means = [float(np.mean(by_round[r])) for r in sorted(by_round)]
                dash = DASHES[place % 3]
                drawn += [(method, answer, r, m / 100, None) for r, m in zip(sorted(by_round), means, strict=True)]
                left.plot(sorted(by_round), means, linestyle=dash, label=f"{method}, {answer}", **style)
            accepted = acceptance.get(method, {})
            if accepted:
                shares = [100 * float(np.mean(accepted[r])) for r in sorted(accepted)]
                drawn += [(method, None, r, None, s / 100) for r, s in zip(sorted(accepted), shares, strict=True)]
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
    columns = ("method", "answer", "round", "accuracy", "accepted")
    return Plot("rounds", "Accuracy and acceptance over the rounds of self-labelling", figure, columns, tuple(drawn))


def loss_figure(run: Run, group: Group) -> Plot | None:
    """One panel per method: every unit's logged losses over its optimiser steps, the parts of the objective
    apart, dotted lines where a stage begins. None when nothing was trained."""
    by_method: dict[str, list[tuple[LossPoint, ...]]] = {}
    for name, method in _methods_of_units(run, group).items():
        if run.units[name].training:
            by_method.setdefault(method, []).append(run.units[name].training)
    methods = in_order(by_method, METHOD_ORDER)
    if not methods:
        return None
    drawn: list[tuple[object, ...]] = []
    with house_style():
        figure, found = panels(len(methods), 2.2, sharey=True)
        for axes, method in zip(found, methods, strict=True):
            for number, points in enumerate(by_method[method]):
                drawn += [(method, number, *row) for row in _draw_losses(axes, points)]
            axes.set_title(method, fontsize=10)
            axes.set_xlabel("optimiser step", fontsize=8)
        found[0].set_ylabel("loss (nats)")
        legend_above(figure, found)
    columns = ("method", "unit", "part", "step", "loss")
    return Plot("loss", "Training loss of each method over its optimiser steps", figure, columns, tuple(drawn))


def _draw_losses(axes: Any, points: Sequence[LossPoint]) -> list[tuple[str, int, float]]:
    """Stages follow each other on one axis, though each counts its steps from the start. Gives what was drawn."""
    drawn: list[tuple[str, int, float]] = []
    parts = in_order((name for point in points for name in point.losses), ("label", "chain")) or ("loss",)
    xs: list[int] = []
    begun, offset = points[0], 0
    for number, point in enumerate(points):
        if (point.stage, point.round) != (begun.stage, begun.round):
            offset, begun = xs[number - 1], point
            axes.axvline(offset, color=INK, linewidth=0.6, linestyle=":", alpha=0.5)
        xs.append(offset + point.step)
    for place, part in enumerate(parts):
        held = [
            (x, point.loss if part == "loss" else point.losses[part])
            for x, point in zip(xs, points, strict=True)
            if part == "loss" or part in point.losses
        ]
        colour, dash = _LOSS_STYLES.get(part, (COLOURS[(place + 2) % 8], ":"))
        axes.plot(*zip(*held, strict=True), color=colour, linestyle=dash, linewidth=1.1, alpha=0.8, label=part)
        drawn += [(part, x, loss) for x, loss in held]
    return drawn


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
