"""How several ways to do the same thing are timed against each other, and the row that comes of two of them.

Sides take turns, so that a machine that slows down slows all. Every bench uses this. Imports without torch, so that a
bench that measures memory starts small.
"""

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from throughline.core.errors import ThroughlineError

Side = Callable[[], object]

OURS = "ours"
"""Our own side among those that take turns."""

OnProgress = Callable[[str], None]
"""Takes a line about what is measured next."""


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
            duration = clock() - began
            if turn >= warm_up:
                seconds[name].append(duration)
    return seconds


def compare(
    name: str,
    rival: str,
    ours_values: Sequence[float],
    rival_values: Sequence[float],
    settings: dict[str, Any],
    predicted_ratio: float | None = None,
    unit: str = "seconds",
    ours_over_rival: bool = False,
) -> BenchRow:
    """The row of two lists of measurements; `ours_over_rival` turns its ratio round."""
    (low, ours, high), (rival_low, theirs, rival_high) = (
        np.quantile(values, (0.25, 0.5, 0.75)).tolist() for values in (ours_values, rival_values)
    )
    ratio, spreads = ours / theirs if ours_over_rival else theirs / ours, ((low, high), (rival_low, rival_high))
    return BenchRow(name, rival, ours, theirs, unit, ratio, predicted_ratio, *spreads, settings)


def measure_sides(
    name: str,
    ours: Side,
    rivals: Mapping[str, Side],
    trials: int,
    settings: dict[str, Any],
    own_settings: Callable[[str], dict[str, Any]] = lambda rival: {},
    count: float = 1.0,
    unit: str = "seconds",
    warm_up: int = 1,
) -> list[BenchRow]:
    """Times ours and every rival in turns: a row for each rival, in seconds for one of the `count` things that a turn
    does. `own_settings` of a rival are asked for after the timing, and may raise where it did something else."""
    seconds = take_turns({OURS: ours, **rivals}, trials, warm_up)
    for_one = {side: [duration / count for duration in durations] for side, durations in seconds.items()}
    return [
        compare(
            name, rival, for_one[OURS], for_one[rival], {**settings, "trials": trials, **own_settings(rival)}, unit=unit
        )
        for rival in rivals
    ]


def require_close(name: str, difference: float, tolerance: float, what: str) -> float:
    """The difference; ThroughlineError, which says `what` differs, where it is above the tolerance or not a number."""
    if not difference <= tolerance:
        raise ThroughlineError(
            f"{what} by {difference:.1e}, {tolerance:.0e} is allowed", name, "no time of it counts: report it"
        )
    return difference


@contextmanager
def on_threads(count: int | None) -> Iterator[None]:
    """`count` torch threads inside, torch's own number for None; afterwards as before."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def machine_settings(model: Any) -> dict[str, Any]:
    """What of machine and libraries decides the times, for a row's settings."""
    import torch
    import transformers

    from throughline.mllm.lora import base_of

    base = base_of(model)
    return {
        "threads": torch.get_num_threads(),
        "device": base.device.type,
        "dtype": str(base.dtype).removeprefix("torch."),
        "attention": base.config._attn_implementation,
        "torch": str(torch.__version__),
        "transformers": str(transformers.__version__),
    }
