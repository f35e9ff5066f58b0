"""What is done of a run: its units, by what was held out and by seed, and the weights that each passed through. Needs
neither images nor checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from throughline.analysis.records import State
from throughline.chains.store import read_store
from throughline.core.errors import ThroughlineError
from throughline.core.files import read_json_lines
from throughline.experiment.config import RunConfig, load_config
from throughline.runs.folder import DONE, UNITS
from throughline.training.methods import METHODS, Method

BASE = State(method=None, unit=None, round=None)


@dataclass(frozen=True)
class FinishedUnit:
    """A unit's folder with `done` in it."""

    name: str
    folder: Path
    method: Method
    targets: tuple[str, ...]
    seed: int
    trial: int
    inputs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def state(self) -> State:
        """What it ended with; of the base itself where nothing was trained."""
        return State(method=self.method.name, unit=self.name, round=None) if self.method.trains else BASE

    def rounds(self) -> tuple[State, ...]:
        """The weights after each round of self-labelling that is whole."""
        found = sorted(int(path.parent.name.removeprefix("round-")) for path in self.folder.glob("round-*/adapter"))
        return tuple(State(method=self.method.name, unit=self.name, round=number) for number in found)

    def round_folder(self, number: int) -> Path:
        """What a round left."""
        return self.folder / f"round-{number}"

    def own_chains(self, number: int) -> dict[str, str]:
        """The chains that the model wrote in a round and that were accepted, by sample id; not those that were kept
        from before in place of a rejected one."""
        folder = self.round_folder(number)
        if not (folder / "accepted.jsonl").is_file() or not (folder / "journal-0.jsonl").is_file():
            return {}
        written = {one.sample_id: one.text for one in read_store(folder / "journal-0.jsonl").candidates()}
        trained_on = {row["sample_id"]: row["text"] for row in read_json_lines(folder / "accepted.jsonl")}
        return {name: text for name, text in trained_on.items() if written.get(name) == text}

    @property
    def selects(self) -> bool:
        """Whether its weights were chosen among rounds or epochs, so that they need not be the last."""
        return (self.folder / "validation.jsonl").is_file()

    def training(self) -> list[dict[str, Any]]:
        """The loss lines."""
        path = self.folder / "training.jsonl"
        return read_json_lines(path) if path.is_file() else []

    def predictions(self, number: int | None = None) -> list[dict[str, Any]]:
        """Of the finished unit, or after a round."""
        path = (self.folder if number is None else self.round_folder(number)) / "predictions.jsonl"
        return read_json_lines(path) if path.is_file() else []


@dataclass(frozen=True)
class FoldUnits:
    """One target and seed with its units by method."""

    targets: tuple[str, ...]
    seed: int
    units: Mapping[str, FinishedUnit]

    def families(self) -> Iterator[tuple[FinishedUnit, State]]:
        """The units of self-labelling, each with the weights that its rounds start from."""
        for unit in self.units.values():
            parent = self.units.get(unit.method.starts_from or "")
            if unit.method.self_labelled and parent is not None:
                yield unit, parent.state


@dataclass(frozen=True)
class FinishedRun:
    """A run folder's config and what is done of it."""

    folder: Path
    config: RunConfig
    folds: tuple[FoldUnits, ...]

    @property
    def images(self) -> frozenset[str]:
        """Fingerprints of the images that its units were made from: one, unless the run was mixed."""
        units = [unit for fold in self.folds for unit in fold.units.values()]
        return frozenset(str(unit.inputs.get("images")) for unit in units)


def read_finished_run(folder: Path, checkpoint: str | None = None) -> FinishedRun:
    """The run in a folder; `checkpoint` where its weights lie elsewhere than its config says.

    Raises ThroughlineError for a folder that is no run, or in which no unit is done.
    """
    if not (folder / "config.yaml").is_file():
        raise ThroughlineError(
            "this is no run folder (no config.yaml in it)", folder, "name a folder of `throughline run`"
        )
    config = load_config(str(folder / "config.yaml"), [] if checkpoint is None else [f"model.checkpoint={checkpoint}"])
    units = _finished_units(folder)
    if not units:
        raise ThroughlineError("no unit of this run is done", folder, "finish it with `throughline run`")
    folds = []
    for targets, seed in sorted({(unit.targets, unit.seed) for unit in units}):
        mine = {unit.method.name: unit for unit in units if (unit.targets, unit.seed) == (targets, seed)}
        folds.append(FoldUnits(targets, seed, {name: mine[name] for name in METHODS if name in mine}))
    return FinishedRun(folder, config, tuple(folds))


def _finished_units(folder: Path) -> list[FinishedUnit]:
    """Those with `done`; where the run has results, those that stand in them: others are of an earlier plan."""
    results = folder / "results.jsonl"
    named = {row["unit"] for row in read_json_lines(results)} if results.is_file() else None
    found = []
    for path in sorted((folder / UNITS).glob("[!.]*/unit.json")):
        if not (path.parent / DONE).is_file():
            continue
        about = json.loads(path.read_text())
        if about["method"] in METHODS and (named is None or about["unit"] in named):
            found.append(
                FinishedUnit(
                    name=about["unit"],
                    folder=path.parent,
                    method=METHODS[about["method"]],
                    targets=tuple(about["targets"]),
                    seed=about["seed"],
                    trial=about["trial"],
                    inputs=about.get("inputs") or {},
                )
            )
    return found
