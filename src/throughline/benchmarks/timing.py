"""How two ways to do the same thing are timed against each other, and the row that comes of it.

Sides take turns, and turns swap their order, so that a machine that slows down slows both. Every benchmark uses this.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

Side = Callable[[], object]


@dataclass(frozen=True)
class BenchRow:
    """One comparison. Values are medians in `unit`, spreads the first and third quartile, `ratio` rival over ours;
    `predicted_ratio` is what a count of operations says, where there is one."""

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


def alternate(
    ours: Side, rival: Side, trials: int, warm_up: int = 1, clock: Callable[[], float] = time.perf_counter
) -> tuple[list[float], list[float]]:
    """Seconds of each side in `trials` turns, after `warm_up` turns that are thrown away."""
    seconds: dict[Side, list[float]] = {ours: [], rival: []}
    for turn in range(warm_up + trials):
        for side in (ours, rival) if turn % 2 == 0 else (rival, ours):
            gc.collect()  # neither side pays for the other's waste
            began = clock()
            side()
            took = clock() - began
            if turn >= warm_up:
                seconds[side].append(took)
    return seconds[ours], seconds[rival]


def compare(
    name: str,
    rival: str,
    ours_seconds: list[float],
    rival_seconds: list[float],
    predicted_ratio: float | None,
    settings: dict[str, Any],
    unit: str = "seconds",
) -> BenchRow:
    """The row of two lists of timings."""
    ours_median, rival_median = float(np.median(ours_seconds)), float(np.median(rival_seconds))
    return BenchRow(
        name=name,
        rival=rival,
        ours_value=ours_median,
        rival_value=rival_median,
        unit=unit,
        ratio=rival_median / ours_median,
        predicted_ratio=predicted_ratio,
        ours_spread=_quartiles(ours_seconds),
        rival_spread=_quartiles(rival_seconds),
        settings=settings,
    )


def _quartiles(seconds: list[float]) -> tuple[float, float]:
    """First and third quartile."""
    low, high = np.quantile(seconds, (0.25, 0.75))
    return float(low), float(high)
