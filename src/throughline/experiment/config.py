"""What an experiment is, typed: images, model, chains, methods, seeds, training, evaluation. Free of torch.

`load_config` makes a `RunConfig` from YAML; the plan of units, the workers and `--dry-run` read it. Whatever changes
a unit's numbers is part of that unit's hash (`units`); what only changes time or memory is not.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, Field, ValidationError, field_validator, model_validator

from throughline.chains.formats import FORMATS
from throughline.core.errors import ThroughlineError, UsageError
from throughline.core.nearest import nearest
from throughline.core.settings import (
    AnswerSettings,
    Attention,
    LoraSettings,
    Quantization,
    SamplingSettings,
    Settings,
    StageSettings,
    WordingSettings,
)
from throughline.experiment.presets import preset_names, preset_path
from throughline.questions.question_set import QuestionSet, make_question_set


def _listed(value: Any) -> Any:
    """`a,b` and a lone value are lists too, so that `--set seeds=0` and `--set methods=cls,mtct` work."""
    if isinstance(value, str):
        return [word.strip() for word in value.split(",") if word.strip()]
    return [value] if isinstance(value, int) else value


def _named(value: Any) -> Any:
    """A domain called 15 is the name "15": YAML reads it as a number."""
    listed = _listed(value)
    return (
        [str(item) if type(item) in {int, float} else item for item in listed] if isinstance(listed, list) else listed
    )


Words = Annotated[tuple[str, ...], BeforeValidator(_named), Field(min_length=1)]
Seeds = Annotated[tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(_listed), Field(min_length=1)]


class DrawnConfig(Settings):
    """The drawn world as the images of a run; written to the run folder."""

    per_class: int = Field(default=25, ge=1)
    """Images of each class in each style."""
    seed: int = Field(default=0, ge=0)
    """Seed of the world."""
    size: int = Field(default=64, ge=64, le=1024)
    """Side of an image in pixels."""


class DataConfig(Settings):
    """The images, and which domains are held out. Exactly one of `images` and `drawn` is given."""

    images: str | None = None
    """A folder `<domain>/<class>/<image>`, or a CSV or Parquet table of `image, domain, label[, group]`."""
    drawn: DrawnConfig | None = None
    """The drawn world instead of image files."""
    name: str | None = None
    """What tables call the images; by default `drawn`, or the name of the run."""
    targets: Literal["all"] | Words = "all"
    """Domains that are held out, one after the other."""
    train_per_domain: int | None = Field(default=None, ge=1)
    """Most training images of a source domain, the first of its `in` part in DomainBed's order; all where not given."""
    trial_seed: int = Field(default=0, ge=0)
    """DomainBed's trial seed: decides which images of a domain are in its `in` and its `out` split."""
    cache_gb: float = Field(default=8, ge=0)
    """Gigabytes of preprocessed images kept on disk in the run folder until the run is finished; a tile of 448 pixels
    takes 2.4 MB. 0 keeps none: every unit decodes every image again. Changes no result."""

    @model_validator(mode="after")
    def _one_source(self) -> DataConfig:
        if self.images is None and self.drawn is None:
            raise ValueError("no images are named: add --set data.images=DIR (a folder <domain>/<class>/<image>)")
        if self.images is not None and self.drawn is not None:
            raise ValueError("both images and drawn are given: add --set data.drawn=null to use the images")
        return self


class ModelConfig(Settings):
    """The checkpoint that everything starts from."""

    checkpoint: str = "pocket"
    """`pocket` (ships with the package), a folder, or with `hub` a name on the Hugging Face hub."""
    tiles: int = Field(default=1, ge=1)
    """Most tiles an image is cut into (open in the paper)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the weights in memory."""
    attention: Attention = "sdpa"
    """Kernel of the decoder's attention in training: `flex` is FlexAttention, for CUDA; `throughline bench gpu` tells
    which is faster on a card."""
    quantization: Quantization = "none"
    """`nf4` holds the decoder's weights in 4 bits (QLoRA), a quarter of the memory; needs `throughline[quantized]`."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; `auto` is a GPU where there is one."""
    hub: bool = False
    """Allow the checkpoint's download from the Hugging Face hub."""
    lora: LoraSettings = LoraSettings()
    """The adapter that training fits."""


def _is_one(value: int) -> bool:
    return value == 1


class ChainsConfig(Settings):
    """Where the reasoning chains of the first stage come from; at most one of `teacher` and `journal`."""

    format: Literal["five_stage", "four_stage", "think_answer"] = "five_stage"
    """Stages of a chain; the reasoning question asks for them."""
    rule: Literal["format", "consistent", "correct"] = "correct"
    """What an accepted chain of the teacher must meet. A round's own chain must always conclude in the true class."""
    teacher: Literal["describer"] | None = None
    """Builds chains within the run; `describer` reads the scenes of a drawn world."""
    journal: str | None = None
    """A chain journal (JSONL), or a folder of `journal-*.jsonl`, to take candidates from."""
    candidates: int = Field(default=4, ge=1)
    """Chains the teacher is asked for per image until enough are accepted."""
    per_image: int = Field(default=1, ge=1, exclude_if=_is_one)  # one is not written: hashes are older than it
    """Accepted chains of an image that the first stage learns from, each as an example of its own: an epoch takes as
    many times the steps (open in the paper; ours: 1)."""

    @model_validator(mode="after")
    def _one_source(self) -> ChainsConfig:
        if self.teacher is not None and self.journal is not None:
            raise ValueError("both teacher and journal are given: keep one, --set chains.teacher=null drops the other")
        if self.per_image > self.candidates and self.teacher is not None:
            raise ValueError(f"{self.per_image} chains of {self.candidates} candidates: raise chains.candidates")
        return self


class SelfLabelling(SamplingSettings):
    """Draws of a round. With defaults of its own: naming one of its keys must not make the others greedy."""

    temperature: float = Field(default=0.7, ge=0)
    """0 is greedy."""


class SamplerConfig(Settings):
    """Who draws the chains of a round: this process, or a server of the round's merged weights."""

    serve: str | None = None
    """Command of an OpenAI-compatible server, e.g. `vllm serve {checkpoint} --port {port} --served-model-name {name}`
    or `transformers serve --port {port} {checkpoint}`; by default none, and this process draws. Faster for large
    models, and texts are then no longer the same to the bit. On one GPU leave room for the model that trains."""
    start_seconds: float = Field(default=600.0, gt=0)
    """Seconds until a server that does not answer is given up."""
    at_once: int = Field(default=64, ge=1)
    """Most requests under way; fewer while the server refuses."""

    @field_validator("serve")
    @classmethod
    def _fillable(cls, serve: str | None) -> str | None:
        if serve is None:
            return None
        try:
            words = shlex.split(serve)
        except ValueError as error:
            raise ValueError(f"the command cannot be read ({error}): mend its quotes") from None
        lacking = [name for name in ("{checkpoint}", "{port}") if not any(name in word for word in words[1:])]
        if lacking:
            raise ValueError(
                f"the command has no {' and no '.join(lacking)}: write for example "
                "'vllm serve {checkpoint} --port {port}'"
            )
        return serve

    @property
    def identity(self) -> dict[str, str]:
        """What of this changes texts: nothing in this process, else the command without the place of its program."""
        if self.serve is None:
            return {}
        program, *words = shlex.split(self.serve)
        return {"serve": shlex.join([PurePath(program).name, *words])}


class TrainingConfig(Settings):
    """Stages of training and the rounds of self-labelling."""

    stage: StageSettings = StageSettings()
    """The first stage and each round."""
    rounds: int = Field(default=3, ge=1)
    """Rounds of self-labelling (paper: N = 3)."""
    rejected: Literal["drop", "keep_last"] = "drop"
    """A sample whose own chain is rejected leaves the round (paper), or keeps its last accepted chain."""
    self_labelling: SelfLabelling = SelfLabelling()
    """How the model's own chains are drawn (open in the paper; OpenGVLab/InternVL's pipeline: 0.7 and 1.0)."""
    sampler: SamplerConfig = SamplerConfig()
    """Who draws them."""

    @model_validator(mode="after")
    def _constrained_here(self) -> TrainingConfig:
        if self.self_labelling.constrained and self.sampler.serve is not None:
            raise ValueError("a server does not know our grammar: drop self_labelling.constrained, or sampler.serve")
        return self


class EvaluationConfig(Settings):
    """How finished units are measured: always on the target's `in`, `out` and `all` splits."""

    answering: AnswerSettings = AnswerSettings()
    """How a model is asked."""
    selection: Literal["last", "validation"] = "last"
    """The last checkpoint, or the best on the `out` splits of the source domains (open in the paper)."""


PAPER_METHODS = ("zero_shot", "cls", "reasoning", "mtct", "sarr", "mtct_sarr")


class RunConfig(Settings):
    """One experiment: targets x methods x seeds."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run and of its folder below `runs/`; letters, digits, dot, dash, underscore."""
    data: DataConfig
    """Images and held-out domains."""
    model: ModelConfig = ModelConfig()
    """Checkpoint and adapter."""
    chains: ChainsConfig = ChainsConfig()
    """Reasoning chains of the first stage."""
    questions: WordingSettings = WordingSettings()
    """Wording of the questions about an image."""
    methods: Words = PAPER_METHODS
    """Rows of the table; what a method starts from is added by itself."""
    seeds: Seeds = (0,)
    """One run of every method and target per seed."""
    training: TrainingConfig = TrainingConfig()
    """Optimisation and self-labelling."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Measurement."""
    workers: int = Field(default=1, ge=1)
    """Units at work at the same time, each in a process of its own; changes no result."""
    threads: int = Field(default=1, ge=1)
    """torch threads of a worker. Part of every unit's hash: gradients differ in their last bits between counts."""

    @model_validator(mode="after")
    def _served_in_full_width(self) -> RunConfig:
        if self.model.quantization != "none" and self.training.sampler.serve is not None:
            raise ValueError(
                "a server is given merged weights, and 4-bit weights cannot be merged: "
                "drop model.quantization, or training.sampler.serve"
            )
        return self

    def question_set(self, classes: Sequence[str]) -> QuestionSet:
        """The questions about images of these classes, as this config words them."""
        return make_question_set(classes, FORMATS[self.chains.format], self.questions)

    @property
    def dataset(self) -> str:
        """What results call the images. Never their path: the same images elsewhere give the same results."""
        return self.data.name or ("drawn" if self.data.drawn is not None else self.name)


def load_config(name_or_path: str, overrides: Sequence[str] = ()) -> RunConfig:
    """The config in a YAML file or of a preset, with `a.b=c` overrides laid over it (values are YAML).

    A file that gives no `name` is called after itself. Raises a ThroughlineError, in one line, for a file that cannot
    be read, an unknown key (with the nearest known one) and a value of the wrong type.
    """
    path = _config_path(name_or_path)
    values = _read_mapping(path)
    for override in overrides:
        _lay_over(values, override)
    values.setdefault("name", path.stem)
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise ThroughlineError(*_first_fault(error, values, name_or_path)) from None


def _config_path(name_or_path: str) -> Path:
    path = Path(name_or_path)
    if path.is_file():
        return path
    if name_or_path in preset_names():
        return preset_path(name_or_path)
    if path.suffix in {".yaml", ".yml"}:
        raise ThroughlineError("no such config file", name_or_path, "name a YAML file or a preset")
    near = nearest(name_or_path, preset_names())
    hint = f"did you mean {near}? " if near else ""
    raise ThroughlineError(
        f"no preset named {name_or_path}", None, f"{hint}the presets are {', '.join(preset_names())}"
    )


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise ThroughlineError(f"cannot read the config ({error})", path) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}, line {mark.line + 1}" if mark else path
        raise ThroughlineError(
            f"the config is no YAML ({getattr(error, 'problem', None) or 'unreadable'})", place
        ) from None
    if not isinstance(values, dict):
        raise ThroughlineError("the config is no mapping of keys to values", path)
    return values


def _lay_over(values: dict[str, Any], override: str) -> None:
    """Sets one `a.b=c` in nested mappings, in place."""
    dotted, equals, text = override.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(keys):
        raise UsageError(f"--set {override} is no key=value", do="write for example --set training.rounds=2")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UsageError(f"the value of --set {override} is no YAML") from None
    for key in keys[:-1]:
        inner = values.get(key)
        if inner is not None and not isinstance(inner, dict):
            raise UsageError(f"--set {override}: {key} is no group of keys")
        values[key] = values = dict(inner or {})
    values[keys[-1]] = value


def _first_fault(error: ValidationError, values: dict[str, Any], where: str) -> tuple[str, str, str | None]:
    """What, where and what to do of the fault to mend first: an unknown key often is why another one is missing."""
    faults = sorted(error.errors(include_url=False), key=lambda fault: fault["type"] != "extra_forbidden")
    fault = faults[0]
    # Names of union members stand in the location too; only what is in the file, or would be, is a key.
    location = tuple(part for part in fault["loc"] if isinstance(part, int) or part.isidentifier())
    key = ".".join(map(str, location))
    if fault["type"] == "extra_forbidden":
        return f"unknown key {key}", where, _known_key_like(location)
    message = fault["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if fault["type"] == "value_error":
        what, _, remedy = message.partition(": ")
        return f"{key}: {what}" if key else what, where, remedy or None
    if fault["type"] == "missing":
        return f"{key} is missing", where, "add it to the config, or with --set"
    return f"{key} is {_shown(fault['input'])}, expected: {message}", where, None


def _known_key_like(location: tuple[str | int, ...]) -> str:
    beside = _fields_at(location[:-1])
    wanted = str(location[-1])
    near = nearest(wanted, beside)
    if near is not None:
        return f"did you mean {'.'.join(map(str, (*location[:-1], near)))}?"
    elsewhere = [path for path in _all_keys(RunConfig) if path.rsplit(".", 1)[-1] == wanted]
    if elsewhere:
        return f"did you mean {' or '.join(elsewhere)}?"
    return f"the keys here are {', '.join(beside)}"


def _fields_at(location: Iterable[str | int]) -> tuple[str, ...]:
    model: type[BaseModel] = RunConfig
    for key in location:
        inner = _model_of(model, str(key))
        if inner is None:
            break
        model = inner
    return tuple(model.model_fields)


def _model_of(model: type[BaseModel], key: str) -> type[BaseModel] | None:
    """The group of keys behind a field, also where it may be null."""
    annotation = model.model_fields[key].annotation if key in model.model_fields else None
    for candidate in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _all_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for key in model.model_fields:
        yield prefix + key
        inner = _model_of(model, key)
        if inner is not None:
            yield from _all_keys(inner, f"{prefix}{key}.")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
