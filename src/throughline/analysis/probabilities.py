"""How sure a model is of the tokens that stand in the text, before and after training.

    low   p(token | what is before it) < 0.25          high   > 0.75      (the paper's bounds)

The paper counts the "tokens moved from low to high" without a formula. Ours: `low_to_high` is the share of all tokens
that are low before and high after; `net`, what the share of high tokens gained, is what is set beside its figures.
"""

from __future__ import annotations

import numpy as np

from throughline.analysis.estimates import over_images
from throughline.analysis.records import Buckets, Context, Kind, Moved, Source, State
from throughline.analysis.tokens import TokenTable, require_same_tokens

LOW, HIGH = 0.25, 0.75
BARS = 20
"""Of the histogram."""


def buckets(table: TokenTable, state: State, source: Source, kind: Kind) -> Buckets | None:
    """The probabilities of one source's tokens; None where there are none."""
    chosen = table.of(source, kind)
    if not len(chosen):
        return None
    p = chosen.probability
    counts, _ = np.histogram(p, bins=BARS, range=(0.0, 1.0))
    return Buckets(
        state=state,
        source=source,
        kind=kind,
        images=chosen.images,
        tokens=len(chosen),
        low=over_images(p < LOW, chosen.sample_id),
        high=over_images(p > HIGH, chosen.sample_id),
        mean=over_images(p, chosen.sample_id),
        histogram=tuple(map(int, counts)),
    )


def moved(
    before: TokenTable, after: TokenTable, states: tuple[State, State], source: Source, kind: Kind
) -> Moved | None:
    """Where the same tokens were and are; None where there are none. ValueError when they are not the same tokens."""
    first, second = before.of(source, kind), after.of(source, kind)
    require_same_tokens(first, second)
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
        net=over_images((q > HIGH).astype(float) - (p > HIGH), first.sample_id, scale=100),
    )


def context(table: TokenTable, state: State, source: Source) -> Context | None:
    """The class tokens as the whole answer against those behind a chain, on images that have both; None for none.

    An image counts as much as its share of class tokens on both sides: the mean over its own tokens on each.
    """
    apart, behind = table.of("label", "class"), table.of(source, "class")
    both = sorted(set(apart.sample_id) & set(behind.sample_id))
    if not both:
        return None
    shares = {
        (side, bound): _share_by_image(tokens, both, bound)
        for side, tokens in (("without", apart), ("with", behind))
        for bound in ("low", "high")
    }
    gain = shares["with", "high"] - shares["without", "high"]
    return Context(
        state=state,
        source=source,
        images=len(both),
        without=float(shares["without", "high"].mean()),
        with_chain=float(shares["with", "high"].mean()),
        low_without=float(shares["without", "low"].mean()),
        low_with_chain=float(shares["with", "low"].mean()),
        net=over_images(gain, np.array(both, dtype=object), scale=100),
    )


def _share_by_image(table: TokenTable, images: list[str], bound: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """`(images,)`: of each image's tokens, the share that is low or high."""
    p = table.probability
    hit = (p < LOW if bound == "low" else p > HIGH).astype(np.float64)
    place = {name: number for number, name in enumerate(images)}
    rows = np.array([place.get(name, -1) for name in table.sample_id])
    kept = rows >= 0
    sums = np.bincount(rows[kept], weights=hit[kept], minlength=len(images))
    return sums / np.bincount(rows[kept], minlength=len(images))
