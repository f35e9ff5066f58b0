"""The published figures about token probabilities, with what was measured here beside them, and the section of all that
is about token probabilities."""

from collections.abc import Sequence
from typing import Literal

from throughline.analysis.context import Context, context_table
from throughline.analysis.folds import averaged, last_of_unit
from throughline.analysis.paper import NOTE
from throughline.analysis.probabilities import (
    Buckets,
    Moved,
    own_moved_table,
    probability_figures,
    probability_tables,
)
from throughline.analysis.section import Scope, Section
from throughline.core.table import MISSING, Table
from throughline.metrics.intervals import Interval

Measure = Literal["high", "low", "gained", "with_chain", "chain_low"]

_PUBLISHED: tuple[tuple[str, str, Measure, str | None], ...] = (
    ("class tokens above 0.75 after reasoning-chain SFT, %", "86.33", "high", "reasoning"),
    ("class tokens above 0.75 after direct-label SFT, %", "92.23", "high", "cls"),
    ("class tokens above 0.75 after MTCT, %", "90.23", "high", "mtct"),
    ("class tokens, low to high, reasoning-chain SFT, points", "+1.88", "gained", "reasoning"),
    ("class tokens, low to high, direct-label SFT, points", "+43.38", "gained", "cls"),
    ("class tokens, low to high, self-generated-chain SFT, points", "+29.74", "gained", "sarr"),
    ("class tokens, low to high, with a chain as context, points", "+43.28", "with_chain", None),
    ("class tokens below 0.25 before, %", "7.59", "low", None),
    ("class tokens below 0.25 after MTCT, %", "3.19", "low", "mtct"),
    ("chain tokens still below 0.25 after MTCT, %", "19.33", "chain_low", "mtct"),
)
"""What the paper printed, which of our measures it is, and of which weights (None: the base)."""


def section(buckets: Sequence[Buckets], moves: Sequence[Moved], contexts: Sequence[Context], scope: Scope) -> Section:
    """Token probabilities before and after training."""
    return Section(
        "tokens",
        "Token probabilities before and after",
        "The probability that the weights give to each token that stands in the text, all tokens before it given.",
        (
            beside_the_paper(buckets, moves, contexts, scope),
            context_table(contexts, scope),
            *probability_tables(buckets, moves, scope),
            own_moved_table(moves, scope),
        ),
        probability_figures(buckets),
    )


def beside_the_paper(
    buckets: Sequence[Buckets], moves: Sequence[Moved], contexts: Sequence[Context], scope: Scope
) -> Table:
    """The published figures about token probabilities, with what was measured here."""

    def share(method: str | None, source: str, kind: str, which: str) -> str:
        """Of each unit of a method what it ended with."""
        wanted = (method, source, kind)
        ours = [b for b in buckets if (b.state.method, b.source, b.kind) == wanted]
        ended = last_of_unit(ours, lambda record: record.state) if method is not None else ours
        return averaged([getattr(record, which) for record in ended], 1, 100)

    def gained(method: str | None, source: str) -> str:
        """What the share of class tokens above 0.75 gained from the base to what a method's units ended with."""
        wanted = (None, method, source, "class")
        ours = [m for m in moves if (m.before.method, m.after.method, m.source, m.kind) == wanted]
        nets: list[Interval] = [move.net for move in last_of_unit(ours, lambda move: move.after)]
        return averaged(nets, sign="+")

    def cells(measure: Measure, method: str | None) -> tuple[str, ...]:
        """Under the label question, behind a teacher's chain, behind own chains."""
        if measure == "with_chain":
            return MISSING, averaged([record.net for record in contexts], sign="+"), MISSING
        if measure == "chain_low":
            return MISSING, share(method, "teacher", "chain", "low"), MISSING
        if measure == "gained":
            return tuple(gained(method, source) for source in ("label", "teacher", "self"))
        return (*(share(method, source, "class", measure) for source in ("label", "teacher")), MISSING)

    return Table(
        title="Beside the paper's figures",
        columns=(
            "quantity", "published", "weights here", "here, label question", "here, behind a teacher's chain",
            "here, behind own chains",
        ),
        rows=tuple(
            (quantity, published, method or "base", *cells(measure, method))
            for quantity, published, measure, method in (_PUBLISHED if buckets else ())
        ),
        notes=scope.notes(
            f"{NOTE} TerraIncognita; under which question its class tokens stood is not known to us: both are given.",
            "Here, points: what the share above 0.75 gained from the base, a net change; the share that went from "
            "below 0.25 to above 0.75 stands in the tables above. Behind a chain a class has fewer tokens than alone, "
            "and the row with a chain as context weighs images alike, not tokens: rows are not parts of one sum.",
        ),
    )  # fmt: skip
