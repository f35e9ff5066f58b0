"""One worker process: gets units one by one, has each executed in its folder, says how it went.

Started by `local`. It dies with its parent, so that no orphan goes on writing into a run folder.
"""

import contextlib
import importlib
import multiprocessing
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from throughline.chains.store import read_store
from throughline.core.errors import ThroughlineError
from throughline.core.files import full_disk, write_atomically, write_json
from throughline.domains.samples import ImageSet
from throughline.experiment.config import RunConfig
from throughline.experiment.costs import own_config
from throughline.experiment.plan import FINAL, FOLD
from throughline.experiment.preparation import CHAINS
from throughline.runs.folder import COST, JOURNAL, begin_unit, finish_unit, hold_as_worker, place_of, unit_folder
from throughline.runs.unit import EVALUATE, FEATURE_LEVEL, FEW_SHOT, PROBE, VALIDATE, Unit

EXECUTORS: dict[str, str] = {
    FOLD: "throughline.experiment.executors:execute_fold",
    VALIDATE: "throughline.experiment.executors:execute_training",
    EVALUATE: "throughline.experiment.executors:execute_evaluation",
    PROBE: "throughline.experiment.executors:execute_probes",
    FEW_SHOT: "throughline.experiment.executors:execute_evaluation",
    FINAL: "throughline.experiment.executors:execute_training",
    FEATURE_LEVEL: "throughline.experiment.executors:execute_features",
}
"""`module:function` of each kind of unit, imported in the worker that needs it and called with a `Task`: trains on the
sources and measures on the targets; only trains on the sources, for a search; measures without training; fits
linear probes; measures behind training on the examples alone; trains on all images without measuring. `FEATURE_LEVEL`
is one executor for the units of feature-level methods of every kind."""

FAILURE = "failure.txt"
"""In a unit's folder: the traceback of a fault that is not the user's."""


@dataclass(frozen=True)
class Task:
    """A unit with what its executor reads: the config with the unit's image set and factors applied, the images, and
    the run folder with the unit's folder in it."""

    unit: Unit
    config: RunConfig
    images: ImageSet
    run_folder: Path
    chains: Path
    """The folder of the image set's accepted chains; it need not be there."""
    report_progress: Callable[[str], None]

    @property
    def folder(self) -> Path:
        """Where everything that the executor writes lies."""
        return unit_folder(self.run_folder, self.unit)

    def needed(self, role: str) -> Path | None:
        """The folder of the unit that this one needs in a role (`start`, `steps`), None where it needs none."""
        name = self.unit.needs.get(role)
        return None if name is None else unit_folder(self.run_folder, name)


@dataclass(frozen=True)
class Job:
    """What is the same for all units of a run; `sets` are the image sets in the config's order, and `executors` are
    `EXECUTORS` unless a test has others."""

    config: RunConfig
    sets: tuple[ImageSet, ...]
    run_folder: Path
    executors: Mapping[str, str] = field(default_factory=lambda: EXECUTORS)
    fail_fast: bool = False
    """Start no further unit after one has failed."""

    def task(self, unit: Unit, report_progress: Callable[[str], None]) -> Task:
        """The unit with what its executor reads."""
        config, images = own_config(unit, self.config, self.sets)
        return Task(
            unit=unit,
            config=config,
            images=images,
            run_folder=self.run_folder,
            chains=self.run_folder / place_of(CHAINS, self.sets.index(images)),
            report_progress=report_progress,
        )


def thread_environment(threads: int) -> dict[str, str]:
    """Variables that must be set before a process imports numpy or torch, for results that can be repeated."""
    count = str(threads)
    return {
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "OPENBLAS_NUM_THREADS": count,
        "TOKENIZERS_PARALLELISM": "false",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # without it matrix products on a GPU are not deterministic
    }


def work(connection: Connection, job: Job) -> None:
    """The worker's whole life: units in until None or the parent's end, messages out. A message is a kind and a line:
    `progress`, `failed`, or `done` without any."""
    threading.Thread(target=_die_with_parent, daemon=True).start()
    hold_as_worker(job.run_folder)
    with contextlib.suppress(EOFError, BrokenPipeError):
        while (unit := connection.recv()) is not None:
            try:
                run_unit(unit, job, lambda line: connection.send(("progress", line)))
                message = "done", ""
            except ThroughlineError as error:
                message = "failed", str(error)
            except BrokenPipeError:
                raise
            except Exception as error:
                message = "failed", _note_failure(error, unit, job.run_folder)
            connection.send(message)


def run_unit(unit: Unit, job: Job, report_progress: Callable[[str], None]) -> None:
    """Has the unit executed in its folder, in this process, with the config's number of threads."""
    execute = _load(job.executors[FEATURE_LEVEL if unit.feature_level else unit.kind], job.config.threads)
    folder, began = begin_unit(job.run_folder, unit), time.monotonic()
    execute(job.task(unit, report_progress))
    seconds, journal = time.monotonic() - began, folder / JOURNAL
    write_json(folder / COST, {"dollars": _dollars(journal)} if journal.is_file() else {"seconds": seconds})
    (folder / FAILURE).unlink(missing_ok=True)
    finish_unit(job.run_folder, unit)


def _dollars(journal: Path) -> float | None:
    store = read_store(journal)
    paid = store.answers.query("reported")  # a copy for another image with the same bytes is not
    return store.cost if paid["cost"].notna().all() else None


def _load(executor: str, threads: int) -> Callable[[Task], None]:
    module, _, name = executor.partition(":")
    execute: Callable[[Task], None] = getattr(importlib.import_module(module), name)
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(True, warn_only=True)
    return execute


def _note_failure(error: Exception, unit: Unit, run_folder: Path) -> str:
    path = unit_folder(run_folder, unit) / FAILURE
    if (full := full_disk(error, path.parent)) is not None:
        return str(full)
    first = f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"
    try:
        write_atomically(path, "".join(traceback.format_exception(error)))
    except ThroughlineError as fault:
        return f"{first} (its traceback is lost: {fault})"
    return f"{first} [{path}]: the traceback is there; the same command tries again"


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
