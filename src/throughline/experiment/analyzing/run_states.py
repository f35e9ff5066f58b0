"""A finished run as an analysis sees it: its folds, and the weights that each of them passed through."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from throughline.analysis.records import State
from throughline.core.errors import ThroughlineError
from throughline.core.settings import AnswerSettings, SamplingSettings
from throughline.domains.folders import read_images
from throughline.domains.samples import ImageSet
from throughline.evaluation.folds import Fold, leave_out
from throughline.experiment.analyzing.finished_units import FinishedRun, FoldUnits, read_finished_run
from throughline.experiment.config import RunConfig
from throughline.experiment.preparation import CHAINS, IMAGES, dataset_name, read_accepted_chains
from throughline.mllm.checkpoints import checkpoint_name, fingerprint_checkpoint
from throughline.questions.question_set import QuestionSet
from throughline.runs.folder import UNITS

if TYPE_CHECKING:
    from throughline.mllm.load import Mllm


@dataclass(frozen=True)
class RunFold(FoldUnits):
    """The same with the images that were held out and those that were trained on."""

    fold: Fold


@dataclass(frozen=True)
class AnalyzedRun:
    """A run folder: config, images, and what is done of it."""

    folder: Path
    config: RunConfig
    images: ImageSet
    folds: tuple[RunFold, ...]

    def subject(self) -> Subject:
        """What scoring needs of it."""
        model = self.config.model
        return Subject(
            model=checkpoint_name(model.checkpoint),
            folder=self.folder,
            images=self.images,
            questions=self.config.question_set(self.images.classes),
            chains={name: texts[0] for name, texts in read_accepted_chains(self.folder / CHAINS).items()},
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
    questions: QuestionSet
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
    run = read_finished_run(folder, checkpoint)
    config = run.config
    own = folder / IMAGES if config.data.drawn is not None else Path(config.data.images or "")
    root = images_root or own
    images = read_images(root, name=dataset_name(config.set_name(config.data), root))
    _require_same(run, images, fingerprint_checkpoint(config.model.checkpoint, config.model.revision))
    folds = []
    for one in run.folds:
        trial = next(iter(one.units.values())).trial
        fold = leave_out(images, one.targets, trial, config.data.train_per_domain)
        folds.append(RunFold(one.targets, one.seed, one.units, fold))
    return AnalyzedRun(folder, config, images, tuple(folds))


def _require_same(run: FinishedRun, images: ImageSet, checkpoint: str) -> None:
    """Adapters belong on the base that they were trained on, and to the images."""
    inputs = [unit.inputs for fold in run.folds for unit in fold.units.values() if unit.inputs]
    if any(one.get("images") != images.fingerprint() for one in inputs):
        raise ThroughlineError(
            "these are not the images that the run was made from", images.root, "name them with --images"
        )
    if any((one.get("model") or {}).get("checkpoint") != checkpoint for one in inputs):
        raise ThroughlineError(
            "this is not the checkpoint that the run was made from",
            run.folder,
            "name it with --checkpoint",
        )
