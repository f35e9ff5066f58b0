"""The optimisation gap: what each method's training reached, by optimiser step, from its own loss lines.

`losses` are the NLLs that training minimises (label: sum over its tokens; chain: mean over its own).
`class_probability` is the mean probability of the class tokens, as the whole answer and where a chain last names the
class, of the samples since the line before; it is logged beside the loss and changes no gradient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from throughline.analysis.records import Record
from throughline.analysis.section import Scope, Section
from throughline.core.plot import Panel, Plot, Series
from throughline.core.table import Table
from throughline.runs.order import in_order, ordered
from throughline.runs.records import TrainingLine
from throughline.training.methods import METHODS

if TYPE_CHECKING:
    import pandas as pd

MEASURED = {"class_probability": "class probability", "losses": "loss, nats"}

KEYS = ("measure", "part", "method")
"""What a line of the figure is of."""


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
    steps: list[int] = []
    for _, of_stage in groupby(lines, lambda line: line.stage):
        before = steps[-1] if steps else 0
        steps += [before + line.step for line in of_stage]
    return Curve(
        method=method,
        unit=unit,
        steps=tuple(steps),
        losses=_columns([line.losses for line in lines]),
        class_probability=_columns([line.class_probability for line in lines]),
    )


def section(curves: Sequence[Curve], scope: Scope) -> Section:
    """What training reached as a table and by step."""
    return Section(
        "optimisation",
        "Training step by step",
        "Loss and class probability by optimiser step of each method. Methods with rounds start from the weights of "
        "another method.",
        (optimisation_table(curves, scope),),
        (optimisation_figure(curves),),
    )


def optimisation_table(curves: Sequence[Curve], scope: Scope) -> Table:
    """Class probability and loss of each method at its first logged step, in the middle and at the last."""
    means = _means(curves)
    rows = []
    for (measure, part, method), line in means.groupby([*KEYS], observed=True):
        ends = line.iloc[[0, len(line) // 2, -1]]
        cells = (f"{value:.3f} at {step}" for step, value in zip(ends["step"], ends["value"], strict=True))
        rows.append((f"{MEASURED[measure]}: {part}", method, *cells))
    return Table(
        title="Loss and class probability, by optimiser step",
        columns=("of the path", "method", "first logged, at step", "in the middle", "last"),
        rows=tuple(rows),
        notes=scope.notes("Means over folds, on the batches since the previous logged step."),
    )


def optimisation_figure(curves: Sequence[Curve]) -> Plot:
    """Class probability and loss by optimiser step, the methods on one axis: a panel for each part; means over
    folds."""
    means = _means(curves)
    panels, looks = [], in_order((*METHODS, *means["method"]), METHODS)
    for (measure, part), lines in means.groupby([*KEYS[:2]], observed=True):
        series = []
        for method, line in lines.groupby("method", observed=True):
            look, every = looks.index(method), max(1, len(line) // 6)
            steps, values = line["step"].tolist(), line["value"].tolist()
            series.append(Series(method, steps, values, colour=look, marker=look, dash=look, every=every))
        limits = (0, 1) if measure == "class_probability" else None
        panels.append(Panel(tuple(series), f"{MEASURED[measure]}: {part}", y_limits=limits))
    return Plot(
        "optimisation",
        "Probability of the class and loss over the optimiser steps of each method",
        tuple(panels),
        (*KEYS, "step", "value"),
        tuple(means[[*KEYS, "step", "value"]].astype(object).itertuples(index=False, name=None)),
        height=2.6,
        across=2,
        x_label="optimiser step",
    )


def _columns(lines: Sequence[Mapping[str, float]]) -> dict[str, tuple[float | None, ...]]:
    return {name: tuple(line.get(name) for line in lines) for name in sorted({name for line in lines for name in line})}


def _means(curves: Sequence[Curve]) -> pd.DataFrame:
    """The mean `value` over units by KEYS and `step`, in the order in which they are shown.

    Units of unlike length would break the line where one of them ends: only steps that all of them have.
    """
    import pandas as pd

    rows = [
        (measure, part, curve.method, step, value)
        for curve in curves
        for measure in MEASURED
        for part, values in getattr(curve, measure).items()
        for step, value in zip(curve.steps, values, strict=False)
        if value is not None
    ]
    lines = pd.DataFrame(rows, columns=[*KEYS, "step", "value"]).astype({"value": float})
    lines = ordered(lines, measure=MEASURED, part=("label", "chain"), method=METHODS)
    by_step = lines.groupby([*KEYS, "step"], observed=True)["value"]
    means = by_step.agg(value="mean", units="size").reset_index()
    return means[means["units"] == means.groupby([*KEYS], observed=True)["units"].transform("max")]
