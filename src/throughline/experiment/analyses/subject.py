"""What an analysis looks at, of a run or of any model on any chain journal: images, chains, questions, folds, and the
weights that each fold passed through."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from throughline.analysis.records import BASE, State
from throughline.chains.formats import FIVE_STAGE, FORMATS
from throughline.chains.journal import require_journals
from throughline.chains.records import Header
from throughline.chains.store import read_headers
from throughline.core.errors import ThroughlineError
from throughline.core.settings import AnswerSettings, ModelSettings, SamplingSettings, SelfLabelling
from throughline.domains.folders import read_images
from throughline.domains.samples import ImageSet
from throughline.evaluation.folds import Fold, keep_all, leave_out
from throughline.evaluation.saved_model import ModelRecord, find_record, laid_over, load_base, open_model
from throughline.experiment.config import RunConfig
from throughline.experiment.config_files import load_config
from throughline.experiment.preparation import CHAINS, dataset_name, grouped, read_accepted_chains
from throughline.mllm.checkpoints import checkpoint_name, fingerprint_checkpoint
from throughline.mllm.load import Mllm, open_checkpoint
from throughline.questions.question_set import QuestionSet, make_question_set
from throughline.runs.folder import ADAPTER, CONFIG, IMAGES, round_folders
from throughline.runs.order import in_order
from throughline.runs.reader import Run, UnitFolder, read_run, read_unit
from throughline.runs.records import Factor
from throughline.runs.unit import Unit
from throughline.teaching.building import accepted_chains
from throughline.training.methods import BOTH, METHODS, Method, method_table
from throughline.training.stages.sft import Sft

RULE = "correct"


@dataclass(frozen=True)
class AnalyzedUnit:
    """A finished unit, where its weights were trained, and those that it passed through."""

    folder: UnitFolder
    method: Method
    trained: UnitFolder

    @property
    def name(self) -> str:
        """Of its method."""
        return self.method.name

    @property
    def state(self) -> State:
        """What it ended with; the base itself where nothing was trained."""
        return State(method=self.name, unit=self.folder.name, round=None) if self.method.trains else BASE

    @property
    def rounds(self) -> tuple[State, ...]:
        """The weights after each round of self-labelling that is whole."""
        numbers = round_folders(self.trained.folder, ADAPTER)
        return tuple(State(method=self.name, unit=self.folder.name, round=number) for number in numbers)

    @property
    def states(self) -> tuple[State, ...]:
        """All weights worth a look: each round, the last of which stands for the unit unless its weights were
        chosen."""
        if not self.method.trains:
            return ()
        chosen = bool(self.trained.validation())
        return (*self.rounds, *([self.state] if chosen or not self.rounds else []))


@dataclass(frozen=True)
class Subject:
    """Images with a teacher's accepted chains by sample id, questions, and by content the weights. Shards go to
    `folder`; `adapter` gives the folder of a state's adapter, None for the base; `load` opens the checkpoint."""

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
    load: Callable[[], Mllm]


@dataclass(frozen=True)
class AnalyzedFold:
    """One target and seed at one level of each factor: its units by method, the images that were held out and those
    that were trained on, and what all of it is about."""

    targets: tuple[str, ...]
    seed: int
    factors: Mapping[str, Factor]
    units: Mapping[str, AnalyzedUnit]
    fold: Fold
    subject: Subject

    def families(self) -> Iterator[tuple[AnalyzedUnit, State]]:
        """The units of self-labelling, each with the weights that its rounds start from."""
        for unit in self.units.values():
            parent = self.units.get(unit.method.starts_from or "")
            if unit.method.self_labelled and parent is not None:
                yield unit, parent.state


Levels = tuple[tuple[str, Factor], ...]
"""A level of each factor."""

FoldKey = tuple[tuple[str, ...], int]
"""Targets and seed."""

Folds = dict[FoldKey, dict[str, AnalyzedUnit]]
"""Units by method, methods in their order."""

Groups = dict[Levels, Folds]
"""The folds of each combination of levels."""


# of a run -----------------------------------------------------------------------------------------------------------


def read_analyzed_run(
    folder: Path, images_root: Path | None = None, checkpoint: str | None = None, device: str = "auto"
) -> tuple[Run, tuple[AnalyzedFold, ...]]:
    """The run in a folder, and the folds of what is done of it; `images_root` and `checkpoint` where these lie
    elsewhere than its config says, `device` where it is not computed on the config's.

    Of a run over several image sets, or of several models, the first one is analysed. Raises ThroughlineError for a
    folder that is no run, whose images are gone, in which no unit is done, and when images or checkpoint are not those
    that its units were made from.
    """
    run, config = read_run(folder), read_config(folder, checkpoint)
    own = folder / IMAGES if config.data.drawn is not None else Path(config.data.images or "")
    root = images_root or own
    name = dataset_name(config.data.set_name, root)
    groups = fold_units(run, name)
    images = grouped(read_images(root, name=name).with_names(config.data.names), config.data)
    fingerprint = fingerprint_checkpoint(config.model.checkpoint, config.model.revision)
    _require_same(run, groups, images, fingerprint)
    folds = []
    for levels, units in groups.items():
        at = config.at(config.data, dict(levels))
        subject = _subject(run, at, images, fingerprint, device)
        for (targets, seed), by_method in units.items():
            data = at.data
            fold = leave_out(images, targets, data.trial_seed, data.train_per_domain, data.split_rule)
            folds.append(AnalyzedFold(targets, seed, dict(levels), by_method, fold, subject))
    return run, tuple(folds)


def read_config(folder: Path, checkpoint: str | None = None) -> RunConfig:
    """The config of a run; `checkpoint` where its weights lie elsewhere than it says."""
    return load_config(str(folder / CONFIG), changes={} if checkpoint is None else {"model.checkpoint": checkpoint})


def fold_units(run: Run, dataset: str | None = None) -> Groups:
    """The finished units that stand in the results, others being of an earlier plan: for each combination of the
    factors' levels by targets and seed, then by method, methods in their order. Of a run over several image sets those
    of `dataset`, else of its first; of several models those of the first.

    ThroughlineError where there are none, and where the file of a user's own method is gone.
    """
    config = read_config(run.folder)
    methods = METHODS | method_table(config.methods)
    named = {line.unit for line in run.results}
    groups: Groups = {}
    for method in in_order(methods, METHODS):
        for folder in run.units.values():
            unit = folder.unit
            first = not config.more_data or unit.dataset == (dataset or config.data.set_name)
            first = first and config.model_called(unit.model) == config.model
            if folder.done and folder.name in named and unit.method == method and first and not unit.feature_level:
                folds = groups.setdefault(tuple(sorted(unit.factors.items())), {})
                units = folds.setdefault((unit.targets, unit.seed), {})
                units.setdefault(method, AnalyzedUnit(folder, methods[method], run.trained(folder.name)))
    if not groups:
        raise ThroughlineError("no unit of this run is done", run.folder, "finish it with `throughline run`")
    return {levels: dict(sorted(groups[levels].items())) for levels in sorted(groups, key=str)}


def inputs_of(groups: Groups) -> list[Mapping[str, Any]]:
    """The inputs of each unit."""
    return [u.folder.unit.inputs for folds in groups.values() for units in folds.values() for u in units.values()]


def _subject(run: Run, config: RunConfig, images: ImageSet, checkpoint: str, device: str) -> Subject:
    """What scoring needs of a run, of one combination of the factors' levels."""
    model = config.model
    return Subject(
        model=checkpoint_name(model.checkpoint),
        folder=run.folder,
        images=images,
        questions=config.question_set(images.classes, images.names, images.several),
        chains={name: texts[0] for name, texts in read_accepted_chains(run.folder / CHAINS).items()},
        checkpoint=checkpoint,
        loading=(model.tiles, model.dtype, model.quantization),
        answering=config.evaluation.answering,
        self_labelling=config.training.self_labelling,
        adapter=lambda state: None if state.unit is None else run.trained(state.unit).adapter(state.round),
        load=partial(open_checkpoint, model if device == "auto" else model.model_copy(update={"device": device})),
    )


def _require_same(run: Run, groups: Groups, images: ImageSet, checkpoint: str) -> None:
    """Adapters belong on the base that they were trained on, and to the images."""
    inputs = [of_unit for of_unit in inputs_of(groups) if of_unit]
    if any(of_unit.get("images") != images.fingerprint() for of_unit in inputs):
        raise ThroughlineError(
            "these are not the images that the run was made from", images.root, "name them with --images"
        )
    models = (of_unit.get("model") for of_unit in inputs)
    if any(isinstance(model, Mapping) and model.get("checkpoint") != checkpoint for model in models):
        raise ThroughlineError(
            "this is not the checkpoint that the run was made from", run.folder, "name it with --checkpoint"
        )


# of a model ---------------------------------------------------------------------------------------------------------


def open_subject(
    name: str, source: str, base: ModelSettings, folder: Path, images_root: Path | None = None
) -> AnalyzedFold:
    """The one fold, which holds nothing out, of a model called `name` (a folder of `throughline fit` or a checkpoint)
    and the chains of a journal or store, `source`. Nothing is loaded here. `images_root` is where the journal does not
    say where its images lie, or wrongly.

    Raises ThroughlineError for a model or a journal that is not there, and when no chain is accepted.
    """
    record = find_record(name, base.hub)
    journals = require_journals(Path(source))
    header = next(read_headers(journals), None)
    root = images_root or (Path(header.images) if header is not None and header.images else None)
    if root is None:
        raise ThroughlineError("the journal does not say where its images lie", source, "give --images DIR")
    images = read_images(root)
    questions = _questions(record, header, images)
    chains = accepted_chains(journals, images, questions.format, RULE)
    if not chains:
        raise ThroughlineError("no chain of these images is accepted", source, f"rule {RULE}, {root}")
    model = laid_over(ModelSettings(checkpoint=name) if record is None else record.model, base)
    adapter = Path(name).expanduser() / "adapter"
    subject = Subject(
        model=checkpoint_name(name),
        folder=folder,
        images=images,
        questions=questions,
        chains={name: texts[0] for name, texts in chains.items()},
        checkpoint=fingerprint_checkpoint(name) if record is None else record.checkpoint.fingerprint,
        loading=(model.tiles, model.dtype, model.quantization),
        answering=AnswerSettings() if record is None else record.answering,
        self_labelling=SelfLabelling(),
        adapter=lambda state: None if state.method is None else adapter,
        load=partial(_load, name, base, record, questions.classes),
    )
    units = {}
    if record is not None:
        unit = Unit("final", images.name, (), record.method, subject.model, record.seed)
        folder_of_model = read_unit(adapter.parent, unit)
        assert folder_of_model is not None
        # of a user's own method we know here that it trained, and no more
        method = METHODS.get(record.method, Method(record.method, (Sft(BOTH),), "a method of the user's own"))
        units = {record.method: AnalyzedUnit(folder_of_model, method, folder_of_model)}
    return AnalyzedFold((), 0 if record is None else record.seed, {}, units, keep_all(images), subject)


def _load(name: str, base: ModelSettings, record: ModelRecord | None, classes: tuple[str, ...]) -> Mllm:
    """The base of a fitted model, or the checkpoint itself."""
    return open_model(name, classes, base).mllm if record is None else load_base(record, base)


def _questions(record: ModelRecord | None, header: Header | None, images: ImageSet) -> QuestionSet:
    """Those that a fitted model was trained with, else ours for the images' classes in the journal's format."""
    if record is not None:
        return record.questions
    form = FORMATS[header.format] if header is not None else FIVE_STAGE
    return make_question_set(images.classes, form, names=images.names)
