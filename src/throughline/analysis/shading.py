"""A few chains with the probability of each token, before and after: the page shades them token by token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from throughline.analysis.records import Record, Source, State
from throughline.analysis.tokens import tokens_of

if TYPE_CHECKING:
    import pandas as pd

SHADED = 3
"""Chains of each source that the page shows."""


class Shaded(Record):
    """A chain with its tokens' probabilities, before and after."""

    sample_id: str
    label: str
    source: Source
    before: State
    after: State
    tokens: tuple[tuple[str, float, float], ...]
    """Text, probability before, probability after."""


def shade(
    before: pd.DataFrame, after: pd.DataFrame, states: tuple[State, State], source: Source, labels: Mapping[str, str]
) -> list[Shaded]:
    """Some chains of a source, spread over its images; `labels` by sample id."""
    first, second = tokens_of(before, source), tokens_of(after, source)
    names = list(dict.fromkeys(first.sample_id))
    shaded = []
    for name in names[:: max(1, len(names) // SHADED)][:SHADED]:
        mine, theirs = first[first.sample_id == name], second[second.sample_id == name]
        tokens = zip(mine.text, mine.probability, theirs.probability, strict=True)
        shaded.append(
            Shaded(
                sample_id=name,
                label=labels[name],
                source=source,
                before=states[0],
                after=states[1],
                tokens=tuple((str(text), round(float(p), 4), round(float(q), 4)) for text, p, q in tokens),
            )
        )
    return shaded
