"""A finished run as an analysis sees it: its folds, and the weights that each of them passed through."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from throughline.analysis.records import State
from throughline.chains.formats import FORMATS
from throughline.chains.journal import read_journal
from throughline.chains.prompts import make_prompts
from throughline.domains.folders import read_images
from throughline.domains.samples import ImageSet
from throughline.errors import ThroughlineError
from throughline.evaluation.answering import Questions
from throughline.evaluation.folds import Fold, leave_out
from throughline.experiment.config import RunConfig, load_config
from throughline.experiment.folder import DONE, UNITS
from throughline.experiment.preparation import IMAGES, dataset_name, read_chains
from throughline.files import read_json_lines
from throughline.mllm.checkpoints import checkpoint_name, fingerprint_checkpoint
from throughline.settings import AnswerSettings, SamplingSettings
from throughline.training.methods import METHODS, Method

if TYPE_CHECKING:
    from throughline.mllm.load import Mllm

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
        written = {one.sample_id: one.text for one in read_journal(folder / "journal-0.jsonl").candidates}
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
class RunFold:
    """One target and seed with its units by method."""

    targets: tuple[str, ...]
    seed: int
    fold: Fold
    units: Mapping[str, FinishedUnit]

    def families(self) -> Iterator[tuple[FinishedUnit, State]]:
        """The units of self-labelling, each with the weights that its rounds start from."""
        for unit in self.units.values():
            parent = self.units.get(unit.method.starts_from or "")
            if unit.method.self_labelled and parent is not None:
                yield unit, parent.state


@dataclass(frozen=True)
class AnalyzedRun:
    """A run folder: config, images, and what is done of it."""

    folder: Path
    config: RunConfig
    images: ImageSet
    folds: tuple[RunFold, ...]

    def subject(self) -> Subject:
        """What scoring needs of it."""
        form, model = FORMATS[self.config.chains.format], self.config.model
        return Subject(
            model=checkpoint_name(model.checkpoint),
            folder=self.folder,
            images=self.images,
            questions=Questions(make_prompts(self.images.classes, form), self.images.classes, form),
            chains=read_chains(self.folder),
            checkpoint=fingerprint_checkpoint(model.checkpoint),
            loading=(model.tiles, model.dtype, model.quantization),
            answering=self.config.evaluation.answering,
            self_labelling=self.config.training.self_labelling,
            adapter=self._adapter,
        )

    def load(self, device: str = "auto") -> Mllm:
        """The checkpoint that it started from; `device` auto is the config's."""
        from throughline.mllm.devices import pick_device
        from throughline.mllm.load import load_mllm

        model = self.config.model
        return load_mllm(
            model.checkpoint,
            tiles=model.tiles,
            dtype=model.dtype,
            device=pick_device(model.device if device == "auto" else device),
            hub=model.hub,
            quantization=model.quantization,
            attention=model.attention,
        )

    def _adapter(self, state: State) -> Path | None:
        if state.unit is None:
            return None
        folder = self.folder / UNITS / state.unit
        return folder / "adapter" if state.round is None else folder / f"round-{state.round}" / "adapter"


@dataclass(frozen=True)
class Subject:
    """What is looked at, whether it comes from a run or from a model and a journal: images with a teacher's accepted
    chains by sample id, questions, and by content the weights. Shards go to `folder`; `adapter` gives the folder of a
    state's adapter, None for the base."""

    model: str
    folder: Path
    images: ImageSet
    questions: Questions
    chains: Mapping[str, str]
    checkpoint: str
    loading: tuple[Any, ...]
    answering: AnswerSettings
    self_labelling: SamplingSettings
    """How own chains are drawn."""
    adapter: Callable[[State], Path | None]


def read_analyzed_run(folder: Path, images_root: Path | None = None, checkpoint: str | None = None) -> AnalyzedRun:
    """The run in a folder; `images_root` and `checkpoint` where these lie elsewhere than its config says.

    Raises ThroughlineError for a folder that is no run, whose images are gone, in which no unit is done, and when
    images or checkpoint are not those that its units were made from.
    """
    if not (folder / "config.yaml").is_file():
        raise ThroughlineError(
            "this is no run folder (no config.yaml in it)", folder, "name a folder of `throughline run`"
        )
    config = load_config(str(folder / "config.yaml"), [] if checkpoint is None else [f"model.checkpoint={checkpoint}"])
    own = folder / IMAGES if config.data.drawn is not None else Path(config.data.images or "")
    root = images_root or own
    images = read_images(root, name=dataset_name(config, root))
    units = _finished_units(folder)
    if not units:
        raise ThroughlineError("no unit of this run is done", folder, "finish it with `throughline run`")
    _require_same(units, images, fingerprint_checkpoint(config.model.checkpoint))
    folds = []
    for targets, seed in sorted({(unit.targets, unit.seed) for unit in units}):
        mine = {unit.method.name: unit for unit in units if (unit.targets, unit.seed) == (targets, seed)}
        trial = next(iter(mine.values())).trial
        fold = leave_out(images, targets, trial, config.data.train_per_domain)
        folds.append(RunFold(targets, seed, fold, {name: mine[name] for name in METHODS if name in mine}))
    return AnalyzedRun(folder, config, images, tuple(folds))


def _require_same(units: Sequence[FinishedUnit], images: ImageSet, checkpoint: str) -> None:
    """Adapters belong on the base that they were trained on, and to the images."""
    inputs = [unit.inputs for unit in units if unit.inputs]
    if any(one.get("images") != images.fingerprint() for one in inputs):
        raise ThroughlineError(
            "these are not the images that the run was made from", images.root, "name them with --images"
        )
    if any((one.get("model") or {}).get("checkpoint") != checkpoint for one in inputs):
        raise ThroughlineError(
            "this is not the checkpoint that the run was made from",
            units[0].folder.parent.parent,
            "name it with --checkpoint",
        )


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
