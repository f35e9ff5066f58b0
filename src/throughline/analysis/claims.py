"""A claim of the paper, to be set beside what a fold of an analysis has: `docs/findings.md` is made of them.

A claim is a sentence with a direction, fixed before a number is looked at. Each analysis lists its own as `CLAIMS`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from throughline.analysis.records import State
from throughline.metrics.intervals import Interval, difference_of

Value = Callable[[Any], Interval | None]
"""What a fold's record has, with its interval over images; None where it does not speak of it."""


@dataclass(frozen=True)
class Claim:
    """What the paper says, its number, how it is measured here, and one value for each fold.

    `above` is what the value has to exceed for the claim to hold, None where there is a number to set beside and
    nothing to decide."""

    says: str
    paper: str
    how: str
    value: Value
    unit: str = "points"
    above: float | None = 0.0
    held_out: bool = False
    """On held-out images, which differ from target to target; those that were trained on are partly the same."""


def recorded(field: str, measure: str, scale: float = 1.0, **wanted: str) -> Value:
    """The estimate `measure`, times `scale`, of the first record among a fold's `field` that is of what is wanted. A
    state is wanted by its name; a method whose rounds are over goes by its own name, too: its last round."""

    def value(fold: Any) -> Interval | None:
        for record in getattr(fold, field):
            if all(name in _names(fold, getattr(record, key)) for key, name in wanted.items()):
                estimate: Interval | None = getattr(record, measure)
                return None if estimate is None else estimate.scaled(scale)
        return None

    return value


def _names(fold: Any, value: State | str) -> set[str]:
    if not isinstance(value, State):
        return {value}
    last = max((other.round or 0 for other in fold.states if other.method == value.method), default=0)
    return {value.name, *([str(value.method)] if value.round and value.round == last else [])}


def exactly(value: float) -> Interval:
    """What is no mean over images: only seeds make it uncertain."""
    return Interval(low=value, high=value, mean=value)


def less(first: Value, second: Value) -> Value:
    """The difference, where a fold has both."""

    def value(fold: Any) -> Interval | None:
        a, b = first(fold), second(fold)
        return None if a is None or b is None else difference_of(a, b)

    return value
