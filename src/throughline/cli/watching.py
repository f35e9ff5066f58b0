"""A run's progress on stderr: a bar with what is at work in a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from throughline.experiment.scheduling import Progress

SECONDS_BETWEEN_LINES = 5.0


class Watcher(Protocol):
    """What `run_experiment` reports to."""

    def told(self, line: str) -> None:
        """A step before the units."""

    def progressed(self, progress: Progress) -> None:
        """The state of the units, at least once a second."""


@contextlib.contextmanager
def watching() -> Iterator[Watcher]:
    """The watcher that suits stderr."""
    if not sys.stderr.isatty():
        yield Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    with Bar(BarColumn(), TextColumn("{task.description}"), console=Console(stderr=True), transient=True) as bar:
        yield _Bar(bar)


class Lines:
    """A line for each step, each finished unit, and every few seconds."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._done = -1

    def told(self, line: str) -> None:
        """Printed at once."""
        print(line, file=sys.stderr, flush=True)

    def progressed(self, progress: Progress) -> None:
        """Printed when a unit was finished or some seconds have passed."""
        now = time.monotonic()
        if progress.done == self._done and now - self._last < SECONDS_BETWEEN_LINES:
            return
        self._last, self._done = now, progress.done
        print(describe(progress), file=sys.stderr, flush=True)


class _Bar:
    def __init__(self, bar: object) -> None:
        from rich.progress import Progress as Bar

        assert isinstance(bar, Bar)
        self._bar = bar
        self._task = bar.add_task("", total=None)

    def told(self, line: str) -> None:
        self._bar.update(self._task, description=line, total=None)

    def progressed(self, progress: Progress) -> None:
        self._bar.update(
            self._task, description=describe(progress).replace("[", r"\["), completed=progress.share, total=1.0
        )


def describe(progress: Progress) -> str:
    """`3 of 6 units done, about 2 min left; sketch-mtct-seed0: step 20 of 90`."""
    line = f"{progress.done} of {progress.total} units done"
    left = progress.seconds_left
    if left is not None and progress.done < progress.total:
        line += f", about {duration(left)} left"
    # the hash at the end of a unit's name helps nobody who watches
    running = (f"{name.rsplit('-', 1)[0]}: {told}" for name, told in progress.running.items())
    return "; ".join([line, *running])


def duration(seconds: float) -> str:
    """`40 s`, `12 min` or `3.5 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
