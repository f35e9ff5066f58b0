"""The figures of a run's results: rounds, loss curves, accuracy with intervals. Called by `page`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from throughline.reporting.plotting import (
    COLOURS,
    DASHES,
    HATCHES,
    INK,
    MARKERS,
    Plot,
    house_style,
    legend_above,
    panels,
)
from throughline.reporting.runs import LossPoint, Run
from throughline.reporting.summaries import METHOD_ORDER, Group, MethodSummary, describe, in_order
from throughline.reporting.tables import Table
from throughline.training.methods import METHODS

ByRound = list[tuple[int, float]]
"""Rounds with a share each."""

_LOSS_STYLES = {"label": (COLOURS[0], "-"), "chain": (COLOURS[1], "--"), "loss": (COLOURS[6], "-")}


def accuracy_figure(
    summaries: Mapping[str, Sequence[MethodSummary]], name: str = "accuracy", series: str = "{} path"
) -> Plot | None:
    """Horizontal bars of Avg per method, one bar per answer path (or run) in `summaries`, called as `series` has it;
    whiskers are the 95 % interval, or the standard error where there is none. None when no method has an Avg."""
    rows = {
        answer: {row.method: row for row in found if row.average is not None} for answer, found in summaries.items()
    }
    methods = in_order((method for found in rows.values() for method in found), METHOD_ORDER)
    if not methods:
        return None
    shown = [one for one, found in rows.items() if found]
    height = 0.8 / len(shown)
    drawn: list[tuple[object, ...]] = []
    with house_style():
        figure = Figure(figsize=(7.5, 1.1 + 0.3 * len(methods) * (0.4 + len(shown) * 0.6)), layout="constrained")
        axes = figure.subplots()
        for number, one in enumerate(shown):
            ours = [rows[one][method] for method in methods if method in rows[one]]
            values = np.array([_with_whisker(row) for row in ours])  # (methods, [mean, low, high])
            means, lows, highs = 100 * values.T
            places = [methods.index(row.method) + (number - (len(shown) - 1) / 2) * height for row in ours]
            axes.barh(
                places, means, height=height * 0.9, color=COLOURS[number % len(COLOURS)],
                hatch=HATCHES[number // len(COLOURS) % len(HATCHES)], label=series.format(one),
                xerr=np.clip([means - lows, highs - means], 0, None),
                error_kw={"ecolor": INK, "elinewidth": 1.0, "capsize": 2},
            )  # fmt: skip
            drawn += [(one, row.method, *map(float, value)) for row, value in zip(ours, values, strict=True)]
        axes.set_yticks(range(len(methods)), methods)
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.set_xlabel("accuracy, mean over targets (%)")
        axes.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=_across(shown))
    description = f"Accuracy of each method, averaged over the held-out domains; {_whiskers(rows)}"
    columns = ("series", "method", "accuracy", "low", "high")
    return Plot(name, description, figure, columns, tuple(drawn))


def _across(names: Sequence[str]) -> int:
    """Columns of a legend above the bars: about seventy letters fit beside each other."""
    return max(1, min(len(names), 70 // (6 + max(map(len, names)))))


def _with_whisker(row: MethodSummary) -> tuple[float, float, float]:
    """Mean and the ends of its whisker, as shares."""
    assert row.average is not None
    mean, error = row.average.mean, row.average.error
    return (mean, row.interval.low, row.interval.high) if row.interval else (mean, mean - error, mean + error)


def _whiskers(rows: Mapping[str, Mapping[str, MethodSummary]]) -> str:
    with_interval = {row.interval is not None for found in rows.values() for row in found.values()}
    if with_interval == {True}:
        return "whiskers: 95 % intervals"
    if with_interval == {False}:
        return "whiskers: standard error over seeds"
    return "whiskers: 95 % intervals, or standard error over seeds where predictions are missing"


def rounds_figure(run: Run, group: Group, split: str) -> Plot | None:
    """Left, accuracy after each self-labelling round (mean over targets and seeds) per method and answer
    path, from the method that the rounds start from; right, share of sampled chains accepted in each round. None when
    the run has no rounds."""
    accuracy, acceptance = _accuracy_by_round(run, group, split), _acceptance(run, group)
    if not accuracy and not acceptance:
        return None
    methods = in_order([*(method for method, _ in accuracy), *acceptance], METHOD_ORDER)
    drawn: list[tuple[object, ...]] = []
    with house_style():
        figure = Figure(figsize=(7.5, 4.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        for number, method in enumerate(methods):
            style: dict[str, Any] = {"color": COLOURS[number % 8], "marker": MARKERS[number % 8]}
            answers = in_order((answer for name, answer in accuracy if name == method), ("label", "reasoning"))
            for place, answer in enumerate(answers):
                found = accuracy[method, answer]
                left.plot(*_percent(found), linestyle=DASHES[place % 3], label=f"{method}, {answer}", **style)
                drawn += [(method, answer, number, share, None) for number, share in found]
            if method in acceptance:
                right.plot(*_percent(acceptance[method]), label=method, **style)
                drawn += [(method, None, number, None, share) for number, share in acceptance[method]]
        _finish_rounds(left, "accuracy (%)")
        _finish_rounds(right, "chains accepted (%)")
        right.set_ylim(0, 100)
    description = "Accuracy (round 0: where the rounds start) and acceptance over the rounds of self-labelling"
    columns = ("method", "answer", "round", "accuracy", "accepted")
    return Plot("rounds", description, figure, columns, tuple(drawn))


def _finish_rounds(axes: Any, label: str) -> None:
    axes.set_xlabel("round of self-labelling")
    axes.set_ylabel(label)
    axes.xaxis.get_major_locator().set_params(integer=True)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), fontsize=8)
    else:
        axes.text(0.5, 0.5, "no data", ha="center", transform=axes.transAxes)


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


def loss_table(run: Run, group: Group) -> Table | None:
    """First and last logged loss of each stage of each method, by part; means over units. None when nothing was
    trained."""
    found: dict[tuple[str, str, str], list[tuple[float, float, int]]] = {}
    for name, method in _methods_of_units(run, group).items():
        for stage, points in _stages(run.units[name].training):
            for part in _parts(points):
                held = [value for value in (_loss(point, part) for point in points) if value is not None]
                found.setdefault((method, stage, part), []).append((held[0], held[-1], points[-1].step))
    if not found:
        return None
    order = in_order((method for method, *_ in found), METHOD_ORDER)
    rows = []
    for key in sorted(found, key=lambda key: order.index(key[0])):
        first, last, steps = np.mean(found[key], axis=0)
        rows.append((*key, str(len(found[key])), f"{steps:.0f}", f"{first:.3f}", f"{last:.3f}"))
    columns = ("method", "stage", "part", "units", "steps", "first logged, nats", "last logged, nats")
    note = "Loss of the batches since the step logged before, mean over units; own chains of a round are new texts."
    return Table(f"{describe(group)} · training loss", columns, tuple(rows), (note,))


def _stages(points: Sequence[LossPoint]) -> list[tuple[str, list[LossPoint]]]:
    """The points of each stage and round, in their order, under its name."""
    found: dict[str, list[LossPoint]] = {}
    for point in points:
        found.setdefault(point.stage, []).append(point)
    return list(found.items())


def _parts(points: Sequence[LossPoint]) -> tuple[str, ...]:
    return in_order((name for point in points for name in point.losses), ("label", "chain")) or ("loss",)


def _loss(point: LossPoint, part: str) -> float | None:
    return point.loss if part == "loss" else point.losses.get(part)


def _draw_losses(axes: Any, points: Sequence[LossPoint]) -> list[tuple[str, int, float]]:
    """Stages follow each other on one axis, though each counts its steps from the start. Gives what was drawn."""
    drawn: list[tuple[str, int, float]] = []
    xs: list[int] = []
    begun, offset = points[0], 0
    for number, point in enumerate(points):
        if (point.stage, point.round) != (begun.stage, begun.round):
            offset, begun = xs[number - 1], point
            axes.axvline(offset, color=INK, linewidth=0.6, linestyle=":", alpha=0.5)
        xs.append(offset + point.step)
    for place, part in enumerate(_parts(points)):
        logged = [(x, _loss(point, part)) for x, point in zip(xs, points, strict=True)]
        held = [(x, loss) for x, loss in logged if loss is not None]
        colour, dash = _LOSS_STYLES.get(part, (COLOURS[(place + 2) % 8], ":"))
        axes.plot(*zip(*held, strict=True), color=colour, linestyle=dash, linewidth=1.1, alpha=0.8, label=part)
        drawn += [(part, x, loss) for x, loss in held]
    return drawn


def _accuracy_by_round(run: Run, group: Group, split: str) -> dict[tuple[str, str], ByRound]:
    """By method with rounds and answer path; 0 is the method that they start from, on the targets and seeds that have
    rounds."""
    lines = [line for line in run.results if group.holds(line) and line.split == split]
    found: dict[tuple[str, str], dict[int, list[float]]] = {}
    started: dict[tuple[str, str], set[tuple[str, int]]] = {}
    for line in lines:
        if line.round is not None:
            by_round = found.setdefault((line.method, line.answer), {})
            by_round.setdefault(line.round, []).append(line.accuracy)
            started.setdefault((line.method, line.answer), set()).add((line.target, line.seed))
    for (method, answer), by_round in found.items():
        start = METHODS[method].starts_from if method in METHODS else None
        before = [
            line.accuracy
            for line in lines
            if (line.method, line.answer, line.round) == (start, answer, None)
            and (line.target, line.seed) in started[method, answer]
        ]
        if before and len(before) == len(started[method, answer]):
            by_round[0] = before
    return {key: _means(by_round) for key, by_round in found.items()}


def _acceptance(run: Run, group: Group) -> dict[str, ByRound]:
    """Accepted share by method and round, the mean over units."""
    found: dict[str, dict[int, list[float]]] = {}
    for name, method in _methods_of_units(run, group).items():
        for line in run.units[name].rounds:
            if line.sampled:
                found.setdefault(method, {}).setdefault(line.round, []).append(line.accepted / line.sampled)
    return {method: _means(by_round) for method, by_round in found.items()}


def _means(by_round: Mapping[int, Sequence[float]]) -> ByRound:
    return [(number, float(np.mean(by_round[number]))) for number in sorted(by_round)]


def _percent(found: ByRound) -> tuple[list[int], list[float]]:
    return [number for number, _ in found], [100 * share for _, share in found]


def _methods_of_units(run: Run, group: Group) -> dict[str, str]:
    """The method of every unit of the group that has a folder, units by name."""
    methods = {line.unit: line.method for line in run.results if group.holds(line)}
    return {name: methods[name] for name in sorted(methods) if name in run.units}
