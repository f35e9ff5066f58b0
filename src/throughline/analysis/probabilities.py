"""How sure a model is of the tokens that stand in the text, before and after training.

    low   p(token | what is before it) < 0.25          high   > 0.75      (the paper's bounds)

The paper counts the "tokens moved from low to high" without a formula. Ours: `low_to_high` is the share of all tokens
that are low before and high after; `net`, what the share of high tokens gained, is what is set beside its figures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from throughline.analysis.estimates import over_images
from throughline.analysis.folds import averaged, by_state, last_of_unit, mean_of, together
from throughline.analysis.records import BASE, KIND, WHOSE, Compared, Kind, OfState, Source, State
from throughline.analysis.section import Scope
from throughline.analysis.tokens import same_tokens, tokens_of
from throughline.core.plot import Panel, Plot, Series
from throughline.core.table import Table, tabulate
from throughline.metrics.intervals import Interval

if TYPE_CHECKING:
    import pandas as pd

LOW, HIGH = 0.25, 0.75
BARS = 20
"""Of the histogram."""


class Buckets(OfState):
    """Probabilities of the tokens that stand in the text, under teacher forcing, of one state."""

    source: Source
    kind: Kind
    images: int
    tokens: int
    low: Interval
    """Share below 0.25."""
    high: Interval
    """Share above 0.75."""
    mean: Interval
    histogram: tuple[int, ...]
    """Tokens in twenty buckets of equal width from 0 to 1."""


class Moved(Compared):
    """Where the same tokens were before and are after. `low_to_high` is the share of all tokens that were below 0.25
    and are above 0.75, `high_to_low` the reverse; `net` is what the share above 0.75 gained, in points."""

    kind: Kind
    tokens: int
    low_to_high: float
    high_to_low: float
    net: Interval


def buckets(table: pd.DataFrame, state: State, source: Source, kind: Kind) -> Buckets | None:
    """The probabilities of one source's tokens; None where there are none."""
    chosen = tokens_of(table, source, kind)
    if not len(chosen):
        return None
    p = chosen.probability
    counts, _ = np.histogram(p, bins=BARS, range=(0.0, 1.0))
    return Buckets(
        state=state,
        source=source,
        kind=kind,
        images=chosen["sample_id"].nunique(),
        tokens=len(chosen),
        low=over_images(p < LOW, chosen.sample_id),
        high=over_images(p > HIGH, chosen.sample_id),
        mean=over_images(p, chosen.sample_id),
        histogram=tuple(map(int, counts)),
    )


def moved(
    before: pd.DataFrame, after: pd.DataFrame, states: tuple[State, State], source: Source, kind: Kind
) -> Moved | None:
    """Where the same tokens were and are; None where there are none. ValueError when they are not the same tokens."""
    first, second = same_tokens(before, after, source, kind)
    if not len(first):
        return None
    p, q = first.probability, second.probability
    return Moved(
        before=states[0],
        after=states[1],
        source=source,
        kind=kind,
        tokens=len(first),
        low_to_high=float(((p < LOW) & (q > HIGH)).mean()),
        high_to_low=float(((p > HIGH) & (q < LOW)).mean()),
        net=over_images((q > HIGH).astype(float) - (p > HIGH), first.sample_id).scaled(100),
    )


def probability_tables(measured: Sequence[Buckets], moves: Sequence[Moved], scope: Scope) -> tuple[Table, ...]:
    """One for each source and kind of tokens: every state's shares below 0.25 and above 0.75, and what moved since the
    base."""
    from_base = together(
        (move for move in moves if move.before.method is None), lambda move: (move.source, move.kind, move.after.name)
    )

    def since_base(cell: Callable[[Sequence[Moved]], str]) -> Callable[[Sequence[Buckets]], str]:
        return lambda of: cell(from_base.get((of[0].source, of[0].kind, of[0].state.name), []))

    return tuple(
        tabulate(
            f"Token probabilities: {WHOSE[source]}, {KIND[kind]}",
            by_state(ours).values(),
            {
                "weights": lambda of: of[0].state.name,
                "tokens": lambda of: str(sum(record.tokens for record in of)),
                "below 0.25, %": lambda of: averaged([record.low for record in of], 1, 100),
                "above 0.75, %": lambda of: averaged([record.high for record in of], 1, 100),
                "mean": lambda of: averaged([record.mean for record in of], 3),
                **{name: since_base(cell) for name, cell in _MOVED.items()},
            },
            scope.notes(f"Training images. {scope.spread}"),
        )
        for (source, kind), ours in together(measured, lambda record: (record.source, record.kind)).items()
    )


def own_moved_table(moves: Sequence[Moved], scope: Scope) -> Table:
    """What the rounds moved on the model's own chains, from the base and from where they started."""
    own = together(
        (move for move in moves if move.source == "self"), lambda move: (move.before.name, move.after.name, move.kind)
    )
    return tabulate(
        "Token probabilities: the model's own chains that the first round accepted",
        own.values(),
        {
            "weights": lambda of: f"{of[0].before.name} to {of[0].after.name}",
            "tokens of": lambda of: KIND[of[0].kind],
            "tokens": lambda of: str(sum(move.tokens for move in of)),
            **_MOVED,
        },
        scope.notes(scope.spread),
    )


_MOVED: dict[str, Callable[[Sequence[Moved]], str]] = {
    "low to high, %": lambda of: mean_of([move.low_to_high for move in of]),
    "high to low, %": lambda of: mean_of([move.high_to_low for move in of]),
    "change of the share above 0.75, points": lambda of: averaged([move.net for move in of], sign="+"),
}
"""Columns about what moved."""


def probability_figures(measured: Sequence[Buckets]) -> tuple[Plot, ...]:
    """One for each source and kind of tokens: a panel for each method, the base behind it. Counts of all folds
    together."""
    grouped = together(measured, lambda record: (record.source, record.kind))
    return tuple(_histograms(ours, source, kind) for (source, kind), ours in grouped.items())


def summary(moves: Sequence[Moved]) -> list[str]:
    """What the share of sure tokens gained from the base, of class tokens alone and a teacher's chain tokens."""
    shown = {("label", "class"): "class tokens alone", ("teacher", "chain"): "a teacher's chain tokens"}
    from_base = (move for move in moves if move.before.method is None and (move.source, move.kind) in shown)
    grouped = together(from_base, lambda move: (move.source, move.kind, move.after.name))
    return [
        f"{shown[source, kind]} above 0.75, {name} − base: {averaged([m.net for m in of_folds], sign='+')} points"
        for (source, kind, name), of_folds in grouped.items()
    ]


def _histograms(measured: Sequence[Buckets], source: str, kind: str) -> Plot:
    base = [record for record in measured if record.state == BASE]
    ended = last_of_unit(record for record in measured if record.state != BASE)
    counts = {
        name: np.sum([record.histogram for record in of_folds], axis=0)
        for name, of_folds in by_state([*base, *ended]).items()
    }
    shares = {name: (100 * tokens / max(1, tokens.sum())).tolist() for name, tokens in counts.items()}
    edges = np.linspace(0, 1, len(measured[0].histogram) + 1).tolist()
    panels: list[Panel] = []
    for name in (name for name in shares if base and name != BASE.name):
        series = (
            Series("base", edges, shares[BASE.name], kind="area", colour=6, alpha=0.45),
            Series("after training", edges, shares[name], kind="steps", width=1.6),
        )
        panels.append(Panel(series, name, y_label="" if panels else "tokens (%)", rulers=(LOW, HIGH)))
    rows = [
        (name, low, high, int(count))
        for name, tokens in counts.items()
        for low, high, count in zip(edges[:-1], edges[1:], tokens, strict=True)
    ]
    return Plot(
        f"probabilities-{source}-{kind}",
        f"Token probabilities before and after training: {WHOSE[source]}, {KIND[kind]}",
        tuple(panels),
        ("weights", "from", "to", "tokens"),
        tuple(rows) if panels else (),
        height=2.0,
        x_label="probability of the token",
        shared="xy",
    )
