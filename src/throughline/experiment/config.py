"""What an experiment is, typed: images, model, chains, methods, seeds, training, evaluation. Free of torch.

`config_files` reads a `RunConfig` from YAML; the plan of units, the workers and `--dry-run` work with it. Whatever
changes a unit's numbers is part of that unit's hash (`runs.unit`); what only changes time or memory is not.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from throughline.baselines.settings import BaselineSettings
from throughline.chains.formats import FORMATS
from throughline.chains.names import Aliases
from throughline.core.errors import ThroughlineError, UsageError
from throughline.core.settings import (
    LocalPath,
    ModelSettings,
    Settings,
    TrainingSettings,
    WordingSettings,
)
from throughline.domains.folders import default_name
from throughline.domains.samples import Sample
from throughline.domains.splits import SplitRule
from throughline.experiment.asking import EvaluationConfig, Words
from throughline.experiment.config_faults import dotted_keys, first_fault
from throughline.experiment.search import SearchConfig
from throughline.mllm.checkpoints import checkpoint_name, endpoint_of
from throughline.questions.probing import described_samples
from throughline.questions.question_set import LIKELIHOODS, QuestionSet, make_question_set
from throughline.runs.unit import DRAW
from throughline.training.methods import method_table

Seeds = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]


def _named_levels(value: Any) -> Any:
    """A level called 2 is the name "2", and a level without keys may be left empty."""
    if not isinstance(value, dict):
        return value
    return {
        name: {str(level): keys or {} for level, keys in levels.items()} if isinstance(levels, dict) else levels
        for name, levels in value.items()
    }


Factors = Annotated[dict[str, dict[str, dict[str, Any]]], BeforeValidator(_named_levels)]


class DrawnConfig(Settings):
    """Drawn images for a run; they are written to the run folder."""

    per_class: int = Field(default=25, ge=1)
    """Images of each class in each style."""
    seed: int = Field(default=0, ge=0)
    """Seed of the drawn images."""
    size: int = Field(default=64, ge=64, le=1024)
    """Side of an image in pixels."""


class DataConfig(Settings):
    """The images, and which domains are held out. Give either `images` or `drawn`."""

    images: LocalPath = None
    """A folder `<domain>/<class>/<image>`, or a CSV or Parquet table of `image, domain, label[, group][, class_name]`.
    `class_name` is a name and synonyms as in `names`, with `|` between them."""
    drawn: DrawnConfig | None = None
    """Drawn images instead of image files."""
    name: str | None = None
    """Name of the images in tables; by default `drawn`, or the name of their folder or table."""
    targets: Literal["all"] | Words = "all"
    """Domains to hold out, one after the other."""
    names: dict[Annotated[str, BeforeValidator(str)], Words] = Field(default_factory=dict)
    """For each class its name in prompts and answers, then synonyms that an answer may use, e.g. `n01440764: [tench,
    Tinca tinca]`. Without an entry, a class has the name of its folder. Results use the folder names."""
    train_per_domain: int | None = Field(default=None, ge=1)
    """Most training images per source domain, the first of its `in` part in DomainBed's order; all by default."""
    trial_seed: int = Field(default=0, ge=0)
    """DomainBed's trial seed, which decides the images in the `in` and `out` split of each domain."""
    split_rule: SplitRule = None
    """`concepts`: sources train on half of the groups, the target is asked about the other half, so that no group is on
    both sides; `domainbed`: DomainBed's split, groups or not. Results have it as a factor. By default DomainBed's, with
    groups kept whole inside each domain, and no factor."""
    group_by: Literal["combinations"] | None = None
    """`combinations`: drawn images are grouped by their class and free parts, so that `split_rule: concepts` asks about
    combinations that no image trained on has."""
    cache_gb: float = Field(default=8, ge=0)
    """Gigabytes of preprocessed images to keep in the run folder until the run is finished; a tile of 448 pixels takes
    2.4 MB. With 0, every unit decodes every image again. Changes no result."""

    @model_validator(mode="after")
    def _one_source(self) -> DataConfig:
        if self.images is None and self.drawn is None:
            raise ValueError("no images are given: add --set data.images=DIR (a folder <domain>/<class>/<image>)")
        if self.images is not None and self.drawn is not None:
            raise ValueError("both images and drawn are given: add --set data.drawn=null to use the images")
        return self

    @property
    def set_name(self) -> str:
        """What results call the images. Never a path: the same images elsewhere give the same results."""
        return self.name or ("drawn" if self.drawn is not None else default_name(Path(self.images or "")))


class ChainsConfig(Settings):
    """Source of the reasoning chains of the first stage: `teacher` or `journal`, not both."""

    format: Literal["five_stage", "four_stage", "think_answer"] = "five_stage"
    """Format of a chain: the stages that the reasoning question asks for."""
    rule: Literal["format", "consistent", "correct"] = "correct"
    """Rule for accepting a teacher's chain. Own chains in a round must always conclude in the true class."""
    teacher: Literal["describer"] | None = None
    """Build chains in the run with this teacher; `describer` knows drawn images only."""
    journal: LocalPath = None
    """A store of chains: a folder with `journal-*.jsonl`, or one such file."""
    part_mistakes: float | None = Field(default=None, ge=0, le=1)
    """How often the describer is wrong about the part that decides between two classes (its default: 0.08); about other
    parts it is wrong less often."""
    pairs: LocalPath = None
    """Folder of preference pairs, for the methods that learn from them."""
    candidates: int = Field(default=4, ge=1)
    """Most chains to ask the teacher for per image, until enough are accepted."""
    coverage: Literal["labels", "shared"] = "labels"
    """If not every image has an accepted chain, `labels` trains on every label and the existing chains. `shared` trains
    every method only on the images that have a chain, so that all methods see the same images."""
    per_image: int = Field(default=1, ge=1)
    """Accepted chains per image in the first stage (open in the paper; ours: 1). Each is a separate example, so an
    epoch has that many times the steps."""

    @model_validator(mode="after")
    def _one_source(self) -> ChainsConfig:
        if self.teacher is not None and self.journal is not None:
            raise ValueError("both teacher and journal are given: keep one, --set chains.teacher=null drops the other")
        if self.part_mistakes is not None and self.teacher is None:
            raise ValueError(
                "part_mistakes is about the describer: add --set chains.teacher=describer, or leave it out"
            )
        if self.per_image > self.candidates and self.teacher is not None:
            raise ValueError(f"per_image {self.per_image} is more than the {self.candidates} candidates: raise it")
        if self.coverage == "shared" and self.teacher is None and self.journal is None:
            raise ValueError("coverage is shared, but there are no chains: name a teacher or a journal")
        return self


FIXED = (
    *(
        "name",
        "methods",
        "seeds",
        "workers",
        "threads",
        "factors",
        "more_data",
        "more_models",
        "chains",
        "data.names",
        "per_method",
    ),
    *("search", "data.group_by"),
    *("data.images", "data.drawn", "data.name", "data.targets", "model.checkpoint", "model.hub", "model.revision"),
)
"""Keys, and groups of keys, that no level of a factor may set: they are read before units are planned."""
EVALUATION_KEYS, SELECTION_KEY = "evaluation.", "evaluation.selection"
"""What begins with the first, but for the second, says how a finished model is asked and changes no training."""
PAPER_METHODS = ("zero_shot", "cls", "reasoning", "mtct", "sarr", "mtct_sarr")


class RunConfig(Settings):
    """One experiment: targets x methods x seeds."""

    name: str
    """Name of the run and of its folder in `runs/`; letters, digits, dot, dash, underscore. In a file it may be left
    out: the run is then called after the file."""
    data: DataConfig
    """Images and held-out domains. With a list of image sets, one run covers all of them."""
    more_data: tuple[DataConfig, ...] = ()
    """The other image sets of such a list."""
    factors: Factors = Field(default_factory=dict)
    """Named axes with levels; each level sets keys of this config, e.g.
    `wording: {plain: {}, short: {questions.label: 'Name it: {options}'}}`. Every method, target and seed has a unit for
    each combination of levels."""
    model: ModelSettings = ModelSettings()
    """Checkpoint and adapter. With a list of these, one run covers all of them."""
    more_models: tuple[ModelSettings, ...] = ()
    """The other models of such a list."""
    chains: ChainsConfig = ChainsConfig()
    """Reasoning chains of the first stage."""
    questions: WordingSettings = WordingSettings()
    """Wording of the questions about an image."""
    methods: Words = PAPER_METHODS
    """Rows of the table; methods that others start from are added automatically."""
    seeds: Seeds = (0,)
    """Seeds; every method and target is run once per seed."""
    training: TrainingSettings = TrainingSettings()
    """Training and self-labelling."""
    baselines: BaselineSettings = BaselineSettings()
    """Feature-level methods (`erm` and others)."""
    per_method: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Keys of `training` or `baselines` for one method only, e.g. `cls: {training.stage.lr: 1.0e-3,
    training.stage.epochs: 6}`. A method that starts from another one (`mtct_sarr` from `mtct`) has the keys of that
    one, then its own. A control such as `cls_matched` has only its own. An entry `cls@sketch` holds where `sketch` is
    the target, over that of `cls`. Levels of factors are set after these keys."""
    search: SearchConfig | None = None
    """Settings to try, and how to choose among them. Its draws become the levels of a factor called `draw`."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Testing."""
    workers: int = Field(default=1, ge=1)
    """Number of units (one method, target and seed each) that run at the same time; changes no result."""
    threads: int = Field(default=1, ge=1)
    """PyTorch threads per worker. Part of every unit's hash, because another number rounds differently."""

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        if name != folder_name(name):
            allowed = f"use letters, digits, dots, dashes and underscores, as in {folder_name(name)}"
            raise ValueError(f"this cannot be the name of a folder: {allowed}")
        return name

    @model_validator(mode="after")
    def _served_in_full_width(self) -> RunConfig:
        if self.model.quantization != "none" and self.training.sampler.serve is not None:
            raise ValueError(
                "a server needs merged weights, and 4-bit weights cannot be merged: "
                "remove model.quantization or training.sampler.serve"
            )
        return self

    def question_set(self, classes: Sequence[str], names: Aliases | None = None, several: bool = False) -> QuestionSet:
        """The questions about images of these classes, as this config words them, with the names that images have."""
        described = self.evaluation.described
        return make_question_set(classes, FORMATS[self.chains.format], self.questions, names, described, several)

    def asked(self, samples: Sequence[Sample]) -> tuple[Sample, ...]:
        """What is asked about: of a target's samples some, as they are shown; or all descriptions of classes."""
        if self.evaluation.described:
            return described_samples(self.questions.descriptions)
        return self.evaluation.asked(samples)

    @model_validator(mode="before")
    @classmethod
    def _listed_sets(cls, values: Any) -> Any:
        if isinstance(values, dict):
            for key, others in (("data", "more_data"), ("model", "more_models")):
                if isinstance(values.get(key), list) and values[key]:
                    first, *more = values[key]
                    values = values | {key: first, others: more}
        return values

    @model_validator(mode="after")
    def _keys_fit(self) -> RunConfig:
        if self.search is not None:
            self.factors[DRAW] = self.search.levels(self.data.trial_seed)
        elif DRAW in self.factors:
            raise ValueError("factors.draw belongs to a search, and there is none: give the factor another name")
        names = [checkpoint_name(model.checkpoint) for model in self.models]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two models are called {twice}: results could not tell them apart")
        if len({data.split_rule for data in self.image_sets}) > 1:
            raise ValueError("the image sets have several split_rules: give them the same one, or name it in factors")
        for name, levels in self.factors.items():
            if not levels:
                raise ValueError(f"the factor {name} has no level: name at least one, e.g. plain")
            for level, given in levels.items():
                keys = levels[level] = dotted_keys(given, RunConfig)
                where = "search.over" if name == DRAW else f"factors.{name}.{level}"
                for key in keys:
                    if any(key == fixed or key.startswith(f"{fixed}.") for fixed in FIXED):
                        raise ValueError(f"{where} sets {key}: a value of the whole run cannot be a factor")
                self._require_fit(where, keys)
        for name, given in self.per_method.items():
            keys = self.per_method[name] = dotted_keys(given, RunConfig)
            self._require_of_one_method(name, keys)
        return self

    def _require_of_one_method(self, name: str, keys: Mapping[str, Any]) -> None:
        where = f"per_method.{name}"
        for key in keys:
            if not key.startswith(("training.", "baselines.")):
                raise ValueError(f"{where} sets {key}: only keys of training and baselines can be of one method")
            own = key.removeprefix("baselines.")
            method = name.partition("@")[0]
            if own != key and hasattr(getattr(self.baselines, method, None), own):
                raise ValueError(f"{where} sets {key}, which {method} has of its own: set baselines.{method}.{own}")
        self._require_fit(where, keys)

    def _require_fit(self, where: str, keys: Mapping[str, Any]) -> None:
        """Raises a ValueError where `where` sets a key to what it cannot be."""
        try:
            self._with_these_alone(self.data, keys)
        except ValidationError as error:
            what, _, remedy = first_fault(error, RunConfig, where)
            raise ValueError(f"{where}: {what}" + (f": {remedy}" if remedy else "")) from None

    @property
    def models(self) -> tuple[ModelSettings, ...]:
        """All models, in their order."""
        return (self.model, *self.more_models)

    def model_called(self, name: str) -> ModelSettings:
        """The model that units call so, also where its folder is gone; the first where none is."""
        known = ((model, model.checkpoint) for model in self.models)
        return next((model for model, own in known if name in {checkpoint_name(own), Path(own).name}), self.model)

    @property
    def image_sets(self) -> tuple[DataConfig, ...]:
        """All image sets, in their order."""
        return (self.data, *self.more_data)

    def combinations(self) -> Iterator[dict[str, str]]:
        """Every combination of the factors' levels; one empty combination where there are no factors. A split rule that
        is no factor of the config is a level, too."""
        rule = {"split_rule": self.data.split_rule} if self.data.split_rule is not None else {}
        for levels in itertools.product(*self.factors.values()):
            yield {**rule, **dict(zip(self.factors, levels, strict=True))}

    @property
    def asked_factors(self) -> tuple[str, ...]:
        """The factors whose levels only say how a finished model is asked: a method is trained once for all of them."""
        return tuple(
            name
            for name, levels in self.factors.items()
            if name != DRAW
            and any(levels.values())
            and all(
                key.startswith(EVALUATION_KEYS) and key != SELECTION_KEY for keys in levels.values() for key in keys
            )
        )

    def at(
        self,
        data: DataConfig,
        levels: Mapping[str, object],
        method: str | None = None,
        targets: Sequence[str] = (),
        model: ModelSettings | None = None,
    ) -> RunConfig:
        """The config of one image set, one combination of levels and, where they are named, one method with these
        targets and one model (the first by default), without further sets, models, factors and methods' own keys."""
        keys = {} if method is None else self.keys_of(method, targets)
        named = {name: level for name, level in levels.items() if name in self.factors}
        keys |= {key: v for name, level in named.items() for key, v in self.factors[name][str(level)].items()}
        own = self._with_these_alone(data, {"model": (model or self.model).model_dump(mode="json"), **keys})
        if epochs := own.evaluation.few_shot_epochs:
            own = own.with_keys({"training.stage.epochs": epochs})
        endpoint, asked = endpoint_of(own.model.checkpoint) is not None, own.evaluation
        refused = [*LIKELIHOODS] if endpoint else ["contrast", "prior"] if asked.described else []
        answers = [answer for answer in asked.answering.answers if answer not in refused]
        if not answers:
            why = "an endpoint tells no likelihoods" if endpoint else "contrast and prior need an image"
            raise ThroughlineError(
                f"{why}, and no other answer is asked for",
                own.model.checkpoint,
                "add label or reasoning to evaluation.answering.answers",
            )
        return own.with_keys({"evaluation.answering.answers": answers}) if refused else own

    def keys_of(self, method: str, targets: Sequence[str] = ()) -> dict[str, Any]:
        """What `per_method` sets for a method with these targets: the keys of its parent, then its own."""
        parent = method_table(self.methods)[method].starts_from if self.per_method else None
        everywhere, here = (self.per_method.get(name, {}) for name in (method, f"{method}@{'+'.join(targets)}"))
        return {**(self.keys_of(parent, targets) if parent else {}), **everywhere, **here}

    def _with_these_alone(self, data: DataConfig, keys: Mapping[str, Any]) -> RunConfig:
        alone: dict[str, Any] = {"more_data": (), "more_models": (), "factors": {}, "per_method": {}, "search": None}
        return self.with_keys({"data": data.model_dump(mode="json"), **alone, **keys})

    def with_keys(self, keys: Mapping[str, Any]) -> RunConfig:
        """The config with other values at these dotted keys; pydantic.ValidationError where one does not fit."""
        values = self.model_dump(mode="json")
        for key, value in keys.items():
            set_key(values, key, value)
        return RunConfig.model_validate(values)


def folder_name(name: str) -> str:
    """The name with underscores for what the name of a run may not have."""
    return re.sub(r"[^\w.-]+", "_", name).lstrip("._-") or "run"


def set_key(values: dict[str, Any], dotted: str, value: Any) -> None:
    """Sets the key `a.b` in nested mappings, in place; UsageError where `a` is no group of keys."""
    *groups, key = dotted.split(".")
    for group in groups:
        inner = values.get(group)
        if inner is not None and not isinstance(inner, dict):
            raise UsageError(f"{group} in {dotted} is not a group of keys")
        values[group] = values = dict(inner or {})
    values[key] = value
