"""Where training makes the model more certain: next-token entropy before and after, token of the vocabulary by token.

The paper names the fifteen tokens of greatest reduction under each supervision and no formula. Ours: the entropy (nats)
of the distribution that predicts an occurrence, averaged over all occurrences of that token in the chains of a source,
tokens that come fewer than `minimum` times left out; reduction is the mean before minus the mean after.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from throughline.analysis.folds import mean_of, together
from throughline.analysis.paper import PAPER
from throughline.analysis.passages import CLASS, MENTION, TEXT
from throughline.analysis.records import WHOSE, Compared, Record, Source, State
from throughline.analysis.section import Scope, Section
from throughline.analysis.tokens import same_tokens
from throughline.core.table import Table, tabulate

if TYPE_CHECKING:
    import pandas as pd

TOP = 15
"""As many as the paper lists."""

MINIMUM = 5
"""Times a token has to come; ours."""


class TokenEntropy(Record):
    """A token of the vocabulary: how uncertain the model is where it comes next, before and after."""

    token: str
    count: int
    before: float
    after: float

    @property
    def reduction(self) -> float:
        """Before minus after, in nats."""
        return self.before - self.after


class EntropyTable(Compared):
    """Mean next-token entropy under the chains of one source, and the tokens where it fell most."""

    minimum: int
    """Times a token has to come to be counted."""
    tokens: int
    mean_before: float
    mean_after: float
    top: tuple[TokenEntropy, ...]
    about_classes: int
    """How many of `top` are part of a class name."""


class Overlap(Record):
    """Tokens that are in both `top` lists of a fold: under teacher's chains and under the model's own."""

    teacher: State
    own: State
    shared: tuple[str, ...]
    of: int


def entropy_table(
    before: pd.DataFrame,
    after: pd.DataFrame,
    states: tuple[State, State],
    source: Source,
    *,
    minimum: int = MINIMUM,
    top: int = TOP,
) -> EntropyTable | None:
    """The tokens of a source's chains, tags and ends left out; None where none comes often enough.

    A token is called by the characters that it is where it comes first, the blank before it included. ValueError when
    both tables are not about the same tokens.
    """
    first, second = same_tokens(before, after, source)
    words = np.isin(first.kind, (TEXT, MENTION, CLASS))
    first, second = first[words], second[words]
    ids, start, place, counts = np.unique(first.token_id, return_index=True, return_inverse=True, return_counts=True)
    often = np.flatnonzero(counts >= minimum)
    if not len(often):
        return None
    old = np.bincount(place, weights=first.entropy) / counts
    new = np.bincount(place, weights=second.entropy) / counts
    order = sorted(often, key=lambda i: (new[i] - old[i], ids[i]))[:top]
    named = set(first.token_id[np.isin(first.kind, (CLASS, MENTION))].tolist())
    return EntropyTable(
        before=states[0],
        after=states[1],
        source=source,
        minimum=minimum,
        tokens=len(first),
        mean_before=float(first["entropy"].to_numpy().mean()),
        mean_after=float(second["entropy"].to_numpy().mean()),
        top=tuple(
            TokenEntropy(
                token=str(first["text"].iloc[start[i]]), count=int(counts[i]), before=float(old[i]), after=float(new[i])
            )
            for i in order
        ),
        about_classes=sum(int(ids[i]) in named for i in order),
    )


def overlap(teacher: EntropyTable, own: EntropyTable) -> Overlap:
    """What both lists have in common."""
    names = {entry.token for entry in own.top}
    shared = tuple(entry.token for entry in teacher.top if entry.token in names)
    return Overlap(teacher=teacher.after, own=own.after, shared=shared, of=min(len(teacher.top), len(own.top)))


Folds = Sequence[tuple[str, Sequence[EntropyTable], Sequence[Overlap]]]
"""Name, tables and overlaps of each fold."""


def section(folds: Folds, scope: Scope) -> Section:
    """Mean entropies, what both lists share, and on demand each fold's lists."""
    return Section(
        "entropy",
        "Where next-token entropy fell",
        "The tokens at which next-token entropy (under teacher forcing) fell most during training, for teacher's "
        "chains and for own chains.",
        (mean_table([table for _, tables, _ in folds for table in tables], scope), _overlap_table(folds, scope)),
        folded=tuple(
            (f"Tokens where the entropy fell most: {name}", tuple(top_tokens(name, table) for table in tables))
            for name, tables, _ in folds
            if tables
        ),
    )


def mean_table(measured: Sequence[EntropyTable], scope: Scope) -> Table:
    """Mean next-token entropy before and after, and how many of the tokens where it fell most name a class."""
    grouped = together(measured, lambda table: (table.source, table.before.name, table.after.name))
    return tabulate(
        "Next-token entropy on teacher's chains and on own chains",
        grouped.values(),
        {
            "weights": lambda of: f"{of[0].before.name} to {of[0].after.name}",
            "chains": lambda of: WHOSE[of[0].source],
            "tokens": lambda of: str(sum(table.tokens for table in of)),
            "before, nats": lambda of: mean_of([table.mean_before for table in of], 2, 1.0),
            "after, nats": lambda of: mean_of([table.mean_after for table in of], 2, 1.0),
            "of the top, part of a class name": lambda of: (
                f"{sum(table.about_classes for table in of)} of {sum(len(table.top) for table in of)}"
            ),
        },
        scope.notes(
            f"Mean over folds. Published: {PAPER} finds no common tokens in the two lists: context words for GPT-4o's "
            "chains, category words for the model's own. Formula and minimum count are open in the paper."
        ),
    )


def top_tokens(fold: str, table: EntropyTable) -> Table:
    """The tokens where the entropy fell most in one fold."""
    return tabulate(
        f"{fold}: {WHOSE[table.source]}, {table.before.name} to {table.after.name}",
        table.top,
        {
            "token": lambda entry: _blanks_shown(entry.token),
            "times": lambda entry: str(entry.count),
            "before": lambda entry: f"{entry.before:.2f}",
            "after": lambda entry: f"{entry.after:.2f}",
            "fell by, nats": lambda entry: f"{entry.reduction:.2f}",
        },
        (f"Tokens that occur at least {table.minimum} times; ␣ is a space.",),
    )


def _overlap_table(folds: Folds, scope: Scope) -> Table:
    """Tokens in both top lists, fold by fold."""
    return tabulate(
        "Tokens in both lists",
        [(name, both) for name, _, overlaps in folds for both in overlaps],
        {
            "fold": lambda pair: pair[0],
            "under a teacher's chains": lambda pair: pair[1].teacher.name,
            "under own chains": lambda pair: pair[1].own.name,
            "shared": lambda pair: f"{len(pair[1].shared)} of {pair[1].of}",
            "tokens": lambda pair: " ".join(map(_blanks_shown, pair[1].shared)) or "none",
        },
        scope.notes(),
    )


def _blanks_shown(token: str) -> str:
    """A token with its blanks and line ends made visible."""
    return token.replace("\n", "⏎").replace(" ", "␣")
