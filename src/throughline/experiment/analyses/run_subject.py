"""A finished run as an analysis sees it: its folds, and the weights that each of them passed through."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from throughline.analysis.records import State
from throughline.core.errors import ThroughlineError
from throughline.domains.folders import read_images
from throughline.domains.samples import ImageSet
from throughline.evaluation.folds import leave_out
from throughline.experiment.analyses.subject import AnalyzedFold, AnalyzedUnit, Subject
from throughline.experiment.config import RunConfig, load_config
from throughline.experiment.preparation import CHAINS, IMAGES, dataset_name, read_accepted_chains
from throughline.mllm.checkpoints import checkpoint_name, fingerprint_checkpoint
from throughline.runs.reader import Run, read_run
from throughline.training.methods import METHODS

if TYPE_CHECKING:
    from throughline.mllm.load import Mllm

FoldKey = tuple[tuple[str, ...], int]
"""Targets and seed."""


@dataclass(frozen=True)
class AnalyzedRun:
    """A run folder: its lines, its config, its images, and what is done of it."""

    run: Run
    config: RunConfig
    images: ImageSet
    folds: tuple[AnalyzedFold, ...]

    def subject(self) -> Subject:
        """What scoring needs of it."""
        model = self.config.model
        return Subject(
            model=checkpoint_name(model.checkpoint),
            folder=self.run.folder,
            images=self.images,
            questions=self.config.question_set(self.images.classes),
            chains={name: texts[0] for name, texts in read_accepted_chains(self.run.folder / CHAINS).items()},
            checkpoint=fingerprint_checkpoint(model.checkpoint, model.revision),
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
        )

    def _adapter(self, state: State) -> Path | None:
        return None if state.unit is None else self.run.units[state.unit].adapter(state.round)


def read_analyzed_run(folder: Path, images_root: Path | None = None, checkpoint: str | None = None) -> AnalyzedRun:
    """The run in a folder; `images_root` and `checkpoint` where these lie elsewhere than its config says.

    Raises ThroughlineError for a folder that is no run, whose images are gone, in which no unit is done, and when
    images or checkpoint are not those that its units were made from.
    """
    run, config = read_run(folder), read_config(folder, checkpoint)
    units = fold_units(run)
    own = folder / IMAGES if config.data.drawn is not None else Path(config.data.images or "")
    root = images_root or own
    images = read_images(root, name=dataset_name(config.set_name(config.data), root))
    _require_same(run, images, fingerprint_checkpoint(config.model.checkpoint, config.model.revision))
    folds = []
    for (targets, seed), by_method in units.items():
        trial = next(iter(by_method.values())).folder.unit.inputs.get("trial_seed", 0)
        fold = leave_out(images, targets, trial, config.data.train_per_domain)
        folds.append(AnalyzedFold(targets, seed, by_method, fold))
    return AnalyzedRun(run, config, images, tuple(folds))


def read_config(folder: Path, checkpoint: str | None = None) -> RunConfig:
    """The config of a run; `checkpoint` where its weights lie elsewhere than it says."""
    return load_config(str(folder / "config.yaml"), [] if checkpoint is None else [f"model.checkpoint={checkpoint}"])


def fold_units(run: Run) -> dict[FoldKey, dict[str, AnalyzedUnit]]:
    """The finished units that stand in the results, others being of an earlier plan: by method, methods in their order,
    by targets and seed. ThroughlineError where there are none."""
    named = {line.unit for line in run.results}
    units: dict[FoldKey, dict[str, AnalyzedUnit]] = {}
    for method in METHODS:
        for folder in run.units.values():
            if folder.done and folder.name in named and folder.unit.method == method:
                fold = units.setdefault((folder.unit.targets, folder.unit.seed), {})
                fold.setdefault(method, AnalyzedUnit(folder))
    if not units:
        raise ThroughlineError("no unit of this run is done", run.folder, "finish it with `throughline run`")
    return {key: units[key] for key in sorted(units)}


def _require_same(run: Run, images: ImageSet, checkpoint: str) -> None:
    """Adapters belong on the base that they were trained on, and to the images."""
    inputs: list[Mapping[str, object]] = [unit.unit.inputs for unit in run.units.values() if unit.unit.inputs]
    if any(of_unit.get("images") != images.fingerprint() for of_unit in inputs):
        raise ThroughlineError(
            "these are not the images that the run was made from", images.root, "name them with --images"
        )
    models = (of_unit.get("model") for of_unit in inputs)
    if any(isinstance(model, Mapping) and model.get("checkpoint") != checkpoint for model in models):
        raise ThroughlineError(
            "this is not the checkpoint that the run was made from", run.folder, "name it with --checkpoint"
        )
