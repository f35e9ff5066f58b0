"""Units over worker processes: each starts when what it needs is done, those with most work behind them first; but
before all others the shortest one that trains nothing, so that a first result is soon there.

Which worker does what, and when, changes no result: a unit reads its config, its images and its parents' folders only.
"""

import contextlib
import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from throughline.core.errors import Interrupted, UnitsFailed
from throughline.experiment.costs import Cost, longest_paths
from throughline.experiment.engine.worker import Job, thread_environment, work
from throughline.runs.unit import Unit

SECONDS_TO_END = 5.0


@dataclass(frozen=True)
class Progress:
    """How far a run is. `share` is of the work of this call that can still be done."""

    job: Job
    units: tuple[Unit, ...]
    """Of the plan."""
    done: tuple[Unit, ...]
    """Those of earlier calls, then as they were done."""
    share: float
    seconds_left: float | None
    """An estimate, once this call has finished anything."""
    running: Mapping[str, str]
    """Last progress line of each unit at work, by the unit's name."""
    lost: int = 0
    """Units that failed, or were skipped since they need one that did."""


@dataclass
class _Worker:
    process: SpawnProcess
    connection: Connection
    unit: Unit | None = None
    progress: str = ""
    begun: float = 0.0


class _Schedule:
    """Which units wait, run, are done or failed."""

    def __init__(self, units: Sequence[Unit], done: set[str], priorities: Mapping[str, float], fail_fast: bool) -> None:
        self.done = {unit.name: unit for unit in units if unit.name in done}
        self.fail_fast = fail_fast
        pressing = sorted(units, key=lambda unit: -priorities[unit.name])
        self.waiting = [unit for unit in pressing if unit.name not in self.done]
        self.failures: list[str] = []
        self.lost = 0

    def next(self) -> Unit | None:
        """Takes the most pressing unit that can start; with `fail_fast` none after a failure."""
        if self.failures and self.fail_fast:
            return None
        for unit in self.waiting:
            if all(name in self.done for name in unit.needs.values()):
                self.waiting.remove(unit)
                return unit
        return None

    def fail(self, unit: Unit, why: str) -> None:
        """Notes the failure, and takes out all units that need this one, directly or not."""
        lost = [unit.name]
        for other in tuple(self.waiting):  # units stand behind those that they need
            if not set(lost).isdisjoint(other.needs.values()):
                self.waiting.remove(other)
                lost.append(other.name)
        skipped = f" (skipped, since they need it: {', '.join(lost[1:])})" if lost[1:] else ""
        self.failures.append(f"{unit.name}: {why}{skipped}")
        self.lost += len(lost)


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

    A unit that fails, or whose worker dies, takes those with it that need it; all others are executed, with
    `job.fail_fast` only those at work. Then UnitsFailed says why, with a line for each. Ctrl-C and SIGTERM, however
    often they come, end the workers and raise Interrupted.
    """
    weights = {name: cost.weight for name, cost in costs.items()}
    # the largest ones start first, but for one: it delays the others by its own duration at most
    priorities = longest_paths(units, weights)
    untrained = [unit.name for unit in units if not (unit.name in done or costs[unit.name].steps_from_base)]
    if untrained:
        priorities[min(untrained, key=weights.__getitem__)] = math.inf
    schedule = _Schedule(units, done, priorities, job.fail_fast)
    worked = seconds = 0.0  # of units done by this call, each by one worker

    def report() -> None:
        now, busy = time.monotonic(), {w.unit.name: w for w in workers if w.unit is not None}
        ahead = sum(weights[name] for name in (*busy, *(unit.name for unit in schedule.waiting)))
        share = worked / (worked + ahead) if ahead else 1.0
        left = None
        if worked:
            pace = worked / seconds
            begun = sum(min(weights[name], pace * (now - worker.begun)) for name, worker in busy.items())
            left = (ahead - begun) / (pace * max(1, len(busy)))
        running = {name: worker.progress for name, worker in busy.items()}
        on_progress(Progress(job, tuple(units), tuple(schedule.done.values()), share, left, running, schedule.lost))

    workers: list[_Worker] = []
    stopped = threading.Event()  # set by signals, which would break into whatever is under way
    heeded = (number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) is not signal.SIG_IGN)
    with _handling(dict.fromkeys(heeded, lambda *_: stopped.set())):
        try:
            while not stopped.is_set() and _assign(workers, schedule, job):
                report()
                for unit, duration in _hear(workers, schedule):
                    worked, seconds = worked + weights[unit.name], seconds + duration
                    finished(unit)
            report()
        finally:
            _end(workers)
    if stopped.is_set():
        raise Interrupted("interrupted", job.run_folder, "the same command continues")
    if schedule.failures:
        raise UnitsFailed(schedule.failures)


def _assign(workers: list[_Worker], schedule: _Schedule, job: Job) -> bool:
    """Gives the units that can start to idle workers, or to new ones while there may be more; whether any worker is
    busy now."""
    workers[:] = [worker for worker in workers if worker.unit is not None or worker.process.is_alive()]
    idle = [worker for worker in workers if worker.unit is None]
    while (idle or len(workers) < job.config.workers) and (unit := schedule.next()) is not None:
        worker = idle.pop() if idle else _start(job, workers)
        worker.unit, worker.progress, worker.begun = unit, "starting", time.monotonic()
        # A worker that died just now is noticed when its silence is heard.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            worker.connection.send(unit)
    return any(worker.unit is not None for worker in workers)


def _hear(workers: list[_Worker], schedule: _Schedule) -> Iterator[tuple[Unit, float]]:
    """Takes what workers say within a second; yields the units they finished, with the seconds that each took."""
    by_connection = {worker.connection: worker for worker in workers if worker.unit is not None}
    for ready in wait(list(by_connection), timeout=1.0):
        worker = by_connection[ready]  # type: ignore[index]  # wait() gives back the objects it was given
        unit = worker.unit
        assert unit is not None
        try:
            kind, line = worker.connection.recv()
        except (EOFError, OSError):  # OSError where it died within a message
            kind, line = "failed", _last_words(worker)
        if kind == "progress":
            worker.progress = line
            continue
        worker.unit = None
        if kind == "done":
            schedule.done[unit.name] = unit
            yield unit, time.monotonic() - worker.begun
            continue
        # Another process goes on: what the failure left in this one, or on its GPU, must not reach other units.
        workers.remove(worker)
        _end([worker])
        schedule.fail(unit, line)


def _last_words(worker: _Worker) -> str:
    worker.process.join(SECONDS_TO_END)
    code = worker.process.exitcode
    cause = f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with exit code {code}"
    memory = " (out of memory?)" if code == -9 else ""
    return f"its worker {cause}{memory}: nothing finished is lost, the same command continues"


def _start(job: Job, workers: list[_Worker]) -> _Worker:
    context = multiprocessing.get_context("spawn")  # a forked torch can hang
    ours, theirs = context.Pipe()
    # No daemon, since those may not start processes, and a stage may have loaders: `_end` ends it, or it ends itself.
    process = context.Process(target=work, args=(theirs, job), daemon=False)
    # Ctrl-C is nothing to it, from its first moment: the parent decides when it ends.
    with _environment(thread_environment(job.config.threads)), _handling({signal.SIGINT: signal.SIG_IGN}):
        process.start()
    theirs.close()
    workers.append(_Worker(process, ours))
    return workers[-1]


def _end(workers: Sequence[_Worker]) -> None:
    """Idle workers leave by themselves, busy ones (after Ctrl-C or a bug) are ended by SIGTERM, as a worker keeps its
    default effect."""
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
def _handling(handlers: Mapping[signal.Signals, Any]) -> Iterator[None]:
    """Other handlers for signals inside. Only the main thread may set any."""
    in_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, handler) for number, handler in handlers.items() if in_main}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
