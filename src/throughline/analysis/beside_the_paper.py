"""The published figures about token probabilities, with what was measured here beside them, and the section of all that
is about token probabilities."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

from throughline.analysis.context import context_table
from throughline.analysis.folds import averaged
from throughline.analysis.paper import NOTE
from throughline.analysis.probabilities import own_moved_table, probability_figures, probability_tables
from throughline.analysis.records import State
from throughline.analysis.section import Scope, Section
from throughline.core.table import MISSING, Table
from throughline.metrics.intervals import Interval

Value = Callable[[Any], Interval | None]
"""What a fold's record has, with its interval over images; None where it does not speak of it."""
Measure = Literal["high", "low", "gained", "with_chain", "chain_low"]

_PUBLISHED: tuple[tuple[str, str, Measure, str], ...] = (
    ("class tokens above 0.75 after training on chains, %", "86.33", "high", "reasoning"),
    ("class tokens above 0.75 after training on labels, %", "92.23", "high", "cls"),
    ("class tokens above 0.75 after MTCT, %", "90.23", "high", "mtct"),
    ("class tokens, low to high, training on chains, points", "+1.88", "gained", "reasoning"),
    ("class tokens, low to high, training on labels, points", "+43.38", "gained", "cls"),
    ("class tokens, low to high, training on own chains, points", "+29.74", "gained", "sarr"),
    ("class tokens, low to high, with a chain as context, points", "+43.28", "with_chain", "base"),
    ("class tokens below 0.25 before, %", "7.59", "low", "base"),
    ("class tokens below 0.25 after MTCT, %", "3.19", "low", "mtct"),
    ("chain tokens still below 0.25 after MTCT, %", "19.33", "chain_low", "mtct"),
)
"""What the paper printed, which of our measures it is, and of which weights."""


def section(folds: Sequence[Any], scope: Scope) -> Section:
    """Token probabilities before and after training, from the records of all folds."""
    buckets, moves, contexts = (
        [r for fold in folds for r in getattr(fold, name)] for name in ("buckets", "moved", "context")
    )
    return Section(
        "tokens",
        "Token probabilities before and after",
        "The probability of each token of a text under the model, given all tokens before it.",
        (
            beside_the_paper(folds, scope),
            context_table(contexts, scope),
            *probability_tables(buckets, moves, scope),
            own_moved_table(moves, scope),
        ),
        probability_figures(buckets),
    )


def beside_the_paper(folds: Sequence[Any], scope: Scope) -> Table:
    """The published figures about token probabilities, with what was measured here of each fold: of a method what its
    last round ended with."""

    def share(weights: str, source: str, kind: str, which: str) -> str:
        return averaged(map(recorded("buckets", which, 100, state=weights, source=source, kind=kind), folds))

    def gained(weights: str, source: str) -> str:
        """What the share of class tokens above 0.75 gained from the base."""
        value = recorded("moved", "net", before="base", after=weights, source=source, kind="class")
        return averaged(map(value, folds), sign="+")

    def cells(measure: Measure, weights: str) -> tuple[str, ...]:
        """Under the label question, behind a teacher's chain, behind own chains."""
        if measure == "with_chain":
            return MISSING, averaged(map(recorded("context", "net"), folds), sign="+"), MISSING
        if measure == "chain_low":
            return MISSING, share(weights, "teacher", "chain", "low"), MISSING
        if measure == "gained":
            return tuple(gained(weights, source) for source in ("label", "teacher", "self"))
        return (*(share(weights, source, "class", measure) for source in ("label", "teacher")), MISSING)

    return Table(
        title="Compared with the paper's numbers",
        columns=(
            "quantity", "published", "weights here", "here, label question", "here, after a teacher's chain",
            "here, after own chains",
        ),
        rows=tuple(
            (quantity, published, weights, *cells(measure, weights))
            for quantity, published, measure, weights in _PUBLISHED
            if any(fold.buckets for fold in folds)
        ),
        notes=scope.notes(
            f"{NOTE} TerraIncognita. Which question its class tokens answer is open in the paper; both are shown.",
            "Here, points: net change of the share above 0.75. The share that went from below 0.25 to above 0.75 is in "
            "the tables below. The rows do not add up: after a chain a class has fewer tokens than alone, and the row "
            "with a chain as context gives every image, not every token, the same weight.",
        ),
    )  # fmt: skip


def recorded(field: str, measure: str | Value, scale: float = 1.0, **wanted: str) -> Value:
    """The estimate `measure`, or what it makes of the record, times `scale`, of the first record among a fold's `field`
    that is of what is wanted. A state is wanted by its name; a method whose rounds are over goes by its own name, too:
    its last round."""

    def value(fold: Any) -> Interval | None:
        for record in getattr(fold, field):
            if all(name in _names(fold, getattr(record, key)) for key, name in wanted.items()):
                estimate = measure(record) if callable(measure) else getattr(record, measure)
                return None if estimate is None else estimate.scaled(scale)
        return None

    return value


def _names(fold: Any, value: State | str) -> set[str]:
    if not isinstance(value, State):
        return {value}
    last = max((other.round or 0 for other in fold.states if other.method == value.method), default=0)
    return {value.name, *([str(value.method)] if value.round and value.round == last else [])}
