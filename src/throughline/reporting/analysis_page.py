"""The sections of the page that show a run's analyses: each has tables and figures, or says what is missing and how to
get it. Called by `page` and `side_by_side`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from throughline.analysis.records import FILE, Analysis, Fold, State, read_analysis
from throughline.errors import ThroughlineError
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


def analysis_sections(run: Run, found: Found) -> tuple[Section, ...]:
    """All sections, in the order of the page."""
    analysis = found.analysis
    return (
        _section(
            run,
            "rounds-expected",
            "Rounds: what the weights make of the chains",
            "A teacher's chains are in the teacher's words, own chains in the model's. A teacher's stay the "
            "same texts throughout; own chains are other texts at each row: what those weights wrote themselves, as "
            "far as it was accepted.",
            () if analysis is None else _some(mismatch_table(analysis)),
            () if analysis is None else _some(perplexity_figure(analysis)),
        ),
        _section(
            run,
            "optimisation",
            "What training reached, step by step",
            "Each method's own optimiser steps; methods with rounds go on from the weights of another method.",
            (),
            () if analysis is None else _some(optimisation_figure(analysis)),
        ),
        _section(
            run,
            "tokens",
            "Token probabilities before and after",
            "The probability that the weights give to each token that stands in the text, all tokens before it given.",
            ()
            if analysis is None
            else (
                *_some(beside_the_paper(analysis)),
                *_some(context_table(analysis)),
                *probability_tables(analysis),
                *_some(own_moved_table(analysis)),
            ),
            () if analysis is None else probability_figures(analysis),
        ),
        _entropy(run, analysis),
        _section(
            run,
            "domains",
            "How far apart the domains are",
            "In images, in chains, in the words that name classes and in those that do not.",
            () if analysis is None else _some(divergence_table(analysis)),
            () if analysis is None else _some(divergence_figure(analysis)),
        ),
        _section(
            run,
            "faithfulness",
            "Does the conclusion depend on the chain",
            "The class read behind a chain that lost a stage, has a stage of another image, or is of another image; "
            "and with the image blanked or exchanged.",
            () if analysis is None else variant_tables(analysis),
            (),
        ),
        _section(
            run,
            "sensitivity",
            "How much a setting matters",
            "The rounds of this run; several runs that differ in one key of their configs show what that key is worth.",
            () if analysis is None else sensitivity_tables(analysis),
            (),
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


def _entropy(run: Run, analysis: Analysis | None) -> Section:
    folds: Sequence[Fold] = analysis.folds if analysis is not None else ()
    folded = tuple(
        (f"Tokens where the entropy fell most: {fold.name}", tuple(top_tokens(fold, table) for table in fold.entropy))
        for fold in folds
        if fold.entropy
    )
    tables = () if analysis is None else (*_some(entropy_table(analysis)), *_some(overlap_table(analysis)))
    return _section(
        run,
        "entropy",
        "Where the model became sure",
        "Next-token entropy under teacher forcing: which tokens it fell at, under whose chains.",
        tables,
        (),
        folded,
    )


def _section(
    run: Run,
    id: str,
    title: str,
    intro: str,
    tables: tuple[Table, ...],
    figures: tuple[Plot, ...],
    folded: tuple[tuple[str, tuple[Table, ...]], ...] = (),
) -> Section:
    missing = None
    if not tables and not figures:
        missing = f"Not measured in this run: {ANALYZE} measures it."
    return Section(id, title, intro, tables, figures, folded, missing)


def _some(one: Any) -> tuple[Any, ...]:
    return () if one is None else (one,)


def _name(state: State) -> str:
    return one_line(state.name)
