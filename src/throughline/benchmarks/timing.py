"""How several ways to do the same thing are timed against each other, and the row that comes of two of them.

Sides take turns, so that a machine that slows down slows all. Every benchmark uses this.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

Side = Callable[[], object]


@dataclass(frozen=True)
class BenchRow:
    """One comparison. Values are medians in `unit`, spreads the first and third quartile.

    `ratio` is rival over ours; of memory and rates ours over rival. `predicted_ratio` is what a count of operations
    says, where there is one.
    """

    name: str
    rival: str
    ours_value: float
    rival_value: float
    unit: str
    ratio: float
    predicted_ratio: float | None
    ours_spread: tuple[float, float]
    rival_spread: tuple[float, float]
    settings: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        return asdict(self)


def take_turns(
    sides: Mapping[str, Side], trials: int, warm_up: int = 1, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each side in `trials` rounds, after `warm_up` rounds that are thrown away.

    Every round starts one side later than the last, so that none always runs on a machine that another has warmed.
    """
    names = list(sides)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(warm_up + trials):
        start = turn % len(names)
        for name in names[start:] + names[:start]:
            gc.collect()  # no side pays for another's waste
            began = clock()
            sides[name]()
            took = clock() - began
            if turn >= warm_up:
                seconds[name].append(took)
    return seconds


def compare(
    name: str,
    rival: str,
    ours_values: Sequence[float],
    rival_values: Sequence[float],
    predicted_ratio: float | None,
    settings: dict[str, Any],
    unit: str = "seconds",
    ours_over_rival: bool = False,
) -> BenchRow:
    """The row of two lists of measurements; `ours_over_rival` turns its ratio round."""
    ours_median, rival_median = float(np.median(ours_values)), float(np.median(rival_values))
    return BenchRow(
        name=name,
        rival=rival,
        ours_value=ours_median,
        rival_value=rival_median,
        unit=unit,
        ratio=ours_median / rival_median if ours_over_rival else rival_median / ours_median,
        predicted_ratio=predicted_ratio,
        ours_spread=_quartiles(ours_values),
        rival_spread=_quartiles(rival_values),
        settings=settings,
    )


def _quartiles(values: Sequence[float]) -> tuple[float, float]:
    """First and third quartile."""
    low, high = np.quantile(values, (0.25, 0.75))
    return float(low), float(high)
