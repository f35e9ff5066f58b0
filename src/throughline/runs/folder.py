"""The run folder as it is written: one process at a time in it, units that are done or resume, results derived from
the units. `reader` reads it.

A unit's `done` is written last and holds every input of the unit, so that another day's run can say what changed.
"""

import contextlib
import itertools
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from throughline.core.errors import ThroughlineError
from throughline.core.files import (
    canonical_json,
    readable_os_errors,
    remove_leftovers,
    require_own_folder,
    write_json,
    write_json_lines,
)
from throughline.core.locks import take_lock
from throughline.core.nested import flattened
from throughline.runs.records import ResultsLine, read_record
from throughline.runs.unit import Unit

CONFIG, ENVIRONMENT, RESULTS = "config.yaml", "environment.json", "results.jsonl"
UNITS, STALE, DONE = "units", ".stale", "done"
UNIT, METRICS, PREDICTIONS, ROUNDS = "unit.json", "metrics.json", "predictions.jsonl", "rounds.jsonl"
ADAPTER, TRAINING, VALIDATION = "adapter", "training.jsonl", "validation.jsonl"
STAGE = "stage.json"
"""Written last into the folder of a stage of training: its optimiser steps. The stage is whole when it is there."""
COST = "cost.json"
"""In a unit's folder: the seconds of its execution, of the attempt that ended it; of a model behind an endpoint the US
dollars in their place, null where its answers do not tell."""
ROUND, ACCEPTED, JOURNAL = "round.json", "accepted.jsonl", "journal-0.jsonl"
"""In the folder of a round: its line of rounds.jsonl, the chains it trained on, and every chain the model wrote."""
IMAGES = "images"
"""In a run folder: drawn images; those of further sets are at `place_of`."""
PIXELS = ".pixels"
"""In a run folder: preprocessed images, shared by all units (`mllm.pixel_cache`). They can be made again and may take
more room than all else, so they go when the run is finished; an unfinished run keeps them and resumes the faster."""
REFERENCES = ".references"
"""In a run folder: reference scores of preferences, each by a hash of all that it depends on."""
LOCK, WORKERS_LOCK = ".lock", ".workers.lock"
SECONDS_FOR_WORKERS_TO_END = 30.0
RESULT_ORDER = ("dataset", "model", "targets", "method", "seed", "unit", "answer", "split", "round", "factors")


def place_of(folder: str, position: int) -> str:
    """What each image set of a run has for itself: `images`, `images-2`, ..."""
    return folder if position == 0 else f"{folder}-{position + 1}"


def unit_folder(run_folder: Path, unit: Unit | str) -> Path:
    """Where a unit lives, by itself or by its name."""
    return run_folder / UNITS / (unit if isinstance(unit, str) else unit.name)


def round_folder(folder: Path, number: int) -> Path:
    """Where a round of self-labelling lives, in the folder of its unit."""
    return folder / f"round-{number}"


def round_folders(folder: Path, content: str) -> dict[int, Path]:
    """The rounds of a unit that hold a file or folder called so, by number in their order."""
    rounds = (path.parent for path in folder.glob(f"round-*/{content}"))
    return dict(sorted((int(path.name.removeprefix("round-")), path) for path in rounds))


@contextlib.contextmanager
def hold_run(run_folder: Path) -> Iterator[None]:
    """Makes the folder if need be and holds it for this process; refuses a folder that holds something else.

    Raises a ThroughlineError when another process is at work in it. Workers of a run that was killed may take a
    moment to end: they are waited for.
    """
    require_own_folder(run_folder, (LOCK, CONFIG), "a run")
    with readable_os_errors(run_folder):
        run_folder.mkdir(parents=True, exist_ok=True)
        lock = (run_folder / LOCK).open("a")
    with lock:
        if not take_lock(lock.fileno()):
            raise ThroughlineError("another process is at work on this run", run_folder, "wait for it, or name --out")
        deadline = time.monotonic() + SECONDS_FOR_WORKERS_TO_END
        with (run_folder / WORKERS_LOCK).open("a") as workers:  # closed, it is free for the workers to come
            while not take_lock(workers.fileno()):
                if time.monotonic() > deadline:
                    raise ThroughlineError("workers of an earlier run are still there", run_folder, "end them first")
                time.sleep(0.05)
        yield


def hold_as_worker(run_folder: Path) -> None:
    """Marks this process, until it ends, as a worker in the folder."""
    handle = os.open(run_folder / WORKERS_LOCK, os.O_RDWR | os.O_CREAT)  # closed by the process's end, not before
    take_lock(handle, shared=True)


def begin_unit(run_folder: Path, unit: Unit) -> Path:
    """The unit's folder with `unit.json` in it; what an earlier attempt left there stays."""
    folder = unit_folder(run_folder, unit)
    write_json(folder / UNIT, unit.to_json())
    return folder


def finish_unit(run_folder: Path, unit: Unit) -> None:
    """Writes `done`, the last file of a unit. Results that are missing or malformed are a bug of the executor."""
    unit_results(run_folder, unit)
    remove_leftovers(unit_folder(run_folder, unit))
    write_json(
        unit_folder(run_folder, unit) / DONE,
        {"schema": 1, "unit": unit.name, "hash": unit.hash, "inputs": dict(unit.inputs)},
    )


def adopt_unit(run_folder: Path, unit: Unit, trained: Path) -> None:
    """Finishes a unit that only trains with what lies in the folder of another one, whose answers are left out, and its
    seconds, which may be those of answers, too."""
    folder = begin_unit(run_folder, unit)
    left_out = shutil.ignore_patterns(UNIT, DONE, METRICS, PREDICTIONS, COST, "round-*", "stage-*")
    shutil.copytree(trained, folder, ignore=left_out, dirs_exist_ok=True)
    write_metrics(folder, [])
    finish_unit(run_folder, unit)


def is_done(run_folder: Path, unit: Unit) -> bool:
    """Whether the unit's folder is finished with just these inputs."""
    folder = unit_folder(run_folder, unit)
    inputs = _done_inputs(folder)
    return inputs is not None and not input_changes(inputs, unit.inputs) and (folder / METRICS).is_file()


def find_stale(run_folder: Path, units: Sequence[Unit]) -> dict[Path, tuple[str, ...]]:
    """Finished folders of the plan's units (by identity, that of another model where the plan has one only) that were
    made from other inputs, with what changed."""
    models = {unit.model for unit in units}
    planned: dict[tuple[object, ...] | None, Unit] = {unit.identity: unit for unit in units}
    stale = {}
    for folder in sorted((run_folder / UNITS).glob("[!.]*")):
        inputs, unit = _done_inputs(folder), planned.get(_read_identity(folder, models))
        if inputs is None or unit is None:
            continue
        changes = input_changes(inputs, unit.inputs)
        if changes or folder.name != unit.name:
            stale[folder] = changes
    return stale


def refuse_stale(stale: Mapping[Path, Sequence[str]]) -> None:
    """Raises the ThroughlineError that says what changed."""
    if not stale:
        return
    changes = list(dict.fromkeys(itertools.chain.from_iterable(stale.values())))
    # A changed parent changes its children too; the cause is what is worth saying.
    causes = [change for change in changes if not change.startswith("needs.")] or changes
    shown = listed_changes(causes)
    others = f" and {len(stale) - 1} more" if len(stale) > 1 else ""
    raise ThroughlineError(
        f"a finished unit is stale, made from other inputs than this run's ({shown or 'its folder was renamed'})",
        f"{next(iter(stale))}{others}",
        "undo the change, name another --out, or use --redo stale (keeps the old ones in units/.stale)",
    )


def listed_changes(changes: Sequence[str]) -> str:
    """The first four, and how many more there are."""
    return "; ".join(changes[:4]) + (f"; and {len(changes) - 4} more" if len(changes) > 4 else "")


def set_aside(run_folder: Path, stale: Iterable[Path]) -> None:
    """Moves stale units to `units/.stale`; nothing is deleted."""
    kept = run_folder / UNITS / STALE
    for folder in stale:
        with readable_os_errors(kept):
            kept.mkdir(parents=True, exist_ok=True)
            names = itertools.chain([folder.name], (f"{folder.name}.{number}" for number in itertools.count(2)))
            folder.rename(next(kept / name for name in names if not (kept / name).exists()))


def remove_pixels(run_folder: Path) -> None:
    """Gives back the disk that the run's preprocessed images took."""
    shutil.rmtree(run_folder / PIXELS, ignore_errors=True)


def write_results(run_folder: Path, units: Iterable[Unit]) -> None:
    """Derives `results.jsonl` from the units that are done, sorted by what each line is about."""
    rows = [asdict(line) for unit in units if is_done(run_folder, unit) for line in unit_results(run_folder, unit)]
    rows.sort(key=lambda row: [canonical_json(row.get(key)) for key in RESULT_ORDER])
    write_json_lines(run_folder / RESULTS, rows)


def record_environment(run_folder: Path, environment: Mapping[str, Any]) -> None:
    """Adds to `environment.json` what is known of where the run computes; what is not named stays."""
    path = run_folder / ENVIRONMENT
    known = json.loads(path.read_text()) if path.is_file() else {}
    write_json(path, {**known, **environment})


def write_metrics(folder: Path, lines: Iterable[ResultsLine]) -> None:
    """A unit's `metrics.json`: its results lines."""
    write_json(folder / METRICS, {"results": [asdict(line) for line in lines]})


def unit_results(run_folder: Path, unit: Unit) -> list[ResultsLine]:
    """The results lines of a unit that is done; none where it measures nothing."""
    rows = json.loads((unit_folder(run_folder, unit) / METRICS).read_text())["results"]
    # Names are today's: what the images and the checkpoint are called is no part of what a unit is.
    names = {"unit": unit.name, "dataset": unit.dataset, "model": unit.model}
    return [read_record(ResultsLine, row | names) for row in rows]


def _done_inputs(folder: Path) -> Mapping[str, Any] | None:
    """The inputs in a folder's `done`; None where there is none. A `done` that cannot be read has no input."""
    path = folder / DONE
    if not path.is_file():
        return None
    try:
        inputs = json.loads(path.read_text())["inputs"]
    except (ValueError, KeyError, TypeError):
        inputs = None
    if not isinstance(inputs, dict):
        raise ThroughlineError("`done` cannot be read", path, "remove it to have the unit's last steps done again")
    return inputs


def _read_identity(folder: Path, models: set[str]) -> tuple[object, ...] | None:
    """The identity of the unit in a folder, as if of the only one of these `models`; None where its `unit.json` cannot
    be read."""
    try:
        unit = read_record(Unit, json.loads((folder / UNIT).read_text()))
        return replace(unit, model=next(iter(models))).identity if len(models) == 1 else unit.identity
    except (OSError, ValueError):
        return None


def input_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, ...]:
    """What differs, as `key: old → new`; hashes of content only say that it changed."""
    # as JSON gives them back, so that a tuple in memory equals its list on disk
    before, after = (flattened(json.loads(canonical_json(inputs))) for inputs in (old, new))
    changed = []
    for key in sorted(before.keys() | after.keys()):
        first, second = before.get(key), after.get(key)
        if first != second:
            content = any(isinstance(value, str) and len(value) == 64 for value in (first, second))
            changed.append(f"{key} changed" if content else f"{key}: {first} → {second}")
    return tuple(changed)
