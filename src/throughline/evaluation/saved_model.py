"""A model that can be asked: a final model as `throughline fit` saves it, or a plain checkpoint with a class list.

A saved model's folder holds `adapter/` and `throughline.json`, the record of everything that asking needs: classes,
both questions, chain format, base checkpoint. `experiment.final_model` writes it, the verbs `predict` and `evaluate`
open it here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from throughline.chains.formats import FORMATS
from throughline.core.errors import ThroughlineError, UsageError
from throughline.core.settings import AnswerSettings, ModelSettings, Quantization
from throughline.mllm.checkpoints import checkpoint_folder, checkpoint_source
from throughline.questions.class_names import class_name_defects
from throughline.questions.question_set import QuestionSet, make_question_set
from throughline.questions.wording import class_name

if TYPE_CHECKING:  # brings torch; a record is read without it
    from throughline.mllm.load import Mllm

SCHEMA = 1
"""Raised when a record of today could no longer be read by yesterday's reader in yesterday's meaning."""

LOADING = {"tiles", "dtype", "quantization"}
"""How a checkpoint is held in memory: keys of a record as of the settings of a model."""

RECORD, ADAPTER = "throughline.json", "adapter"
AS_RECORDED = ModelSettings()
"""No wish of its own about how a base is to be loaded."""

UNFINISHED = ".fitting"
"""Where `fit` works below the model's folder until the model is whole."""


class _Part(BaseModel):
    # Unknown fields are kept: a record of a later minor version is still read.
    model_config = ConfigDict(frozen=True, extra="allow", populate_by_name=True, use_attribute_docstrings=True)


class BaseCheckpoint(_Part):
    """The checkpoint below the adapter."""

    name: str
    """What results call it."""
    source: str
    """`pocket`, a folder, or a name on the hub."""
    hub: bool
    revision: str | None = None
    """The commit of a hub checkpoint."""
    fingerprint: str
    """Of the files' content; for a hub checkpoint of its name."""


class TrainingImages(_Part):
    """What the model has learned from."""

    name: str
    fingerprint: str
    by_domain: dict[str, int]
    """Images of each domain."""
    drawn: bool = False
    """Whether they are the drawn world, whose numbers say nothing about real images."""


class TrainingChains(_Part):
    """The teacher's chains behind the first stage."""

    source: Literal["describer", "journal"]
    rule: str
    accepted: int
    sha256: str


class ModelRecord(_Part):
    """The content of `throughline.json`."""

    schema_version: int = Field(default=SCHEMA, alias="schema")
    method: str
    seed: int
    classes: tuple[str, ...] = Field(min_length=1)
    names: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Of classes that are not written as they are called: display name and synonyms."""
    several: bool = False
    """Whether an image may be of several classes."""
    prompts: dict[Literal["label", "reasoning"], str]
    """Both questions, word for word as they were trained."""
    format: Literal["five_stage", "four_stage", "think_answer"]
    checkpoint: BaseCheckpoint
    tiles: int = Field(ge=1)
    dtype: Literal["float32", "bfloat16"]
    quantization: Quantization = "none"
    answering: AnswerSettings
    settings: dict[str, Any]
    """Everything else that training read: stages, rounds, adapter, threads."""
    optimiser_steps: int
    images: TrainingImages
    chains: TrainingChains | None = None
    versions: dict[str, str | None]
    inputs: dict[str, Any]
    """What the last unit of training was made from, by content: the same inputs give the same adapter."""

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains it has seen."""
        return tuple(self.images.by_domain)

    @property
    def model(self) -> ModelSettings:
        """How the checkpoint was loaded."""
        base, loading = self.checkpoint, self.model_dump(include=LOADING)
        return ModelSettings(checkpoint=base.source, hub=base.hub, revision=base.revision, **loading)

    @property
    def questions(self) -> QuestionSet:
        """What it was trained on."""
        label, reasoning = self.prompts["label"], self.prompts["reasoning"]
        return QuestionSet(self.classes, FORMATS[self.format], label, reasoning, self.names, self.several)

    def to_json(self) -> dict[str, Any]:
        """As it is written."""
        return self.model_dump(mode="json", by_alias=True)


@dataclass(frozen=True)
class OpenedModel:
    """A model in memory with its questions; `record` is None for what `fit` has not saved: a plain checkpoint, which is
    asked zero-shot, or a unit."""

    mllm: Mllm
    questions: QuestionSet
    answering: AnswerSettings
    record: ModelRecord | None
    method: str = "zero_shot"
    """How it was trained, in the words of results."""
    seed: int = 0
    """The seed of its training."""


def laid_over(model: ModelSettings, base: ModelSettings) -> ModelSettings:
    """Settings of a checkpoint with what `base` was given in their place: how it is to be loaded where nobody has
    recorded it, or another way is wanted. Only those of the moment, `hub` and `device`, are never as recorded."""
    given = base.model_dump(include=base.model_fields_set | {"hub", "device"})
    return model.model_copy(update=given)


def find_record(name: str, hub: bool = False) -> ModelRecord | None:
    """The record of the model called `name`, None when it is a plain checkpoint. Free of torch.

    Raises ThroughlineError for an unfinished model, a record that cannot be read, and what is no model at all.
    """
    folder = Path(name).expanduser()
    if (folder / RECORD).is_file():
        return read_record(folder)
    if (folder / UNFINISHED).is_dir():
        raise ThroughlineError("this model is not finished", folder, "run the same `throughline fit` again")
    if checkpoint_folder(name) is not None and folder.is_dir() and not (folder / "config.json").is_file():
        raise ThroughlineError(
            "no model here", folder, f"it has neither {RECORD} (from `throughline fit`) nor a checkpoint's config.json"
        )
    _require_source(name, hub, "name a folder made by `throughline fit`, a checkpoint, or allow the hub with --hub")
    return None


def read_record(folder: Path) -> ModelRecord:
    """The record of a saved model's folder; ThroughlineError when it is damaged or of a later version."""
    path = folder / RECORD
    try:
        record = ModelRecord.model_validate_json(path.read_bytes())
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        place = ".".join(map(str, fault["loc"]))
        raise ThroughlineError(
            f"the record cannot be read ({place + ': ' if place else ''}{fault['msg']})", path
        ) from None
    except OSError as error:
        raise ThroughlineError(f"the record cannot be read ({error.strerror})", path) from error
    if record.schema_version > SCHEMA:
        raise ThroughlineError(f"the record's schema {record.schema_version} is newer", path, "update throughline")
    if set(record.prompts) != {"label", "reasoning"}:
        raise ThroughlineError("the record lacks one of the two prompts", path)
    if not (folder / ADAPTER).is_dir():
        raise ThroughlineError("the model has no adapter", folder / ADAPTER, "copy the whole folder")
    return record


def open_model(name: str, classes: Sequence[str] | None = None, base: ModelSettings = AS_RECORDED) -> OpenedModel:
    """Loads the saved model or plain checkpoint called `name`, with what `base` was given in place of the recorded.

    `classes` replaces a saved model's class list (zero-shot on other classes) and is needed for a plain checkpoint.
    Raises ThroughlineError when it is neither, or when the base is not the one the model was fitted on.
    """
    from throughline.mllm.load import open_checkpoint
    from throughline.mllm.lora import load_adapter

    record = find_record(name, base.hub)
    if classes is not None:
        require_class_names(classes)
    if record is None:
        if "checkpoint" in base.model_fields_set:
            raise UsageError(f"{name} is a plain checkpoint", do="--checkpoint names the base of a fitted model")
        if not classes:
            raise UsageError(f"{name} is a plain checkpoint and has no classes", do="name them with --classes a,b,c")
        mllm = open_checkpoint(laid_over(ModelSettings(checkpoint=name), base))
        return OpenedModel(mllm, make_question_set(classes), AnswerSettings(), None)
    mllm = load_base(record, base)
    load_adapter(mllm.model, Path(name).expanduser() / ADAPTER)
    names = {label: names for label, names in record.names.items() if label in (classes or ())}
    questions = record.questions
    if classes:
        questions = make_question_set(classes, questions.format, names=names, several=record.several)
    return OpenedModel(mllm, questions, record.answering, record, record.method, record.seed)


def require_class_names(classes: Sequence[str]) -> None:
    """UsageError unless these are at least two names that answers can tell apart."""
    names = [class_name(label).casefold() for label in classes]
    twice = next((label for label, name in zip(classes, names, strict=True) if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"the class {twice} is named twice", do="name each class once")
    if len(names) < 2:
        raise UsageError("one class leaves nothing to choose", do="name at least two, separated by commas")
    for defect in class_name_defects(classes):
        if defect.severity == "error":
            raise UsageError(defect.what)


def load_base(record: ModelRecord, base: ModelSettings) -> Mllm:
    """What a saved model was fitted on, without its adapter. Raises ThroughlineError when that is not to be had."""
    from throughline.mllm.load import open_checkpoint

    own, model = record.checkpoint, laid_over(record.model, base)
    source = model.checkpoint
    wanted = f"this model needs its base {own.name}: name its folder with --checkpoint"
    hub = base.hub and (own.hub or "checkpoint" in base.model_fields_set)  # a folder that is gone is no name on the hub
    _require_source(source, hub, wanted + (", or allow the download with --hub" if own.hub else ""))
    mllm = open_checkpoint(model.model_copy(update={"hub": hub}))
    # A hub checkpoint is known by its commit: whether a folder holds the same is left to the adapter's shapes.
    comparable = own.hub == (checkpoint_folder(source) is None)
    if comparable and mllm.fingerprint != own.fingerprint:
        raise ThroughlineError(
            f"this base is not the {own.name} that the model was fitted on: content {mllm.fingerprint[:8]}, "
            f"not {own.fingerprint[:8]}",
            source,
            "name the right one with --checkpoint",
        )
    return mllm


def _require_source(name: str, hub: bool, remedy: str) -> None:
    """As `checkpoint_source`, with what to do in the words of the verbs."""
    if checkpoint_folder(name) is None and not hub:
        raise ThroughlineError("no such model or checkpoint", name, remedy)
    checkpoint_source(name, hub)
