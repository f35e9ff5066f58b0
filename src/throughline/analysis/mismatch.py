"""How well a model expects a teacher's chains and its own, round by round: their perplexity under the model.

    perplexity = exp( mean over chains of (1/T) sum_t -log p(r_t | r_<t, x, q) )

The reduction is that of the paper's Eq. 1: over a chain's own tokens, then over chains. `distance` is our measure of
convergence: the Wasserstein distance between the distributions of token probabilities of two successive states.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import wasserstein_distance

from throughline.analysis.estimates import by_image, over_images, through
from throughline.analysis.folds import averaged, mean_of, together
from throughline.analysis.probabilities import LOW
from throughline.analysis.records import WHOSE, OfState, Source, State
from throughline.analysis.section import Scope, Section
from throughline.analysis.tokens import tokens_of
from throughline.core.plot import Panel, Plot, Series
from throughline.core.table import Table, tabulate
from throughline.metrics.intervals import Interval, mean_and_error
from throughline.training.methods import METHODS

if TYPE_CHECKING:
    import pandas as pd


class Mismatch(OfState):
    """The chains of a source under one state of the weights."""

    source: Source
    images: int
    perplexity: Interval
    """exp of the mean over chains of the mean NLL over a chain's tokens (the paper's per-sequence reduction)."""
    low: float
    """Share of chain tokens below 0.25."""
    distance: float | None
    """Wasserstein distance of the token probabilities' distribution from the round before's; None for the first."""


def mismatch(table: pd.DataFrame, state: State, source: Source, previous: pd.DataFrame | None) -> Mismatch | None:
    """One state and one source; `previous` is the state before, on the same source. None where there is no chain."""
    chosen = tokens_of(table, source)
    if not len(chosen):
        return None
    per_chain = by_image(chosen.nll, chosen.sample_id)
    earlier = tokens_of(previous, source) if previous is not None else None
    return Mismatch(
        state=state,
        source=source,
        images=len(per_chain),
        perplexity=through(over_images(per_chain, np.arange(len(per_chain))), np.exp),
        low=float((chosen.probability < LOW).mean()),
        distance=None
        if earlier is None or not len(earlier)
        else float(wasserstein_distance(earlier.probability, chosen.probability)),
    )


def section(measured: Sequence[Mismatch], scope: Scope) -> Section:
    """The perplexities as a table and by round."""
    return Section(
        "rounds-expected",
        "Rounds: perplexity of the chains under the model",
        "Lower means more probable under the model. The teacher's chains are the same texts in every row. Own chains "
        "are new texts in each row: those that the weights of that row wrote and that were accepted.",
        (mismatch_table(measured, scope),),
        (perplexity_figure(measured, scope),),
    )


def mismatch_table(measured: Sequence[Mismatch], scope: Scope) -> Table:
    """Perplexity of teacher's and own chains by state, and how far a round moved the token probabilities."""
    grouped = together(measured, lambda record: (record.source, record.state.name))
    return tabulate(
        "Perplexity of the chains under the model",
        grouped.values(),
        {
            "weights": lambda of: of[0].state.name,
            "chains": lambda of: WHOSE[of[0].source],
            "images": lambda of: str(sum(record.images for record in of)),
            "perplexity": lambda of: averaged([record.perplexity for record in of], 2),
            "tokens below 0.25, %": lambda of: mean_of([record.low for record in of]),
            "distance from the row before": lambda of: mean_of([record.distance for record in of], 3, 1.0),
        },
        scope.notes(
            f"Perplexity: exp of the mean over chains of the mean NLL over a chain's tokens. {scope.spread}",
            "Own chains are new texts in each row: for the base its own; for the weights before the first round those "
            "that this round accepted; for each later row those that its round accepted.",
            "Distance: Wasserstein distance between the distributions of token probabilities of two successive rows.",
        ),
    )


def perplexity_figure(measured: Sequence[Mismatch], scope: Scope) -> Plot:
    """By round of each method with rounds, teacher's chains left and own chains right, on one logarithmic axis."""
    present = {record.state.method for record in measured}
    last = max((record.state.round or 0 for record in measured), default=0)
    ticks = list(zip(range(-1, last + 1), ("base", "start", *map(str, range(1, last + 1))), strict=True))
    panels, rows = [], []
    for source, y_label in (("teacher", "perplexity"), ("self", "")):
        own, series = [record for record in measured if record.source == source], []
        for look, (method, about) in enumerate(METHODS.items()):
            points = _points(own, method) if about.self_labelled and method in present else []
            if points:
                xs, middles, lows, highs = zip(*points, strict=True)
                series.append(Series(method, xs, middles, colour=look, marker=look, dash=look, whiskers=(lows, highs)))
                rows += [(method, source, *point) for point in points]
        x_label = "round of self-labelling"
        panels.append(Panel(tuple(series), WHOSE[source], x_label, y_label, x_ticks=ticks, logarithmic=True))
    whiskers = "95 % intervals over images" if scope.folds == 1 else "standard error over folds"
    return Plot(
        "perplexity",
        f"Perplexity of teacher's and own chains by round of self-labelling; whiskers: {whiskers}",
        tuple(panels),
        ("method", "chains", "round", "perplexity", "low", "high"),
        tuple(rows),
        height=3.2,
        across=2,
        shared="y",
    )


def summary(measured: Sequence[Mismatch]) -> list[str]:
    """A line for each source and state."""
    grouped = together(measured, lambda record: (record.source, record.state.name))
    return [
        f"perplexity of {WHOSE[source]} under {name}: {averaged([record.perplexity for record in of_folds], 2)}"
        for (source, name), of_folds in grouped.items()
    ]


def _points(measured: Sequence[Mismatch], method: str) -> list[tuple[int, float, float, float]]:
    """Round, perplexity and the ends of its whisker: -1 for the base, 0 for where the rounds start."""
    start = METHODS[method].starts_from

    def number_of(state: State) -> int | None:
        if state.method == method:
            return state.round  # weights that were chosen among the rounds are none of them
        return {None: -1, start: 0}.get(state.method) if state.round is None else None

    numbered = together(measured, lambda record: number_of(record.state))
    points = []
    for number in sorted(number for number in numbered if number is not None):
        estimates = [record.perplexity for record in numbered[number]]
        over = mean_and_error([estimate.mean for estimate in estimates])
        alone = len(estimates) == 1
        ends = (estimates[0].low, estimates[0].high) if alone else (over.mean - over.error, over.mean + over.error)
        points.append((number, over.mean, *ends))
    return points
