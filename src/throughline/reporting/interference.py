"""How answers hold under interference: the table of `throughline drift robustness`. Called by the page and by the verb;
the levels are those of `drift.interference`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from scipy.spatial.distance import jensenshannon

from throughline.chains.concepts import ConceptGraph, check_statements
from throughline.core.table import Table
from throughline.drawn.concepts import GRAPH
from throughline.drift.interference import ANOTHER, BESIDE, BLANK, FACTOR, SYNONYMS, TRUE
from throughline.metrics.intervals import Interval, bootstrap_generator, hierarchical_bootstrap
from throughline.ood.factors import CLEAN
from throughline.reporting.groups import NO_LEVEL, Group, Setup
from throughline.reporting.tables import drawn_notes, share_cell

NOTES = (
    "In percent, with 95 % intervals over images and seeds. Lost and flipped: accuracy lost, and answers that name "
    f"another class, against the undisturbed answers about the same images; of {SYNONYMS!r} against {TRUE!r}.",
    f"Image dependence is what is lost with {BLANK!r} and with {ANOTHER!r}: answers that do not flip there do not "
    "come from the image, however stable they are elsewhere.",
)
COHERENT = (
    "Coherent: chains that conclude in a class and state nothing against its edges in the concept graph, what was "
    "begun for the model included."
)
DRIFT = (
    "Drift: Jensen–Shannon divergence of the probabilities of the classes from those of the undisturbed answer, in "
    "percent of the largest possible one."
)
IMAGE = ["target", "seed", "sample_id"]


COLUMNS = ("accuracy", "lost", "flipped", "drift", "coherent")


def interference_tables(group: Group, graph: ConceptGraph | None = None) -> list[Table]:
    """A table for each answer path of a run with that factor; none for another run. Drawn images have their graph."""
    graph = graph or (GRAPH if group.drawn else None)
    return [table for answer in group.answers if (table := _table(group, answer, graph)) is not None]


def _table(group: Group, answer: str, graph: ConceptGraph | None) -> Table | None:
    values = interference_values(group, answer, graph)
    if len(values) < 2:
        return None
    columns = [name for name in COLUMNS if any(name in own for own in values.values())]
    rows = tuple(
        (*setup.cells, *(share_cell(_interval(own[name])) if name in own else NO_LEVEL for name in columns))
        for setup in group.setups.values()
        if (own := values.get(setup.name))
    )
    notes = (*NOTES, *[DRIFT] * ("drift" in columns), *[COHERENT] * ("coherent" in columns), *drawn_notes(group.drawn))
    return Table(f"{group.title} · {answer} path · interference", (*group.heads, *columns), rows, notes)


def interference_values(group: Group, answer: str, graph: ConceptGraph | None) -> dict[str, dict[str, pd.Series[Any]]]:
    """By the name of the setup, of those with a level of that factor, and by column: a value for each image, with the
    index target, seed, sample id. What a level or an answer path has not, or needs a graph, is not there."""
    predictions = group.predictions.query("answer == @answer")
    answered = {name: own.set_index(IMAGE) for name, own in predictions.groupby("setup", sort=False)}
    found = dict[str, dict[str, "pd.Series[Any]"]]()
    for setup in group.setups.values():
        level, own = setup.levels.get(FACTOR), answered.get(setup.name)
        if level is None or own is None:
            continue
        values = found[setup.name] = dict[str, "pd.Series[Any]"](accuracy=own["correct"].astype(float))
        beside = answered.get(_at(setup, BESIDE.get(str(level), CLEAN)).name)
        if beside is not None and level != CLEAN:
            both = own.join(beside[["predicted", "correct", "probabilities"]].add_suffix("_before"), how="inner")
            flipped = [now != before for now, before in zip(both["predicted"], both["predicted_before"], strict=True)]
            values["lost"] = both["correct_before"].astype(float) - both["correct"].astype(float)
            values["flipped"] = pd.Series(flipped, both.index, dtype=float)
            known = both.dropna(subset=["probabilities", "probabilities_before"])  # an image may be unreadable
            if len(known):
                now, before = (np.array([*known[name]]) for name in ("probabilities", "probabilities_before"))
                drift = jensenshannon(now, before, base=2, axis=1) ** 2  # scipy's is the root of the divergence
                values["drift"] = pd.Series(np.nan_to_num(drift), known.index)  # of equal ones it may be one of -1e-17
        if graph is not None and answer == "reasoning":
            values["coherent"] = own.apply(_is_coherent, axis=1, graph=graph).astype(float)
    return found


def _at(setup: Setup, level: str) -> Setup:
    """The setup at another level of interference."""
    return Setup(setup.method, {**setup.levels, FACTOR: level})


def _interval(values: pd.Series[float]) -> Interval:
    by_run: Iterable[tuple[tuple[str, int], pd.Series[float]]] = values.groupby(level=[0, 1])
    return hierarchical_bootstrap({key: own.to_numpy(np.float64) for key, own in by_run}, bootstrap_generator())


def _is_coherent(row: pd.Series[str], graph: ConceptGraph) -> bool:
    label = row["predicted"]
    return label in graph.signs and check_statements(row["text"], graph, label).coherent
