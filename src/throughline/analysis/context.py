"""What a teacher's chain before the class does to the base: without thinking, and with the chain as context."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from throughline.analysis.estimates import by_image, over_images
from throughline.analysis.folds import averaged, mean_of
from throughline.analysis.probabilities import HIGH, LOW
from throughline.analysis.records import OfState, Source, State
from throughline.analysis.section import Scope
from throughline.analysis.tokens import tokens_of
from throughline.core.table import Table
from throughline.metrics.intervals import Interval

if TYPE_CHECKING:
    import pandas as pd


class Context(OfState):
    """The base's probability of the class tokens without thinking (the label question) and with the chain before them
    (the reasoning question), the same images."""

    source: Source
    images: int
    without: float
    """Share of class tokens above 0.75 without a chain."""
    with_chain: float
    low_without: float
    low_with_chain: float
    net: Interval
    """What the share above 0.75 gained, in points."""


def context(table: pd.DataFrame, state: State, source: Source) -> Context | None:
    """The class tokens as the whole answer against those behind a chain, on images that have both; None for none.

    An image counts as much as its share of class tokens on both sides: the mean over its own tokens on each.
    """
    apart, behind = tokens_of(table, "label", "class"), tokens_of(table, source, "class")
    both = sorted(set(apart.sample_id) & set(behind.sample_id))
    if not both:
        return None
    low_without, high_without = _shares_by_image(apart, both)
    low_with, high_with = _shares_by_image(behind, both)
    return Context(
        state=state,
        source=source,
        images=len(both),
        without=float(high_without.mean()),
        with_chain=float(high_with.mean()),
        low_without=float(low_without.mean()),
        low_with_chain=float(low_with.mean()),
        net=over_images(high_with - high_without, np.array(both, dtype=object)).scaled(100),
    )


def context_table(measured: Sequence[Context], scope: Scope) -> Table:
    """The mean over folds, in one row."""
    images = sum(record.images for record in measured)
    shares = ("low_without", "low_with_chain", "without", "with_chain")
    cells = (mean_of([getattr(record, share) for record in measured]) for share in shares)
    net = averaged([record.net for record in measured], sign="+")
    return Table(
        title="The base, without and with a teacher's chain in the context",
        columns=(
            "tokens", "images", "below 0.25, without, %", "with, %", "above 0.75, without, %", "with, %",
            "change of the share above 0.75, points",
        ),
        rows=(("tokens of the class", str(images), *cells, net),) if measured else (),
        notes=scope.notes(scope.spread),
    )  # fmt: skip


def _shares_by_image(table: pd.DataFrame, images: list[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of each image's tokens, the shares that are low and high, `(images,)` each; `images` are sorted."""
    kept = table[table.sample_id.isin(images)]
    return by_image(kept.probability < LOW, kept.sample_id), by_image(kept.probability > HIGH, kept.sample_id)
