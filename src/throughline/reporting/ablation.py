"""The methods by what they train on, with the controls that take as many optimiser steps as the full method, each set
against it on the same images. Called by `page`."""

from collections.abc import Collection, Mapping

from throughline.core.table import MISSING, Table
from throughline.reporting.estimates import Summary, compare, drawn_over
from throughline.reporting.groups import Group
from throughline.reporting.tables import average_cell, difference_cells, drawn_notes
from throughline.training.methods import METHODS

FULL = next(method.name for method in METHODS.values() if method.full)
CONTROLS = tuple(method.name for method in METHODS.values() if method.control and method.steps_like == FULL)


def ablation_table(group: Group, answer: str, summaries: Mapping[str, Summary]) -> Table | None:
    """One row for each setup; None without any. `summaries` are of the `all` split and this answer path."""
    if not summaries:
        return None
    full = {name: row.setup.of_method(FULL) for name, row in summaries.items()}
    pairs = [(full[name], name) for name in summaries if full[name] in summaries]
    compared = {row.baseline.name: row for row in compare(group, answer, pairs)}
    steps = _steps(group)
    rows = []
    for name, row in summaries.items():
        trained = ("yes" if learns else "no" for learns in trains_on(row.setup.method))
        difference: tuple[str, ...] = ("",) * 4 if compared else ()
        if name in compared:
            difference = difference_cells(compared[name].paired, compared[name].adjusted_p)
        rows.append((*row.setup.cells, *trained, steps.get(name, MISSING), average_cell(row), *difference))
    columns = (*group.heads, "labels", "teacher's chains", "own chains", "optimiser steps", "Avg")
    return Table(
        title=f"{group.title} · {answer} path · what each method is trained on",
        columns=(*columns, f"{FULL} minus this", "95 % interval", "p", "p, Holm") if compared else columns,
        rows=tuple(rows),
        notes=_notes(group, {row.setup.method for row in summaries.values()}),
    )


def trains_on(method: str) -> tuple[bool, bool, bool]:
    """Labels, a teacher's chains, own chains: by itself or through what it starts from. An unknown method: none."""
    labels = teachers = own = False
    name: str | None = method
    while name is not None and name in METHODS:
        known = METHODS[name]
        labels |= "label" in known.paths
        teachers |= known.needs_chains
        own |= known.self_labelled
        name = known.starts_from
    return labels, teachers, own


def _notes(group: Group, methods: Collection[str]) -> tuple[str, ...]:
    notes = [
        "Optimiser steps are counted from the base. A control takes as many as the whole method, without own chains."
    ]
    lacking = [name for name in CONTROLS if name not in methods]
    if FULL in methods and lacking:
        verb = "is" if len(lacking) == 1 else "are"
        notes.append(
            f"{' and '.join(lacking)} {verb} not in this run. Without them, the effect of own chains cannot be "
            "separated from the effect of more steps. To add them, name them in `methods` and use `throughline run`."
        )
    if FULL in methods:
        notes.append(
            f"Differences in points: paired bootstrap over {drawn_over(group.seeds)}, on the same images; Holm's "
            "correction over these rows."
        )
    return (*notes, *drawn_notes(group.drawn))


def _steps(group: Group) -> dict[str, str]:
    """By setup, over units: one number, or the least and the most."""
    units = group.with_setup(group.run.frames.units)
    units = units[units["unit"].isin(group.final["unit"])]
    untrained = [name for name, method in METHODS.items() if not method.trains]
    steps = units["steps"].mask(units["method"].isin(untrained), 0)
    extremes = steps.groupby(units["setup"]).agg(["min", "max"]).dropna()
    return {
        row.Index: f"{row.min}" if row.min == row.max else f"{row.min} to {row.max}" for row in extremes.itertuples()
    }
