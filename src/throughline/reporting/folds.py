"""Numbers of an analysis over its folds: averaged here, and nowhere else; and the names they are shown under. Called by
the modules that make the analyses' tables and figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Protocol, TypeVar

from throughline.analysis.records import Analysis, Curve, Estimate, State
from throughline.metrics.intervals import mean_and_error
from throughline.reporting.summaries import METHOD_ORDER, in_order
from throughline.reporting.tables import DRAWN_NOTE, MISSING
from throughline.reporting.untrusted import visible

WHOSE = {"label": "the class as the whole answer", "teacher": "a teacher's chains", "self": "the model's own chains"}
KIND = {"class": "tokens of the class", "chain": "all tokens of the chain"}

Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)


class OfState(Protocol):
    """A record about one state of the weights."""

    @property
    def state(self) -> State: ...  # noqa: D102


Measured = TypeVar("Measured", bound=OfState)


def several_folds(analysis: Analysis) -> str:
    """What stands behind a number, for a table's notes."""
    if len(analysis.folds) == 1:
        return "95 % bootstrap intervals over images."
    return f"Mean ± standard error over {len(analysis.folds)} folds (targets and seeds)."


def averaged(found: Sequence[Estimate], digits: int = 1, scale: float = 1.0, sign: str = "") -> str:
    """One fold: the mean with its interval; several: mean ± standard error over them; none: X."""
    if not found:
        return MISSING
    form = f"{sign}.{digits}f"
    if len(found) == 1:
        one = found[0]
        return f"{scale * one.mean:{form}} ({scale * one.low:{form}} to {scale * one.high:{form}})"
    value = mean_and_error([scale * one.mean for one in found])
    return f"{value.mean:{form}} ± {value.error:.{digits}f}"


def mean_of(found: Sequence[float], digits: int = 1, scale: float = 100.0) -> str:
    """The mean over folds, X without any."""
    return f"{scale * math.fsum(found) / len(found):.{digits}f}" if found else MISSING


def together(found: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """The items of each key, in the order in which keys come first."""
    grouped: dict[Key, list[Item]] = {}
    for one in found:
        grouped.setdefault(key(one), []).append(one)
    return grouped


MEASURED = {"class_probability": "class probability", "losses": "loss, nats"}
"""What a `Curve` has by optimiser step."""


def mean_curves(curves: Sequence[Curve]) -> dict[tuple[str, str, str], tuple[list[int], list[float]]]:
    """Steps and values by (measure, part, method), the mean over units; in the order in which they are shown.

    Units of unlike length would break the line where one of them ends: only steps that all of them have.
    """
    found: dict[tuple[str, str, str], dict[int, list[float]]] = {}
    for measure in MEASURED:
        for part in in_order((name for one in curves for name in getattr(one, measure)), ("label", "chain")):
            for one in curves:
                logged = found.setdefault((measure, part, one.method), {})
                for step, value in zip(one.steps, getattr(one, measure).get(part, ()), strict=False):
                    if value is not None:
                        logged.setdefault(step, []).append(value)
    means = {}
    for key, logged in found.items():
        most = max(map(len, logged.values()), default=0)
        steps = [step for step in sorted(logged) if len(logged[step]) == most]
        if steps:
            means[key] = (steps, [math.fsum(logged[step]) / most for step in steps])
    return means


def by_state(found: Iterable[Measured]) -> dict[str, list[Measured]]:
    """Records by the name of their state, over folds: the base first, then methods in their order, rounds last."""
    grouped = together(found, lambda one: one.state)
    merged: dict[str, list[Measured]] = {}
    for state in sorted(grouped, key=place_of):
        merged.setdefault(state.name, []).extend(grouped[state])
    return merged


def place_of(state: State) -> tuple[int, str, int]:
    """Where a state stands in a table."""
    known = METHOD_ORDER.index(state.method) if state.method in METHOD_ORDER else len(METHOD_ORDER)
    return (-1 if state.method is None else known, state.method or "", state.round or 0)


def last_of_unit(found: Iterable[Item], state_of: Callable[[Item], State]) -> list[Item]:
    """Of each unit what its last round has; a unit without rounds has one state."""
    last: dict[str | None, Item] = {}
    for one in found:
        state = state_of(one)
        kept = last.get(state.unit)
        if kept is None or (state.round or 0) > (state_of(kept).round or 0):
            last[state.unit] = one
    return list(last.values())


def shown_token(token: str) -> str:
    """A token with its blanks and line ends made visible."""
    return visible(token.replace("\n", "⏎").replace(" ", "␣"))


def drawn_notes(analysis: Analysis) -> tuple[str, ...]:
    """What has to stand under every table of the drawn world."""
    return (DRAWN_NOTE,) if analysis.drawn else ()
