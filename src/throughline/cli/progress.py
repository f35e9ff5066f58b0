"""Progress of a long step, and of a run's units, on stderr: a bar in a terminal, a line every few seconds elsewhere.
The rows of measured units stay above the bar."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from throughline.cli.rows import measured_rows
from throughline.cli.text import duration

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from throughline.experiment.engine.local import Progress

SECONDS_BETWEEN_LINES = 5.0


class Pace:
    """When to speak again: `seconds` after the last time, and nothing twice."""

    def __init__(self, seconds: float = SECONDS_BETWEEN_LINES) -> None:
        self.seconds = seconds
        self.last = time.monotonic()
        self._said: set[str] = set()

    def say_once(self, line: str) -> None:
        """A line on stderr, unless it stands there already."""
        if line not in self._said:
            self._said.add(line)
            say(line)

    def is_due(self, at_once: bool = False) -> bool:
        """Whether it is time, or `at_once`; if so, the seconds begin anew."""
        now = time.monotonic()
        due = at_once or now - self.last >= self.seconds
        self.last = now if due else self.last
        return due


def say(line: str) -> None:
    """A line on stderr, at once."""
    print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def progress(what: str, unit: str) -> Iterator[Callable[[int, int | None], None]]:
    """Yields `report_progress(done, total)` for a step named `what` that counts `unit`s; total None where unknown."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeRemainingColumn())
    start, pace = time.monotonic(), Pace()
    with _bar(*columns) as bar:
        task = bar.add_task(what, total=None) if bar else None

        def report_progress(done: int, total: int | None) -> None:
            if bar and task is not None:
                bar.update(task, completed=done, total=total)
            elif done != total and pace.is_due():
                left = (time.monotonic() - start) * (total - done) / done if total and done else None
                line = f"{what}: {done:,}" + (f" of {total:,}" if total else "") + f" {unit}"
                pace.say_once(line if left is None else f"{line}, about {duration(left)} left")

        yield report_progress


def _bar(*columns: Any) -> contextlib.AbstractContextManager[Bar | None]:
    """None where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import Progress as Bar

    return (
        Bar(*columns, console=Console(stderr=True), transient=True) if sys.stderr.isatty() else contextlib.nullcontext()
    )


@contextlib.contextmanager
def run_progress() -> Iterator[RunProgress]:
    """What `run_experiment` reports to."""
    from rich.progress import BarColumn, TextColumn

    with _bar(BarColumn(), TextColumn("{task.description}")) as bar:
        yield RunProgress(bar)


class RunProgress:
    """A row for each unit that is measured; below them a bar with the step, or the units at work, behind it, without a
    bar a line for each step, each finished unit, and every few seconds."""

    def __init__(self, bar: Bar | None) -> None:
        self._bar, self._pace, self._ended, self._shown = bar, Pace(), -1, 0
        if bar:
            self._task = bar.add_task("", total=None)

    def report_step(self, line: str) -> None:
        """A step before the units, or a warning, which stays."""
        if self._bar and line.startswith("warning: "):
            self._print(line)
        elif self._bar:
            self._bar.update(self._task, description=line, total=None)
        else:
            self._pace.say_once(line)

    def report_units(self, state: Progress) -> None:
        """The state of the units, at least once a second."""
        if len(state.done) > self._shown:
            for row in measured_rows(state, self._shown):
                self._print("  ".join([row, *_time_left(state)]))
            self._shown = len(state.done)
        if self._bar:
            description = describe(state).replace("[", r"\[")  # rich would take it for markup
            self._bar.update(self._task, description=description, completed=state.share, total=1.0)
        elif self._pace.is_due(at_once=len(state.done) + state.lost != self._ended):
            self._ended = len(state.done) + state.lost
            self._pace.say_once(describe(state))

    def _print(self, line: str) -> None:
        """A line that stays, as wide as it is."""
        if self._bar:
            self._bar.console.print(line, markup=False, highlight=False, emoji=False, soft_wrap=True)
        else:
            say(line)


def describe(state: Progress) -> str:
    """`3 of 6 units done, about 2 min left; sketch-mtct-seed0: step 20 of 90`."""
    lost = (f"{state.lost} failed or skipped",) if state.lost else ()
    line = ", ".join([f"{len(state.done)} of {len(state.units)} units done", *lost, *_time_left(state)])
    # the hash at the end of a unit's name helps nobody who watches
    running = (f"{name.rsplit('-', 1)[0]}: {doing}" for name, doing in state.running.items())
    return "; ".join([line, *running])


def _time_left(state: Progress) -> tuple[str, ...]:
    """`about 2 min left`; nothing where it is unknown, or nothing is left to do."""
    known = state.seconds_left is not None and state.share < 1
    return (f"about {duration(state.seconds_left or 0.0)} left",) if known else ()
