"""Where training makes the model more certain: next-token entropy before and after, token of the vocabulary by token.

The paper names the fifteen tokens of greatest reduction under each supervision and no formula. Ours: the entropy (nats)
of the distribution that predicts an occurrence, averaged over all occurrences of that token in the chains of a source,
tokens that come fewer than `minimum` times left out; reduction is the mean before minus the mean after.
"""

from __future__ import annotations

import numpy as np

from throughline.analysis.passages import CLASS, MENTION, TEXT
from throughline.analysis.records import EntropyTable, Overlap, Source, State, TokenEntropy
from throughline.analysis.tokens import TokenTable, require_same_tokens

TOP = 15
"""As many as the paper lists."""

MINIMUM = 5
"""Times a token has to come; ours."""


def entropy_table(
    before: TokenTable,
    after: TokenTable,
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
    first, second = before.of(source), after.of(source)
    require_same_tokens(first, second)
    words = np.isin(first.kind, (TEXT, MENTION, CLASS))
    first, second = first.where(words), second.where(words)
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
        mean_before=float(first.entropy.mean()),
        mean_after=float(second.entropy.mean()),
        top=tuple(
            TokenEntropy(
                token=str(first.text[start[i]]), count=int(counts[i]), before=float(old[i]), after=float(new[i])
            )
            for i in order
        ),
        about_classes=sum(int(ids[i]) in named for i in order),
    )


def overlap(teacher: EntropyTable, own: EntropyTable) -> Overlap:
    """What both lists have in common."""
    names = {one.token for one in own.top}
    shared = tuple(one.token for one in teacher.top if one.token in names)
    return Overlap(teacher=teacher.after, own=own.after, shared=shared, of=min(len(teacher.top), len(own.top)))
