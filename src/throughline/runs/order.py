"""The order in which answer paths, splits and whatever else has names are shown."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

ANSWER_ORDER = ("label", "reasoning", "likelihood", "mean_likelihood", "contrast", "prior")
SPLIT_ORDER = ("in", "out", "all")


def in_order(names: Iterable[str], order: Iterable[str]) -> tuple[str, ...]:
    """The names once each: the known ones in their order, then the others by name."""
    present = set(names)
    known = tuple(name for name in order if name in present)
    return known + tuple(sorted(present.difference(known)))


def ordered(frame: pd.DataFrame, **orders: Iterable[str]) -> pd.DataFrame:
    """The frame with columns of names that are grouped and sorted in their order, the known names before the others."""
    import pandas as pd

    # two unordered types of the same names are one and the same to pandas, whatever the order of the names
    dtypes = {
        name: pd.CategoricalDtype([*in_order(frame[name], order)], ordered=True) for name, order in orders.items()
    }
    return frame.astype(dtypes)
