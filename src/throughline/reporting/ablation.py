"""The methods by what they train on, with the controls that take as many optimiser steps as the full method, each set
against it on the same images. Called by `page`."""

from __future__ import annotations

from collections.abc import Iterable

from throughline.reporting.runs import Run
from throughline.reporting.summaries import (
    METHOD_ORDER,
    Comparison,
    CorrectAnswers,
    Group,
    MethodSummary,
    compare,
    describe,
    drawn_over,
    in_order,
)
from throughline.reporting.tables import DRAWN_NOTE, MISSING, Table, average_cell, is_drawn, points
from throughline.training.methods import METHODS

FULL = "mtct_sarr"
CONTROLS = ("cls_matched", "mtct_matched")
_YES, _NO = "yes", "no"


def ablation_table(
    run: Run, group: Group, answer: str, summaries: Iterable[MethodSummary], correct: CorrectAnswers
) -> Table | None:
    """One row per method; None without any. `summaries` are of the `all` split and this answer path."""
    rows = {row.method: row for row in summaries}
    if not rows:
        return None
    pairs = [(FULL, method) for method in rows] if FULL in rows else []
    compared = {one.baseline: one for one in compare(correct, group, answer, pairs)}
    steps = _steps(run, group)
    columns: tuple[str, ...] = ("method", "labels", "teacher's chains", "own chains", "optimiser steps", "Avg")
    columns += (f"{FULL} minus this", "95 % interval", "p", "p, Holm") if compared else ()
    cells = []
    for method in in_order(rows, METHOD_ORDER):
        trained = (_YES if learns else _NO for learns in trains_on(method))
        difference = _difference(compared.get(method)) if compared else ()
        cells.append((method, *trained, steps.get(method, MISSING), average_cell(rows[method]), *difference))
    return Table(
        f"{describe(group)} · {answer} path · what each method trains on",
        columns,
        tuple(cells),
        _notes(group, rows, correct.seeds(group)),
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


def _notes(group: Group, rows: Iterable[str], seeds: int) -> tuple[str, ...]:
    notes = [
        "Optimiser steps count from the base. A matched control takes as many as the full method, without own chains."
    ]
    lacking = [name for name in CONTROLS if name not in rows]
    if FULL in rows and lacking:
        verb = "is" if len(lacking) == 1 else "are"
        notes.append(
            f"{' and '.join(lacking)} {verb} not in this run: without them nobody can tell what own chains give from "
            f"what more steps give. `throughline run` with `methods` naming them adds them."
        )
    if FULL in rows:
        notes.append(
            f"Differences in points: paired bootstrap over {drawn_over(seeds)}, the same images; Holm over these rows."
        )
    return (*notes, *([DRAWN_NOTE] if is_drawn(group) else []))


def _steps(run: Run, group: Group) -> dict[str, str]:
    """By method, over units: one number, or the least and the most."""
    found: dict[str, set[int]] = {}
    for line in run.results:
        unit = run.units.get(line.unit)
        if line.round is None and group.holds(line) and unit is not None:
            taken = 0 if line.method in METHODS and not METHODS[line.method].trains else unit.steps
            if taken is not None:
                found.setdefault(line.method, set()).add(taken)
    return {
        method: f"{min(taken)}" if len(taken) == 1 else f"{min(taken)} to {max(taken)}"
        for method, taken in found.items()
    }


def _difference(item: Comparison | None) -> tuple[str, ...]:
    if item is None:
        return ("", "", "", "")
    paired = item.paired
    return (
        points(paired.difference),
        f"{points(paired.low)} to {points(paired.high)}",
        f"{paired.p_value:.3f}",
        f"{item.adjusted_p:.3f}",
    )
