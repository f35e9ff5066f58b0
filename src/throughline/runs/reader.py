"""The one reader of a run folder: results, units and their lines as records, and as pandas frames.

A run that was interrupted is still a run: what is missing or torn is listed under `faults`, the rest is read. A
reduced folder, as `bench/reduced_run.py` writes it for evidence/, is read like the run that it came from, without texts
and losses.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml
from pydantic import ValidationError

from throughline.chains.store import read_store
from throughline.core.errors import ThroughlineError
from throughline.core.files import read_json_lines
from throughline.runs.folder import (
    ACCEPTED,
    ADAPTER,
    CONFIG,
    COST,
    DONE,
    ENVIRONMENT,
    JOURNAL,
    METRICS,
    PREDICTIONS,
    RESULTS,
    ROUNDS,
    STAGE,
    TRAINING,
    UNIT,
    UNITS,
    VALIDATION,
    round_folder,
)
from throughline.runs.records import COST_COLUMNS, Prediction, ResultsLine, RoundLine, TrainingLine, read_record
from throughline.runs.unit import VALIDATE, Unit

if TYPE_CHECKING:
    from throughline.runs.frames import Frames

Record = TypeVar("Record")

REDUCED_PREDICTIONS = "predictions.parquet"
"""The predictions of all units of a reduced folder; the file that makes it one."""
REDUCED_UNITS = "units.csv"
"""Of a reduced folder: the frame `units`."""
REDUCED_COLUMNS = ("unit", "sample_id", "answer", "predicted", "label", "outcome")
UNSAID = {"kind": "fold"}
"""What a results line does not say of its unit."""


@dataclass(frozen=True)
class UnitFolder:
    """A folder below `units/`. In a reduced run units have no folders of their own: `folder` is then the run's."""

    name: str
    unit: Unit
    folder: Path
    training: tuple[TrainingLine, ...] = ()
    rounds: tuple[RoundLine, ...] = ()
    done: bool = True
    steps: int | None = None
    """Optimiser steps from the base to these weights, those of what the unit started from included."""
    images: int | None = None
    """Training images: the most that a stage behind these weights saw."""
    images_with_chain: int | None = None
    """Those of them that were seen with a chain."""
    parameters: int | None = None
    """How many were trained in the last stage."""
    images_a_second: float | None = None
    """Training images that the loop of that stage took in."""
    seconds: float | None = None
    """Of its execution, and of training what it asks where another unit did that; without what that went on from."""
    dollars: float | None = None
    """Of its answers by a model behind an endpoint."""
    faults: tuple[str, ...] = ()
    _predictions: dict[int | None, tuple[Prediction, ...]] = field(default_factory=dict, compare=False, repr=False)

    def predictions(self, number: int | None = None) -> tuple[Prediction, ...]:
        """Of the finished unit, or after a round of self-labelling; read once. Empty where there are none yet."""
        if number not in self._predictions:
            self._predictions[number], _ = _read_lines(self.state_folder(number) / PREDICTIONS, Prediction)
        return self._predictions[number]

    def validation(self) -> tuple[Mapping[str, Any], ...]:
        """The lines of model selection, one for each round or epoch, or of a search's validation; else empty."""
        path = self.folder / VALIDATION
        return tuple(read_json_lines(path)) if path.is_file() else ()

    def validated(self) -> Mapping[str, float]:
        """The accuracy of the unit's weights by domain, where they were validated: see `Fold.judged`."""
        return next((line["domains"] for line in self.validation() if line["selected"]), {})

    def state_folder(self, number: int | None = None) -> Path:
        """Where the finished unit's state lies, or that after a round."""
        return self.folder if number is None else round_folder(self.folder, number)

    def adapter(self, number: int | None = None) -> Path:
        """The folder of the adapter that the unit, or a round, ended with."""
        return self.state_folder(number) / ADAPTER

    def own_chains(self, number: int) -> dict[str, str]:
        """The chains that the model wrote in a round and that were accepted, by sample id; not those that were kept
        from before in place of a rejected one."""
        accepted, journal = (self.state_folder(number) / name for name in (ACCEPTED, JOURNAL))
        if not accepted.is_file() or not journal.is_file():
            return {}
        written = {candidate.sample_id: candidate.text for candidate in read_store(journal).candidates()}
        trained_on = {row["sample_id"]: row["text"] for row in read_json_lines(accepted)}
        return {sample_id: text for sample_id, text in trained_on.items() if written.get(sample_id) == text}


@dataclass(frozen=True)
class Run:
    """A run folder: its results, its units by name, its config, its environment, and what it lacks."""

    folder: Path
    results: tuple[ResultsLine, ...]
    units: Mapping[str, UnitFolder]
    config: Mapping[str, Any]
    config_text: str
    environment: Mapping[str, Any]
    faults: tuple[str, ...]

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.folder.resolve().name

    def trained(self, name: str) -> UnitFolder:
        """Where the weights of a unit were trained: its own folder, unless it only asks with those of another."""
        return self.units.get(self.units[name].unit.asks or name, self.units[name])

    @cached_property
    def frames(self) -> Frames:
        """All lines as pandas frames, each made when it is first asked for."""
        from throughline.runs.frames import Frames

        return Frames(self)


def read_run(folder: str | Path) -> Run:
    """Reads a run folder, or a reduced one.

    A missing folder or one without any result, or validation of a search, is a ThroughlineError, anything else that is
    wrong a fault.
    """
    folder = Path(folder)
    results = _read_results(folder)
    faults: list[str] = []
    config = _mapping(folder / CONFIG, faults, yaml.safe_load, "mapping")
    config_text = (folder / CONFIG).read_text(errors="replace") if (folder / CONFIG).is_file() else ""
    environment = _mapping(folder / ENVIRONMENT, faults)
    first_lines = {line.unit: line for line in reversed(results)}
    if (folder / REDUCED_PREDICTIONS).is_file():
        units = _reduced_units(folder, first_lines)
    else:
        units = {}
        for path in sorted((folder / UNITS).glob("[!.]*")):
            line = first_lines.get(path.name)
            unit = read_unit(path, None if line is None else _unit_of(line)) if path.is_dir() else None
            if unit is not None:
                units[path.name] = unit
            elif path.is_dir():
                faults.append(f"{path.name}: no readable {UNIT}")
    if not results and not any(unit.validation() for unit in units.values()):
        raise ThroughlineError("this run has no results yet", folder, "finish the run with `throughline run`")
    faults += [f"{unit.name}: {fault}" for unit in units.values() for fault in unit.faults]
    faults += [f"{name}: its folder is missing" for name in sorted(first_lines.keys() - units.keys())]
    return Run(folder, results, units, config, config_text, environment, tuple(faults))


def read_unit(folder: Path, known: Unit | None = None) -> UnitFolder | None:
    """The unit in a folder; what is `known` of it stands where unit.json cannot be read. None without either."""
    faults: list[str] = []
    described = _mapping(folder / UNIT, faults)
    try:
        unit = read_record(Unit, {**UNSAID, **described}) if described else known
    except ValidationError:
        unit = known
    if unit is None:
        return None
    training, torn_training = _read_lines(folder / TRAINING, TrainingLine)
    rounds, torn_rounds = _read_lines(folder / ROUNDS, RoundLine)
    expected = (METRICS,) if unit.kind == VALIDATE else (METRICS, PREDICTIONS)
    lacking = [name for name in expected if not (folder / name).is_file()]
    done = (folder / DONE).is_file()
    faults += [*torn_training, *torn_rounds, *(f"no {name}" for name in lacking), *([] if done else ["not done"])]
    trained = folder if unit.asks is None else folder.parent / unit.asks
    mark = _mapping(trained / STAGE, [])  # what was never trained has none
    seconds: list[Any] = [_mapping(own / COST, []).get("seconds") for own in {folder, trained}]
    return UnitFolder(
        name=folder.name,
        unit=unit,
        folder=folder,
        training=training,
        rounds=rounds,
        done=done,
        steps=mark.get("cumulative_steps"),
        images=mark.get("images"),
        images_with_chain=mark.get("images_with_chain"),
        parameters=mark.get("parameters"),
        images_a_second=mark["samples"] / mark["seconds"] if mark.get("seconds") else None,
        seconds=None if None in seconds else sum(seconds),
        dollars=_mapping(folder / COST, []).get("dollars"),
        faults=tuple(faults),
    )


def _unit_of(line: ResultsLine) -> Unit:
    """A unit as its results lines describe it."""
    return read_record(Unit, {**UNSAID, **asdict(line)})


def _read_results(folder: Path) -> tuple[ResultsLine, ...]:
    if not folder.is_dir():
        raise ThroughlineError("no such run folder", folder, "name a folder that `throughline run` has written")
    path = folder / RESULTS
    if not path.is_file():
        is_run = (folder / UNITS).is_dir() or (folder / CONFIG).is_file()
        what = "this run has no results yet" if is_run else f"this is not a run folder (no {RESULTS} in it)"
        raise ThroughlineError(what, folder, "finish the run with `throughline run`, or name another folder")
    try:
        results = tuple(read_record(ResultsLine, row) for row in read_json_lines(path))
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        place = ".".join(map(str, fault["loc"]))
        what = f"a result line lacks or misstates {place} ({fault['msg']})"
        raise ThroughlineError(what, path, "run again with this version") from error
    return results


def _reduced_units(folder: Path, first_lines: Mapping[str, ResultsLine]) -> dict[str, UnitFolder]:
    """The units of a reduced folder, each with what its first results line says of it."""
    rows, torn = _read_lines(folder / ROUNDS, dict[str, Any])
    predictions = _reduced_predictions(folder / REDUCED_PREDICTIONS, first_lines)
    known = _reduced_costs(folder / REDUCED_UNITS)
    return {
        name: UnitFolder(
            name=name,
            unit=_unit_of(line),
            folder=folder,
            **known.get(name, {}),
            rounds=tuple(read_record(RoundLine, row) for row in rows if row["unit"] == name),
            faults=tuple(torn),
            _predictions={None: tuple(predictions[name])},
        )
        for name, line in sorted(first_lines.items())
        if name in predictions
    }


def _reduced_costs(path: Path) -> dict[str, dict[str, Any]]:
    """By unit what it took, where that is known."""
    rows = csv.DictReader(path.read_text().splitlines()) if path.is_file() else ()
    return {row["unit"]: {name: float(row[name]) for name in COST_COLUMNS if row.get(name)} for row in rows}


def _reduced_predictions(path: Path, first_lines: Mapping[str, ResultsLine]) -> dict[str, list[Prediction]]:
    """Predictions by unit. The domain is the unit's target; a file of another shape is a ThroughlineError."""
    import pyarrow
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.read_table(path, columns=list(REDUCED_COLUMNS)).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        what = f"the reduced predictions cannot be read ({error})"
        raise ThroughlineError(what, path, "reduce the run again") from error
    predictions: dict[str, list[Prediction]] = {}
    for row in rows:
        name = row.pop("unit")
        if name not in first_lines:
            raise ThroughlineError(f"predictions of a unit without results: {name}", path, "reduce the run again")
        labels = (row.pop("label"),)
        prediction = Prediction(domain=first_lines[name].target, labels=labels, **row)
        predictions.setdefault(name, []).append(prediction)
    return predictions


def _read_lines(path: Path, kind: type[Record]) -> tuple[tuple[Record, ...], list[str]]:
    """The lines that can be read, and one fault where some cannot: a kill may cut the last line of a log."""
    text = path.read_text("utf-8", errors="replace").removesuffix("\n") if path.is_file() else ""
    records, torn = [], 0
    # at line feeds alone: what a model wrote may hold other ends of lines, such as U+2028
    for line in text.split("\n") if text else ():
        try:
            records.append(read_record(kind, json.loads(line)))
        except ValueError:
            torn += 1
    return tuple(records), [f"{path.name}: {torn} unreadable lines left out"] if torn else []


def _mapping(
    path: Path, faults: list[str], parse: Callable[[str], Any] = json.loads, kind: str = "JSON object"
) -> Mapping[str, Any]:
    """What a file holds; empty, and a fault, where it is missing or holds something else."""
    if not path.is_file():
        faults.append(f"no {path.name}")
        return {}
    try:
        value = parse(path.read_text(errors="replace"))
    except (ValueError, yaml.YAMLError):
        value = None
    if not isinstance(value, dict):
        faults.append(f"{path.name} is not a {kind}")
        return {}
    return value
