"""The optimisation gap: what each method's training reached, by optimiser step, from its own loss lines.

`losses` are the NLLs that training minimises (label: sum over its tokens; chain: mean over its own).
`class_probability` is the mean probability of the class tokens, as the whole answer and where a chain last names the
class, of the samples since the line before; it is logged beside the loss and changes no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from throughline.analysis.records import Record
from throughline.analysis.section import Scope, Section, make_section
from throughline.core.plot import Panel, Plot, Series
from throughline.core.table import Table
from throughline.runs.order import in_order
from throughline.runs.records import TrainingLine
from throughline.training.methods import METHODS

MEASURED = {"class_probability": "class probability", "losses": "loss, nats"}

Lines = dict[tuple[str, str, str], tuple[list[int], list[float]]]
"""Steps and values by (measure, part, method)."""


class Curve(Record):
    """A method's training, by optimiser step: NLLs of its parts, and the class tokens' mean probability in each."""

    method: str
    unit: str
    steps: tuple[int, ...]
    losses: dict[str, tuple[float | None, ...]]
    class_probability: dict[str, tuple[float | None, ...]]


def curve(method: str, unit: str, lines: Sequence[TrainingLine]) -> Curve | None:
    """From a unit's training lines; steps go on counting through the rounds. None without any."""
    if not lines:
        return None
    steps, offset, last, stage = [], 0, 0, lines[0].stage
    for line in lines:
        if line.stage != stage:
            offset, stage = offset + last, line.stage
        last = line.step
        steps.append(offset + last)
    return Curve(
        method=method,
        unit=unit,
        steps=tuple(steps),
        losses=_columns([line.losses for line in lines]),
        class_probability=_columns([line.class_probability for line in lines]),
    )


def section(curves: Sequence[Curve], scope: Scope) -> Section:
    """What training reached as a table and by step."""
    return make_section(
        "optimisation",
        "What training reached, step by step",
        "Each method's own optimiser steps; methods with rounds go on from the weights of another method.",
        [optimisation_table(curves, scope)],
        [optimisation_figure(curves)],
    )


def optimisation_table(curves: Sequence[Curve], scope: Scope) -> Table | None:
    """Class probability and loss of each method at its first logged step, in the middle and at the last."""
    lines = _mean_curves(curves)
    if not lines:
        return None
    order = in_order((method for *_, method in lines), METHODS)
    kinds = list(dict.fromkeys((measure, part) for measure, part, _ in lines))
    rows = []
    for measure, part, method in sorted(lines, key=lambda key: (kinds.index(key[:2]), order.index(key[2]))):
        steps, values = lines[measure, part, method]
        cells = (f"{values[place]:.3f} at {steps[place]}" for place in (0, len(steps) // 2, -1))
        rows.append((f"{MEASURED[measure]}: {part}", method, *cells))
    return Table(
        title="What training reached, by optimiser step",
        columns=("of the path", "method", "first logged, at step", "in the middle", "last"),
        rows=tuple(rows),
        notes=scope.notes("Means over folds, on the batches trained on since the step logged before."),
    )


def optimisation_figure(curves: Sequence[Curve]) -> Plot | None:
    """Class probability and loss by optimiser step, the methods on one axis: a panel for each part; means over
    folds."""
    lines = _mean_curves(curves)
    if not lines:
        return None
    order = in_order((*METHODS, *(method for *_, method in lines)), METHODS)
    panels, rows = [], []
    for measure, part in dict.fromkeys((measure, part) for measure, part, _ in lines):
        series = []
        for number, method in enumerate(order):
            if (measure, part, method) in lines:
                steps, values = lines[measure, part, method]
                every = max(1, len(steps) // 6)
                series.append(Series(method, steps, values, colour=number, marker=number, dash=number, every=every))
                rows += [(measure, part, method, x, y) for x, y in zip(steps, values, strict=True)]
        limits = (0, 1) if measure == "class_probability" else None
        panels.append(Panel(tuple(series), f"{MEASURED[measure]}: {part}", y_limits=limits))
    return Plot(
        "optimisation",
        "Probability of the class and loss over the optimiser steps of each method",
        tuple(panels),
        ("measure", "part", "method", "step", "value"),
        tuple(rows),
        height=2.6,
        across=2,
        x_label="optimiser step",
    )


def _columns(lines: Sequence[Mapping[str, float]]) -> dict[str, tuple[float | None, ...]]:
    return {name: tuple(line.get(name) for line in lines) for name in sorted({name for line in lines for name in line})}


def _mean_curves(curves: Sequence[Curve]) -> Lines:
    """The mean over units, in the order in which they are shown.

    Units of unlike length would break the line where one of them ends: only steps that all of them have.
    """
    logged: dict[tuple[str, str, str], dict[int, list[float]]] = {}
    for measure in MEASURED:
        for part in in_order((name for curve in curves for name in getattr(curve, measure)), ("label", "chain")):
            for curve in curves:
                by_step = logged.setdefault((measure, part, curve.method), {})
                for step, value in zip(curve.steps, getattr(curve, measure).get(part, ()), strict=False):
                    if value is not None:
                        by_step.setdefault(step, []).append(value)
    means: Lines = {}
    for key, by_step in logged.items():
        most = max(map(len, by_step.values()), default=0)
        steps = [step for step in sorted(by_step) if len(by_step[step]) == most]
        if steps:
            means[key] = (steps, [math.fsum(by_step[step]) / most for step in steps])
    return means
