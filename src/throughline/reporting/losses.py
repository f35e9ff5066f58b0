"""What training logged: a figure of the losses over the optimiser steps, a table of each stage. Called by `page`."""

import pandas as pd

from throughline.core.plot import Panel, Plot, Series
from throughline.core.table import Table
from throughline.reporting.groups import Group
from throughline.runs.order import in_order

PARTS = ("label", "chain")
_LOOKS = {"label": (0, 0), "chain": (1, 1), "loss": (6, 0)}
"""Colour and dash of a part of the loss."""


def loss_figure(group: Group) -> Plot | None:
    """One panel for each setup: every unit's logged losses over its optimiser steps, the parts of the objective apart,
    dotted lines where a stage begins. None when nothing was trained."""
    losses = _losses(group)
    if losses.empty:
        return None
    panels, numbers = [], []
    setups = in_order(losses["setup"], group.setups)
    for setup in setups:
        series, rulers = [], set()
        for number, (_, lines) in enumerate(losses[losses["setup"] == setup].groupby("unit")):
            rulers |= set(lines["offset"]) - {0}
            for place, part in enumerate(in_order(lines["part"], PARTS)):
                ours = lines[lines["part"] == part]
                colour, dash = _LOOKS.get(part, (place + 2, 2))
                xs, ys = (ours["offset"] + ours["step"]).tolist(), ours["loss"].tolist()
                series.append(Series(part, xs, ys, colour=colour, dash=dash, width=1.1, alpha=0.8))
                numbers += [(setup, number, part, x, y) for x, y in zip(xs, ys, strict=True)]
        label = "loss (nats)" if setup == setups[0] else ""
        panels.append(Panel(tuple(series), setup, "optimiser step", label, rulers=sorted(rulers)))
    return Plot(
        "loss",
        "Training loss of each method over its optimiser steps",
        tuple(panels),
        ("method", "unit", "part", "step", "loss"),
        tuple(numbers),
        shared="y",
    )


def loss_table(group: Group) -> Table | None:
    """First and last logged loss of each stage of each setup, by part; means over units. None when nothing was
    trained."""
    losses = _losses(group)
    if losses.empty:
        return None
    losses = losses.sort_values(["unit", "round", "place"], kind="stable")
    last_step = losses.groupby(["unit", "stage"])["step"].transform("last")
    by_unit = losses.assign(steps=last_step).groupby(["setup", "stage", "part", "unit"], sort=False)
    ends = by_unit.agg(steps=("steps", "last"), first=("loss", "first"), last=("loss", "last"))
    means = ends.groupby(["setup", "stage", "part"], sort=False).agg(["size", "mean"])
    rows = []
    for setup in in_order(losses["setup"], group.setups):
        for (stage, part), row in means.loc[setup].iterrows():
            steps, first, last = (row[name, "mean"] for name in ("steps", "first", "last"))
            cells = (str(int(row["steps", "size"])), f"{steps:.0f}", f"{first:.3f}", f"{last:.3f}")
            rows.append((*group.setups[setup].cells, stage, part, *cells))
    columns = (*group.heads, "stage", "part", "units", "steps", "first loss, nats", "last loss, nats")
    note = "Loss of the batches since the previous logged step, mean over units. Each round has new own chains."
    return Table(f"{group.title} · training loss", columns, tuple(rows), (note,))


def _losses(group: Group) -> pd.DataFrame:
    """The logged losses by part, the whole where a unit has no parts; `offset` is the step at which the stage began,
    though each counts its own from the start."""
    lines = group.with_setup(group.run.frames.training).dropna(subset="loss")
    in_parts = lines.loc[lines["part"] != "loss", "unit"]
    lines = lines[(lines["part"] != "loss") | ~lines["unit"].isin(in_parts)]
    if lines.empty:
        return lines
    order = {part: place for place, part in enumerate(in_order(lines["part"], PARTS))}
    lines = lines.assign(place=lines["part"].map(order)).sort_values(["unit", "place"], kind="stable")
    begins = lines.groupby(["unit", "stage", "round"], sort=False)["step"].last().groupby("unit", sort=False)
    offsets = (begins.cumsum() - begins.obj).rename("offset")
    return lines.merge(offsets.reset_index(), on=["unit", "stage", "round"])
