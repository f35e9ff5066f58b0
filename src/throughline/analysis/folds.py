"""Numbers of an analysis over its folds: averaged here, and nowhere else. Called by the analyses for their tables and
figures."""

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Protocol, TypeVar

from throughline.analysis.records import State
from throughline.core.table import MISSING
from throughline.metrics.intervals import Interval, mean_and_error
from throughline.training.methods import METHODS

Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)


class OfState(Protocol):
    """A record about one state of the weights."""

    @property
    def state(self) -> State: ...  # noqa: D102


Measured = TypeVar("Measured", bound=OfState)


def averaged(estimates: Sequence[Interval], digits: int = 1, scale: float = 1.0, sign: str = "") -> str:
    """One fold: the mean with its interval; several: mean ± standard error over them; none: X."""
    if not estimates:
        return MISSING
    form = f"{sign}.{digits}f"
    if len(estimates) == 1:
        (value,) = estimates
        return f"{scale * value.mean:{form}} ({scale * value.low:{form}} to {scale * value.high:{form}})"
    over_folds = mean_and_error([scale * value.mean for value in estimates])
    return f"{over_folds.mean:{form}} ± {over_folds.error:.{digits}f}"


def mean_of(values: Sequence[float], digits: int = 1, scale: float = 100.0) -> str:
    """The mean over folds, X without any."""
    return f"{scale * math.fsum(values) / len(values):.{digits}f}" if values else MISSING


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
    order = list(METHODS)
    known = order.index(state.method) if state.method in METHODS else len(order)
    return (-1 if state.method is None else known, state.method or "", state.round or 0)


def last_of_unit(items: Iterable[Item], state_of: Callable[[Item], State]) -> list[Item]:
    """Of each unit what its last round has; a unit without rounds has one state."""
    last: dict[str | None, Item] = {}
    for item in items:
        state = state_of(item)
        kept = last.get(state.unit)
        if kept is None or (state.round or 0) > (state_of(kept).round or 0):
            last[state.unit] = item
    return list(last.values())
