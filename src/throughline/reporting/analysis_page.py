"""The sections of the page that show a run's analyses: each has tables and figures, or says what is missing and how to
get it. Called by `page` and `side_by_side`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from throughline.analysis.records import FILE, Analysis, Fold, State, read_analysis
from throughline.core.errors import ThroughlineError
from throughline.reporting.analysis_figures import (
    divergence_figure,
    optimisation_figure,
    perplexity_figure,
    probability_figures,
)
from throughline.reporting.analysis_tables import (
    divergence_table,
    entropy_table,
    mismatch_table,
    optimisation_table,
    overlap_table,
    sensitivity_tables,
    top_tokens,
    variant_tables,
)
from throughline.reporting.plotting import Plot
from throughline.reporting.probability_tables import (
    beside_the_paper,
    context_table,
    own_moved_table,
    probability_tables,
)
from throughline.reporting.runs import Run
from throughline.reporting.tables import Table
from throughline.reporting.untrusted import one_line, visible


@dataclass(frozen=True)
class Section:
    """One heading of the page with what stands under it."""

    id: str
    title: str
    intro: str
    tables: tuple[Table, ...] = ()
    figures: tuple[Plot, ...] = ()
    folded: tuple[tuple[str, tuple[Table, ...]], ...] = ()
    """What is shown on demand: a summary line and the tables behind it."""
    missing: str | None = None
    """Why there is nothing, and the command that makes it."""


@dataclass(frozen=True)
class Found:
    """A run's analysis, if it has one, and what has to be said about it."""

    analysis: Analysis | None
    notes: tuple[str, ...]


ANALYZE = "`throughline analyze RUN` (RUN is the run's folder)"
"""What makes an analysis."""


def find_analysis(run: Run) -> Found:
    """Reads the run's analysis.json. What is wrong with one, or missing in it, is told."""
    command = ANALYZE
    try:
        analysis = read_analysis(run.folder / FILE)
    except ThroughlineError as error:
        return Found(None, (f"{FILE} cannot be used: {error.what}; {command} writes it again.",))
    if analysis is None:
        return Found(None, ())
    known = {line.unit for line in run.results}
    strange = sorted({state.unit for fold in analysis.folds for state in fold.states if state.unit} - known)
    notes = [f"{one.what}: {one.why}" for one in analysis.missing]
    if strange:
        notes.insert(0, f"{FILE} is about units that this run no longer has ({strange[0]}): run {command} again.")
    return Found(analysis, tuple(notes))


@dataclass(frozen=True)
class Content:
    """What stands in a section."""

    tables: tuple[Table | None, ...] = ()
    figures: tuple[Plot | None, ...] = ()
    folded: tuple[tuple[str, tuple[Table, ...]], ...] = ()


def analysis_sections(found: Found) -> tuple[Section, ...]:
    """All sections, in the order of the page; one without anything says how it is measured."""
    return tuple(_section(kind, found.analysis) for kind in _KINDS)


def _section(kind: _Kind, analysis: Analysis | None) -> Section:
    content = Content() if analysis is None else kind.content(analysis)
    tables = tuple(table for table in content.tables if table is not None)
    figures = tuple(plot for plot in content.figures if plot is not None)
    missing = None if tables or figures else f"Not measured in this run: {ANALYZE} measures it."
    return Section(kind.id, kind.title, kind.intro, tables, figures, content.folded, missing)


def _rounds(analysis: Analysis) -> Content:
    return Content((mismatch_table(analysis),), (perplexity_figure(analysis),))


def _optimisation(analysis: Analysis) -> Content:
    return Content((optimisation_table(analysis),), (optimisation_figure(analysis),))


def _tokens(analysis: Analysis) -> Content:
    tables = (
        beside_the_paper(analysis),
        context_table(analysis),
        *probability_tables(analysis),
        own_moved_table(analysis),
    )
    return Content(tables, probability_figures(analysis))


def _entropy(analysis: Analysis) -> Content:
    folded = tuple(
        (f"Tokens where the entropy fell most: {fold.name}", tuple(top_tokens(fold, table) for table in fold.entropy))
        for fold in analysis.folds
        if fold.entropy
    )
    return Content((entropy_table(analysis), overlap_table(analysis)), (), folded)


def _domains(analysis: Analysis) -> Content:
    return Content((divergence_table(analysis),), (divergence_figure(analysis),))


def _faithfulness(analysis: Analysis) -> Content:
    return Content(variant_tables(analysis))


def _sensitivity(analysis: Analysis) -> Content:
    return Content(sensitivity_tables(analysis))


@dataclass(frozen=True)
class _Kind:
    """What is said above a section, and what fills it."""

    id: str
    title: str
    intro: str
    content: Callable[[Analysis], Content]


_KINDS = (
    _Kind(
        "rounds-expected",
        "Rounds: what the weights make of the chains",
        "A teacher's chains are in the teacher's words, own chains in the model's. A teacher's stay the same texts "
        "throughout; own chains are other texts at each row: what those weights wrote themselves, as far as it was "
        "accepted.",
        _rounds,
    ),
    _Kind(
        "optimisation",
        "What training reached, step by step",
        "Each method's own optimiser steps; methods with rounds go on from the weights of another method.",
        _optimisation,
    ),
    _Kind(
        "tokens",
        "Token probabilities before and after",
        "The probability that the weights give to each token that stands in the text, all tokens before it given.",
        _tokens,
    ),
    _Kind(
        "entropy",
        "Where the model became sure",
        "Next-token entropy under teacher forcing: which tokens it fell at, under whose chains.",
        _entropy,
    ),
    _Kind(
        "domains",
        "How far apart the domains are",
        "In images, in chains, in the words that name classes and in those that do not.",
        _domains,
    ),
    _Kind(
        "faithfulness",
        "Does the conclusion depend on the chain",
        "The class read behind a chain that lost a stage, has a stage of another image, or is of another image; and "
        "with the image blanked or exchanged.",
        _faithfulness,
    ),
    _Kind(
        "sensitivity",
        "How much a setting matters",
        "The rounds of this run; several runs that differ in their configs show what the keys in which they differ "
        "are worth.",
        _sensitivity,
    ),
)


def shaded_data(analysis: Analysis | None) -> list[dict[str, Any]] | None:
    """For the page's script: the chains of each fold, token by token; None without any."""
    folds = [fold for fold in (analysis.folds if analysis is not None else ()) if fold.shaded]
    return [_shaded(fold) for fold in folds] or None


def _shaded(fold: Fold) -> dict[str, Any]:
    return {
        "name": one_line(fold.name),
        "chains": [
            {
                "id": one_line(one.sample_id),
                "label": one_line(one.label),
                "source": one.source,
                "before": _name(one.before),
                "after": _name(one.after),
                "tokens": [[visible(text), before, after] for text, before, after in one.tokens],
            }
            for one in fold.shaded
        ],
    }


def _name(state: State) -> str:
    return one_line(state.name)
