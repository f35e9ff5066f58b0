"""Numbers of an analysis over its folds: averaged here, and nowhere else. Called by the analyses for their tables and
figures."""

import math
from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

from throughline.analysis.records import OfState, State
from throughline.core.table import MISSING
from throughline.metrics.intervals import Interval, mean_and_error
from throughline.training.methods import METHODS

Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)


Measured = TypeVar("Measured", bound=OfState)


def averaged(estimates: Iterable[Interval | None], digits: int = 1, scale: float = 1.0, sign: str = "") -> str:
    """Of the folds that have an estimate: one: the mean with its interval; several: mean ± standard error over them;
    none: X."""
    known = [estimate for estimate in estimates if estimate is not None]
    if not known:
        return MISSING
    form = f"{sign}.{digits}f"
    if len(known) == 1:
        (value,) = known
        return f"{scale * value.mean:{form}} ({scale * value.low:{form}} to {scale * value.high:{form}})"
    over_folds = mean_and_error([scale * value.mean for value in known])
    return f"{over_folds.mean:{form}} ± {over_folds.error:.{digits}f}"


def mean_of(values: Iterable[float | None], digits: int = 1, scale: float = 100.0) -> str:
    """The mean over folds that have a value, X without any."""
    known = [value for value in values if value is not None]
    return f"{scale * math.fsum(known) / len(known):.{digits}f}" if known else MISSING


def together(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """The items of each key, in the order in which keys come first."""
    grouped: dict[Key, list[Item]] = {}
    for item in items:
        grouped.setdefault(key(item), []).append(item)
    return grouped


def by_state(measured: Iterable[Measured]) -> dict[str, list[Measured]]:
    """Records by the name of their state, over folds: the base first, then methods in their order, rounds last."""
    grouped = together(measured, lambda record: record.state)
    merged: dict[str, list[Measured]] = {}
    for state in sorted(grouped, key=_place):
        merged.setdefault(state.name, []).extend(grouped[state])
    return merged


def _place(state: State) -> tuple[int, str, int]:
    order = [None, *METHODS]
    return (order.index(state.method) if state.method in order else len(order), state.method or "", state.round or 0)


def last_of_unit(measured: Iterable[Measured]) -> list[Measured]:
    """Of each unit what its last round has; a unit without rounds has one state."""
    of_units = together(measured, lambda record: record.state.unit)
    return [max(own, key=lambda record: record.state.round or 0) for own in of_units.values()]
