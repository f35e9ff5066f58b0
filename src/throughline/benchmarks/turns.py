"""Several ways to do one thing, timed in turns: round after round, each round in another order.

`timing.alternate` is the same for two sides. Benches with more than one rival call this, so that ours is timed once.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping

from throughline.benchmarks.timing import Side


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
