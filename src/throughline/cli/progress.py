"""Progress of a long step, and of a run's units, on stderr: a bar in a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from throughline.cli.text import duration

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from throughline.experiment.engine.local import Progress

SECONDS_BETWEEN_LINES = 5.0


@contextlib.contextmanager
def progress(what: str, unit: str) -> Iterator[Callable[[int, int | None], None]]:
    """Yields `report_progress(done, total)` for a step named `what` that counts `unit`s; total None where unknown."""
    if not sys.stderr.isatty():
        yield _line_reporter(what, unit)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeRemainingColumn())
    with _bar(*columns) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _bar(*columns: Any) -> Bar:
    from rich.console import Console
    from rich.progress import Progress as Bar

    return Bar(*columns, console=Console(stderr=True), transient=True)


def _line_reporter(what: str, unit: str) -> Callable[[int, int | None], None]:
    start = last = time.monotonic()

    def report_progress(done: int, total: int | None) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < SECONDS_BETWEEN_LINES or done == total:
            return
        last = now
        line = f"{what}: {done:,}" + (f" of {total:,}" if total else "") + f" {unit}"
        if total and done:
            line += f", about {duration((now - start) * (total - done) / done)} left"
        print(line, file=sys.stderr, flush=True)

    return report_progress


class RunProgress(Protocol):
    """What `run_experiment` reports to."""

    def report_step(self, line: str) -> None:
        """A step before the units."""

    def report_units(self, state: Progress) -> None:
        """The state of the units, at least once a second."""


@contextlib.contextmanager
def run_progress() -> Iterator[RunProgress]:
    """The reporter that suits stderr."""
    if not sys.stderr.isatty():
        yield RunLines()
        return
    from rich.progress import BarColumn, TextColumn

    with _bar(BarColumn(), TextColumn("{task.description}")) as bar:
        yield RunBar(bar)


class RunLines:
    """A line for each step, each finished unit, and every few seconds."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._done = -1

    def report_step(self, line: str) -> None:
        """Printed at once."""
        print(line, file=sys.stderr, flush=True)

    def report_units(self, state: Progress) -> None:
        """Printed when a unit was finished or some seconds have passed."""
        now = time.monotonic()
        if state.done != self._done or now - self._last >= SECONDS_BETWEEN_LINES:
            self._last, self._done = now, state.done
            print(describe(state), file=sys.stderr, flush=True)


class RunBar:
    """A bar with the step, or the units at work, behind it."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._task = bar.add_task("", total=None)

    def report_step(self, line: str) -> None:
        """Shown behind a bar that only moves."""
        self._bar.update(self._task, description=line, total=None)

    def report_units(self, state: Progress) -> None:
        """Shown behind the share that is done."""
        description = describe(state).replace("[", r"\[")  # rich would take it for markup
        self._bar.update(self._task, description=description, completed=state.share, total=1.0)


def describe(state: Progress) -> str:
    """`3 of 6 units done, about 2 min left; sketch-mtct-seed0: step 20 of 90`."""
    line = f"{state.done} of {state.total} units done"
    left = state.seconds_left
    if left is not None and state.done < state.total:
        line += f", about {duration(left)} left"
    # the hash at the end of a unit's name helps nobody who watches
    running = (f"{name.rsplit('-', 1)[0]}: {doing}" for name, doing in state.running.items())
    return "; ".join([line, *running])
