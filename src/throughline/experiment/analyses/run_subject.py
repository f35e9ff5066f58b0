"""A finished run as an analysis sees it: its folds, and the weights that each of them passed through."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from throughline.core.errors import ThroughlineError
from throughline.domains.folders import read_images
from throughline.domains.samples import ImageSet
from throughline.evaluation.folds import leave_out
from throughline.experiment.analyses.subject import AnalyzedFold, AnalyzedUnit, Subject
from throughline.experiment.config import RunConfig, load_config
from throughline.experiment.preparation import CHAINS, IMAGES, dataset_name, read_accepted_chains
from throughline.mllm.checkpoints import checkpoint_name, fingerprint_checkpoint
from throughline.mllm.load import open_checkpoint
from throughline.runs.order import in_order
from throughline.runs.reader import Run, read_run
from throughline.runs.records import Factor
from throughline.training.methods import METHODS, method_table

Levels = tuple[tuple[str, Factor], ...]
"""A level of each factor."""

FoldKey = tuple[tuple[str, ...], int]
"""Targets and seed."""

Folds = dict[FoldKey, dict[str, AnalyzedUnit]]
"""Units by method, methods in their order."""

Groups = dict[Levels, Folds]
"""The folds of each combination of levels."""


def read_analyzed_run(
    folder: Path, images_root: Path | None = None, checkpoint: str | None = None, device: str = "auto"
) -> tuple[Run, tuple[AnalyzedFold, ...]]:
    """The run in a folder, and the folds of what is done of it; `images_root` and `checkpoint` where these lie
    elsewhere than its config says, `device` where it is not computed on the config's.

    Of a run over several image sets the first one is analysed. Raises ThroughlineError for a folder that is no run,
    whose images are gone, in which no unit is done, and when images or checkpoint are not those that its units were
    made from.
    """
    run, config = read_run(folder), read_config(folder, checkpoint)
    own = folder / IMAGES if config.data.drawn is not None else Path(config.data.images or "")
    root = images_root or own
    name = dataset_name(config.data.set_name, root)
    groups = fold_units(run, config, name)
    images = read_images(root, name=name).with_names(config.data.names)
    fingerprint = fingerprint_checkpoint(config.model.checkpoint, config.model.revision)
    _require_same(run, groups, images, fingerprint)
    folds = []
    for levels, units in groups.items():
        at = config.at(config.data, dict(levels))
        subject = _subject(run, at, images, fingerprint, device)
        for (targets, seed), by_method in units.items():
            fold = leave_out(images, targets, at.data.trial_seed, at.data.train_per_domain)
            folds.append(AnalyzedFold(targets, seed, dict(levels), by_method, fold, subject))
    return run, tuple(folds)


def read_config(folder: Path, checkpoint: str | None = None) -> RunConfig:
    """The config of a run; `checkpoint` where its weights lie elsewhere than it says."""
    return load_config(str(folder / "config.yaml"), [] if checkpoint is None else [f"model.checkpoint={checkpoint}"])


def fold_units(run: Run, config: RunConfig, dataset: str | None = None) -> Groups:
    """The finished units that stand in the results, others being of an earlier plan: for each combination of the
    factors' levels by targets and seed, then by method, methods in their order. Of a run over several image sets those
    of `dataset`, else of its first.

    ThroughlineError where there are none, and where the file of a user's own method is gone.
    """
    methods = METHODS | method_table(config.methods)
    named = {line.unit for line in run.results}
    groups: Groups = {}
    for method in in_order(methods, METHODS):
        for folder in run.units.values():
            unit = folder.unit
            of_set = not config.more_data or unit.dataset == (dataset or config.data.set_name)
            if folder.done and folder.name in named and unit.method == method and of_set:
                folds = groups.setdefault(tuple(sorted(unit.factors.items())), {})
                units = folds.setdefault((unit.targets, unit.seed), {})
                units.setdefault(method, AnalyzedUnit(folder, methods[method]))
    if not groups:
        raise ThroughlineError("no unit of this run is done", run.folder, "finish it with `throughline run`")
    return {levels: dict(sorted(groups[levels].items())) for levels in sorted(groups, key=str)}


def _subject(run: Run, config: RunConfig, images: ImageSet, checkpoint: str, device: str) -> Subject:
    """What scoring needs of a run, of one combination of the factors' levels."""
    model = config.model
    return Subject(
        model=checkpoint_name(model.checkpoint),
        folder=run.folder,
        images=images,
        questions=config.question_set(images.classes, images.names),
        chains={name: texts[0] for name, texts in read_accepted_chains(run.folder / CHAINS).items()},
        checkpoint=checkpoint,
        loading=(model.tiles, model.dtype, model.quantization),
        answering=config.evaluation.answering,
        self_labelling=config.training.self_labelling,
        adapter=lambda state: None if state.unit is None else run.units[state.unit].adapter(state.round),
        load=partial(open_checkpoint, model if device == "auto" else model.model_copy(update={"device": device})),
    )


def _require_same(run: Run, groups: Groups, images: ImageSet, checkpoint: str) -> None:
    """Adapters belong on the base that they were trained on, and to the images."""
    units = [unit.folder.unit for folds in groups.values() for fold in folds.values() for unit in fold.values()]
    inputs = [unit.inputs for unit in units if unit.inputs]
    if any(of_unit.get("images") != images.fingerprint() for of_unit in inputs):
        raise ThroughlineError(
            "these are not the images that the run was made from", images.root, "name them with --images"
        )
    models = (of_unit.get("model") for of_unit in inputs)
    if any(isinstance(model, Mapping) and model.get("checkpoint") != checkpoint for model in models):
        raise ThroughlineError(
            "this is not the checkpoint that the run was made from", run.folder, "name it with --checkpoint"
        )
