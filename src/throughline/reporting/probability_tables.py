"""Token probabilities as tables, before and after training, with the paper's figures beside them. Called by
`analysis_page`."""

from __future__ import annotations

from typing import Literal

from throughline.analysis.records import Analysis, Buckets, Estimate
from throughline.reporting.folds import (
    KIND,
    WHOSE,
    averaged,
    by_state,
    drawn_notes,
    last_of_unit,
    mean_of,
    several_folds,
    together,
)
from throughline.reporting.published import NOTE
from throughline.reporting.tables import MISSING, Table


def probability_tables(analysis: Analysis) -> tuple[Table, ...]:
    """One per source and kind of tokens: each state's shares below 0.25 and above 0.75, and what moved since the
    base."""
    buckets = [one for fold in analysis.folds for one in fold.buckets]
    moved = [one for fold in analysis.folds for one in fold.moved if one.before.method is None]
    tables = []
    for source, kind in dict.fromkeys((one.source, one.kind) for one in buckets):
        ours = by_state([one for one in buckets if (one.source, one.kind) == (source, kind)])
        gone = together([one for one in moved if (one.source, one.kind) == (source, kind)], lambda one: one.after.name)
        rows = tuple(
            (
                name,
                str(sum(one.tokens for one in found)),
                averaged([one.low for one in found], 1, 100),
                averaged([one.high for one in found], 1, 100),
                averaged([one.mean for one in found], 3),
                mean_of([one.low_to_high for one in gone.get(name, [])]),
                mean_of([one.high_to_low for one in gone.get(name, [])]),
                averaged([one.net for one in gone.get(name, [])], sign="+"),
            )
            for name, found in ours.items()
        )
        tables.append(
            Table(
                title=f"Token probabilities: {WHOSE[source]}, {KIND[kind]}",
                columns=(
                    "weights",
                    "tokens",
                    "below 0.25, %",
                    "above 0.75, %",
                    "mean",
                    "low to high, %",
                    "high to low, %",
                    "gained above 0.75, points",
                ),
                rows=rows,
                notes=(f"Images that were trained on. {several_folds(analysis)}", *drawn_notes(analysis)),
            )
        )
    return tuple(tables)


def own_moved_table(analysis: Analysis) -> Table | None:
    """What the rounds moved on the model's own chains, from the base and from where they started."""
    moved = [one for fold in analysis.folds for one in fold.moved if one.source == "self"]
    if not moved:
        return None
    rows = []
    for (before, after, kind), found in together(
        moved, lambda one: (one.before.name, one.after.name, one.kind)
    ).items():
        rows.append(
            (
                f"{before} to {after}",
                KIND[kind],
                str(sum(one.tokens for one in found)),
                mean_of([one.low_to_high for one in found]),
                mean_of([one.high_to_low for one in found]),
                averaged([one.net for one in found], sign="+"),
            )
        )
    return Table(
        title="Token probabilities: the model's own chains, as the first round accepted them",
        columns=("weights", "tokens of", "tokens", "low to high, %", "high to low, %", "gained above 0.75, points"),
        rows=tuple(rows),
        notes=(several_folds(analysis), *drawn_notes(analysis)),
    )


def context_table(analysis: Analysis) -> Table | None:
    """What a teacher's chain before the class does to the base's probability of it."""
    found = [one for fold in analysis.folds for one in fold.context]
    if not found:
        return None
    row = (
        "tokens of the class",
        str(sum(one.images for one in found)),
        mean_of([one.low_without for one in found]),
        mean_of([one.low_with_chain for one in found]),
        mean_of([one.without for one in found]),
        mean_of([one.with_chain for one in found]),
        averaged([one.net for one in found], sign="+"),
    )
    return Table(
        title="The base, without and with a teacher's chain as context",
        columns=(
            "tokens", "images", "below 0.25, without, %", "with, %", "above 0.75, without, %", "with, %",
            "gained above 0.75, points",
        ),
        rows=(row,),
        notes=(several_folds(analysis), *drawn_notes(analysis)),
    )  # fmt: skip


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


def beside_the_paper(analysis: Analysis) -> Table | None:
    """The published figures about token probabilities, with what was measured here."""
    if not any(fold.buckets for fold in analysis.folds):
        return None
    rows = tuple(
        (quantity, published, method or "base", *_here(analysis, measure, method))
        for quantity, published, measure, method in _PUBLISHED
    )
    return Table(
        title="Beside the paper's figures",
        columns=(
            "quantity", "published", "weights here", "here, label question", "here, behind a teacher's chain",
            "here, behind own chains",
        ),
        rows=rows,
        notes=(
            f"{NOTE} TerraIncognita; under which question its class tokens stood is not known to us: both are given.",
            "Here, points: what the share above 0.75 gained from the base, a net change; the share that went from "
            "below 0.25 to above 0.75 stands in the tables above. Behind a chain a class has fewer tokens than alone, "
            "and the row with a chain as context weighs images alike, not tokens: rows are not parts of one sum.",
            *drawn_notes(analysis),
        ),
    )  # fmt: skip


def _here(analysis: Analysis, measure: Measure, method: str | None) -> tuple[str, str, str]:
    """A measure of some weights: under the label question, behind a teacher's chain, behind own chains."""
    match measure:
        case "with_chain":
            return MISSING, averaged([one.net for fold in analysis.folds for one in fold.context], sign="+"), MISSING
        case "chain_low":
            found = _buckets(analysis, method, "teacher", "chain")
            return MISSING, averaged([one.low for one in found], 1, 100), MISSING
        case "gained":
            sources = ("label", "teacher", "self")
            label, teacher, own = (averaged(_gained(analysis, method, source), sign="+") for source in sources)
            return label, teacher, own
        case _:
            of_class = (_buckets(analysis, method, source, "class") for source in ("label", "teacher"))
            label, teacher = (averaged([getattr(one, measure) for one in found], 1, 100) for found in of_class)
            return label, teacher, MISSING


def _buckets(analysis: Analysis, method: str | None, source: str, kind: str) -> list[Buckets]:
    """Of each unit of a method what it ended with."""
    wanted = (method, source, kind)
    found = [b for fold in analysis.folds for b in fold.buckets if (b.state.method, b.source, b.kind) == wanted]
    return last_of_unit(found, lambda one: one.state) if method is not None else found


def _gained(analysis: Analysis, method: str | None, source: str) -> list[Estimate]:
    """What the share of class tokens above 0.75 gained from the base to what a method's units ended with."""
    wanted = (method, source, "class")
    moved = [m for fold in analysis.folds for m in fold.moved if m.before.method is None]
    found = [m for m in moved if (m.after.method, m.source, m.kind) == wanted]
    return [one.net for one in last_of_unit(found, lambda one: one.after)]
