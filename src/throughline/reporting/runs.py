"""A run folder read into frozen records. A run that was interrupted is still a run: what is missing or torn
is listed under `faults` and the rest is read. A reduced folder, as `reduced` writes it for evidence/, is read
like the run it came from, without texts and losses. Called by every other module of this room."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from throughline.core.errors import ThroughlineError
from throughline.core.files import read_json_lines

Record = TypeVar("Record")

REDUCED_PREDICTIONS = "predictions.parquet"
"""The predictions of all units of a reduced folder; the file that makes it one."""
REDUCED_COLUMNS = ("unit", "sample_id", "answer", "predicted", "label", "outcome")


@dataclass(frozen=True)
class ResultLine:
    """One line of results.jsonl: one answer path of one unit on one split."""

    unit: str
    dataset: str
    model: str
    targets: tuple[str, ...]
    method: str
    seed: int
    round: int | None
    """None for the unit's final state, else the self-labelling round after which it was measured."""
    answer: str
    split: str
    n: int
    correct: int
    accuracy: float
    unparsed: int = 0
    errors: int = 0
    factors: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)

    @property
    def target(self) -> str:
        """The held-out domain as a column name; several are joined by a plus sign."""
        return "+".join(self.targets)


@dataclass(frozen=True)
class Prediction:
    """One line of predictions.jsonl: one answer path's answer to one sample."""

    sample_id: str
    domain: str
    labels: tuple[str, ...]
    answer: str
    predicted: str | None
    outcome: str
    text: str
    confidence: float | None = None
    """Of the likelihood path: the probability of the class that it names."""

    @property
    def correct(self) -> bool:
        """An answer that could not be parsed has no class and is wrong."""
        return self.predicted is not None and self.predicted in self.labels


@dataclass(frozen=True)
class LossPoint:
    """One logged optimiser step; `losses` holds the parts (label, chain) where the objective has several."""

    stage: str
    round: int | None
    step: int
    epoch: float
    loss: float
    losses: Mapping[str, float]
    lr: float | None


@dataclass(frozen=True)
class RoundLine:
    """What one round of self-labelling sampled and kept."""

    round: int
    sampled: int
    accepted: int
    outcomes: Mapping[str, int]
    adapter_changed: bool | None


@dataclass(frozen=True)
class Unit:
    """One folder under units/. Predictions stay on disk until they are asked for: large runs have millions.

    In a reduced folder units have no folders of their own; `folder` is then the reduced folder.
    """

    name: str
    folder: Path
    description: Mapping[str, Any]
    training: tuple[LossPoint, ...]
    rounds: tuple[RoundLine, ...]
    done: bool
    faults: tuple[str, ...]
    steps: int | None = None
    """Optimiser steps from the base to these weights, those of what the unit started from included."""
    reduced_to: tuple[Prediction, ...] | None = None
    """The predictions, without their texts, where the run is a reduced one."""

    def predictions(self) -> tuple[Prediction, ...]:
        """The unit's predictions, empty where there are none yet."""
        if self.reduced_to is not None:
            return self.reduced_to
        rows, _ = _read_tolerantly(self.folder / "predictions.jsonl", _prediction)
        return rows


@dataclass(frozen=True)
class Run:
    """A run folder: its results, its units by name, its config as text, its environment, and what it lacks."""

    folder: Path
    results: tuple[ResultLine, ...]
    units: Mapping[str, Unit]
    config_text: str
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    faults: tuple[str, ...]

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.folder.resolve().name


def read_run(folder: Path) -> Run:
    """Reads a run folder, or a reduced one; a missing folder or one without any result is a ThroughlineError,
    anything else a fault."""
    if not folder.is_dir():
        raise ThroughlineError("no such run folder", folder, "name a folder that `throughline run` has written")
    results_file = folder / "results.jsonl"
    if not results_file.is_file():
        is_run = (folder / "units").is_dir() or (folder / "config.yaml").is_file()
        what = "this run has no results yet" if is_run else "this is no run folder (no results.jsonl in it)"
        raise ThroughlineError(what, folder, "finish the run with `throughline run`, or name another folder")
    try:
        results = tuple(_result(row) for row in read_json_lines(results_file))
    except (KeyError, TypeError, ValueError) as error:
        raise ThroughlineError(
            f"a result line lacks or misstates {error}", results_file, "run again with this version"
        ) from error
    if not results:
        raise ThroughlineError("this run has no results yet", folder, "finish the run with `throughline run`")
    faults: list[str] = []
    config_text, config = _config(folder / "config.yaml", faults)
    environment = _json_object(folder / "environment.json", faults, "environment.json")
    if (folder / REDUCED_PREDICTIONS).is_file():
        units = _reduced_units(folder, results)
    else:
        units = {path.name: _unit(path) for path in sorted((folder / "units").glob("[!.]*")) if path.is_dir()}
    faults += [f"{unit.name}: {fault}" for unit in units.values() for fault in unit.faults]
    measured = {line.unit for line in results}
    faults += [f"{name}: its folder is missing" for name in sorted(measured - set(units))]
    return Run(folder, results, units, config_text, config, environment, tuple(faults))


def _result(row: Mapping[str, Any]) -> ResultLine:
    return ResultLine(
        unit=str(row["unit"]),
        dataset=str(row["dataset"]),
        model=str(row["model"]),
        targets=tuple(row["targets"]),
        method=str(row["method"]),
        seed=int(row["seed"]),
        round=None if row["round"] is None else int(row["round"]),
        answer=str(row["answer"]),
        split=str(row["split"]),
        n=int(row["n"]),
        correct=int(row["correct"]),
        accuracy=float(row["accuracy"]),
        unparsed=int(row.get("unparsed") or 0),
        errors=int(row.get("errors") or 0),
        factors=dict(row.get("factors") or {}),
        metrics=dict(row.get("metrics") or {}),
    )


def _prediction(row: Mapping[str, Any]) -> Prediction:
    probabilities = row.get("probabilities")
    return Prediction(
        sample_id=str(row["sample_id"]),
        domain=str(row["domain"]),
        labels=tuple(row["labels"]),
        answer=str(row["answer"]),
        predicted=None if row["predicted"] is None else str(row["predicted"]),
        outcome=str(row["outcome"]),
        text=str(row.get("text") or ""),
        confidence=float(max(probabilities)) if probabilities else None,
    )


def _loss_point(row: Mapping[str, Any]) -> LossPoint:
    losses = row.get("losses") or {}
    return LossPoint(
        stage=str(row["stage"]),
        round=None if row.get("round") is None else int(row["round"]),
        step=int(row["step"]),
        epoch=float(row.get("epoch") or 0.0),
        loss=float(row["loss"]),
        losses={str(name): float(value) for name, value in losses.items() if value is not None},
        lr=None if row.get("lr") is None else float(row["lr"]),
    )


def _round_line(row: Mapping[str, Any]) -> RoundLine:
    changed = row.get("adapter_changed")
    return RoundLine(
        round=int(row["round"]),
        sampled=int(row["sampled"]),
        accepted=int(row["accepted"]),
        outcomes={str(name): int(count) for name, count in (row.get("outcomes") or {}).items()},
        adapter_changed=None if changed is None else bool(changed),
    )


def _unit(folder: Path) -> Unit:
    faults: list[str] = []
    description = _json_object(folder / "unit.json", faults, "unit.json")
    training, torn_training = _read_tolerantly(folder / "training.jsonl", _loss_point)
    rounds, torn_rounds = _read_tolerantly(folder / "rounds.jsonl", _round_line)
    faults += torn_training + torn_rounds
    faults += [f"no {name}" for name in ("metrics.json", "predictions.jsonl") if not (folder / name).is_file()]
    done = (folder / "done").is_file()
    if not done:
        faults.append("not done")
    # no fault without it: what was never trained has none, nor has a run of an older version
    steps = _json_object(folder / "stage.json", [], "stage.json").get("cumulative_steps")
    return Unit(
        folder.name,
        folder,
        description,
        training,
        rounds,
        done,
        tuple(faults),
        steps if isinstance(steps, int) else None,
    )


def _reduced_units(folder: Path, results: tuple[ResultLine, ...]) -> dict[str, Unit]:
    """The units that a reduced folder tells of, each with what its first results line says of it."""
    rounds, torn = _read_tolerantly(folder / "rounds.jsonl", lambda row: (str(row["unit"]), _round_line(row)))
    predictions = _reduced_predictions(folder / REDUCED_PREDICTIONS, {line.unit: line.target for line in results})
    units: dict[str, Unit] = {}
    for line in results:
        if line.unit in units or line.unit not in predictions:
            continue
        description = {
            "dataset": line.dataset,
            "targets": list(line.targets),
            "method": line.method,
            "model": line.model,
            "seed": line.seed,
        }
        own = tuple(found for unit, found in rounds if unit == line.unit)
        units[line.unit] = Unit(
            line.unit, folder, description, (), own, True, tuple(torn), reduced_to=tuple(predictions[line.unit])
        )
    return units


def _reduced_predictions(path: Path, targets: Mapping[str, str]) -> dict[str, list[Prediction]]:
    """Predictions by unit. The domain is the unit's target; a file of another shape is a ThroughlineError."""
    import pyarrow
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.read_table(path, columns=list(REDUCED_COLUMNS)).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise ThroughlineError(
            f"the reduced predictions cannot be read ({error})", path, "reduce the run again"
        ) from error
    found: dict[str, list[Prediction]] = {}
    for row in rows:
        if row["unit"] not in targets:
            raise ThroughlineError(
                f"predictions of a unit without results: {row['unit']}", path, "reduce the run again"
            )
        found.setdefault(row["unit"], []).append(
            Prediction(
                sample_id=row["sample_id"],
                domain=targets[row["unit"]],
                labels=(row["label"],),
                answer=row["answer"],
                predicted=row["predicted"],
                outcome=row["outcome"],
                text="",
            )
        )
    return found


def _read_tolerantly(path: Path, make: Callable[[Mapping[str, Any]], Record]) -> tuple[tuple[Record, ...], list[str]]:
    """The rows that can be read, and one fault per file with torn rows: a kill may cut the last line of a log."""
    if not path.is_file():
        return (), []
    records, torn = [], 0
    text = path.read_text("utf-8", errors="replace").removesuffix("\n")
    # at line feeds alone: what a model wrote may hold other ends of lines, such as U+2028
    for line in text.split("\n") if text else ():
        try:
            records.append(make(json.loads(line)))
        except (KeyError, TypeError, ValueError, AttributeError):
            torn += 1
    return tuple(records), [f"{path.name}: {torn} unreadable lines left out"] if torn else []


def _json_object(path: Path, faults: list[str], name: str) -> Mapping[str, Any]:
    if not path.is_file():
        faults.append(f"no {name}")
        return {}
    try:
        value = json.loads(path.read_text())
    except ValueError:
        value = None
    if not isinstance(value, dict):
        faults.append(f"{name} is no JSON object")
        return {}
    return value


def _config(path: Path, faults: list[str]) -> tuple[str, Mapping[str, Any]]:
    if not path.is_file():
        faults.append("no config.yaml")
        return "", {}
    text = path.read_text(errors="replace")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = None
    if not isinstance(value, dict):
        faults.append("config.yaml is no mapping")
        return text, {}
    return text, value
