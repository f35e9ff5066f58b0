"""Units over worker processes: each starts when what it needs is done, those with most work behind them first.

Which worker does what, and when, changes no result: a unit reads its config, its images and its parents' folders only.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import MappingProxyType

from throughline.core.errors import Interrupted, ThroughlineError
from throughline.experiment.costs import Cost, longest_paths
from throughline.experiment.engine.worker import Job, thread_environment, work
from throughline.runs.unit import Unit

SECONDS_TO_END = 5.0


@dataclass(frozen=True)
class Progress:
    """How far a run is. `share` is of the planned work that this call began with."""

    done: int
    total: int
    share: float
    seconds_left: float | None
    """An estimate, once this call has finished anything."""
    running: Mapping[str, str]
    """Last progress line of each unit at work, by the unit's name."""


@dataclass
class _Worker:
    process: SpawnProcess
    connection: Connection
    unit: Unit | None = None
    progress: str = ""


class _Schedule:
    """Which units wait, run, are done or failed."""

    def __init__(self, units: Sequence[Unit], done: set[str], priorities: Mapping[str, float]) -> None:
        self.done = set(done)
        pressing = sorted(units, key=lambda unit: -priorities[unit.name])
        self.waiting = [unit for unit in pressing if unit.name not in self.done]
        self.failures: list[str] = []

    def next(self) -> Unit | None:
        """Takes the most pressing unit that can start; none after a failure, so that what runs can finish."""
        if self.failures:
            return None
        for unit in self.waiting:
            if all(name in self.done for name in unit.needs.values()):
                self.waiting.remove(unit)
                return unit
        return None


def run_units(
    units: Sequence[Unit],
    job: Job,
    *,
    done: set[str],
    costs: Mapping[str, Cost],
    finished: Callable[[Unit], None],
    on_progress: Callable[[Progress], None],
) -> None:
    """Has every unit that is not in `done` executed by `job.config.workers` processes; `finished` follows each.

    A unit that fails, or whose worker dies, stops new units from starting; those at work finish, then a
    ThroughlineError says what happened in one line. Ctrl-C ends the workers and raises Interrupted.
    """
    weights = {name: cost.weight for name, cost in costs.items()}
    schedule = _Schedule(units, done, longest_paths(units, weights))  # the largest ones start first
    planned = sum(weights[unit.name] for unit in schedule.waiting)
    begun = time.monotonic()
    worked, worked_at = 0.0, begun

    def report() -> None:
        running = {w.unit.name: w.progress for w in workers if w.unit is not None}
        share = worked / planned if planned else 1.0
        expected = (worked_at - begun) * (1 - share) / share if worked else None
        left = None if expected is None else max(0.0, expected - (time.monotonic() - worked_at))
        on_progress(Progress(len(schedule.done), len(units), share, left, MappingProxyType(running)))

    workers: list[_Worker] = []
    try:
        with _environment(thread_environment(job.config.threads)), _deaf_to_ctrl_c():
            for _ in range(min(job.config.workers, len(schedule.waiting))):
                workers.append(_start(job))
        while _assign(workers, schedule):
            report()
            for unit in _hear(workers, schedule):
                worked, worked_at = worked + weights[unit.name], time.monotonic()
                finished(unit)
        report()
    except KeyboardInterrupt:
        raise Interrupted("interrupted", job.run_folder, "the same command continues") from None
    finally:
        _end(workers)
    if schedule.failures:
        more = f" (and {len(schedule.failures) - 1} more units failed)" if len(schedule.failures) > 1 else ""
        raise ThroughlineError(schedule.failures[0] + more)


def _assign(workers: list[_Worker], schedule: _Schedule) -> bool:
    """Gives idle workers the units that can start; whether any worker is busy now."""
    for worker in workers:
        if worker.unit is None and (unit := schedule.next()) is not None:
            worker.unit, worker.progress = unit, "starting"
            # A worker that died idle is noticed when its silence is heard.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                worker.connection.send(unit)
    return any(worker.unit is not None for worker in workers)


def _hear(workers: list[_Worker], schedule: _Schedule) -> Iterator[Unit]:
    """Takes what workers say within a second; yields the units they finished."""
    by_connection = {worker.connection: worker for worker in workers if worker.unit is not None}
    for ready in wait(list(by_connection), timeout=1.0):
        worker = by_connection[ready]  # type: ignore[index]  # wait() gives back the objects it was given
        unit = worker.unit
        assert unit is not None
        try:
            kind, line = worker.connection.recv()
        except (EOFError, ConnectionResetError):
            workers.remove(worker)
            schedule.failures.append(f"{unit.name}: {_last_words(worker)}")
            continue
        if kind == "progress":
            worker.progress = line
            continue
        worker.unit = None
        if kind == "done":
            schedule.done.add(unit.name)
            yield unit
        else:
            schedule.failures.append(f"{unit.name}: {line}")


def _last_words(worker: _Worker) -> str:
    worker.process.join(SECONDS_TO_END)
    code = worker.process.exitcode
    cause = f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with exit code {code}"
    memory = " (out of memory?)" if code == -9 else ""
    return f"its worker {cause}{memory}: nothing finished is lost, the same command continues"


def _start(job: Job) -> _Worker:
    context = multiprocessing.get_context("spawn")  # a forked torch can hang
    ours, theirs = context.Pipe()
    # No daemon, since those may not start processes, and a stage may have loaders: `_end` ends it, or it ends itself.
    process = context.Process(target=work, args=(theirs, job), daemon=False)
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _end(workers: Sequence[_Worker]) -> None:
    """Idle workers leave by themselves, busy ones (after Ctrl-C or a bug) are ended."""
    for worker in workers:
        if worker.unit is None:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                worker.connection.send(None)
        else:
            worker.process.terminate()
    for worker in workers:
        worker.process.join(SECONDS_TO_END)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        worker.connection.close()


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Variables for the processes started inside; put back afterwards."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Processes started inside ignore Ctrl-C from their first moment: the parent decides when they end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
