"""The evidence files that are no reduced runs, typed: `evidence.py` and `kills.py` write them, `documents.py` reads
them. A file of another shape is one clear line, so that no document is made from it."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from reduced_run import reduced_environment
from throughline.analysis.sensitivity import Sensitivity
from throughline.core.errors import ThroughlineError
from throughline.core.files import write_json
from throughline.experiment.environment import describe_environment
from throughline.metrics.intervals import Interval


class Record(BaseModel):
    """Frozen; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Machine(Record):
    """Versions and cores behind a measurement; no host, no user, no path."""

    python: str
    platform: str
    packages: dict[str, str | None]
    cores: int
    processor: str | None
    gpus: list[str]

    def sentence(self) -> str:
        """For a reader of a table."""
        where = ", ".join(self.gpus) or self.processor or self.platform
        versions = ", ".join(f"{name} {self.packages.get(name)}" for name in ("torch", "transformers"))
        return f"{self.cores} cores, {where}; Python {self.python}, {versions}."


class DemoTime(Record):
    """`throughline demo` into fresh folders, after set-up, on an idle machine."""

    command: str
    seconds: list[float] = Field(min_length=1)
    best: float
    limit: float
    held_out_images: int
    methods: list[str]
    environment: Machine

    @model_validator(mode="after")
    def _best(self) -> DemoTime:
        if self.best != min(self.seconds):
            raise ValueError("best is not the least of seconds")
        return self


class ReadAnswers(Record):
    """Answers of one model to one kind of question, read by hand and by the parser."""

    model: str
    images: str
    form: str
    answers: int
    states_a_class: int
    wrong: int
    """Another class than the answer states, or one where it states none."""
    lost: int
    """No class where the answer states one."""


class RealAnswers(Record):
    """What the answer parser makes of published answers; the texts themselves are others' and not committed."""

    sources: list[str]
    read: str
    date: str
    rows: list[ReadAnswers] = Field(min_length=1)


class HelpTime(Record):
    """`throughline --help`, each in a process of its own."""

    command: str
    seconds: list[float] = Field(min_length=1)
    median: float
    limit: float
    environment: Machine

    @model_validator(mode="after")
    def _median(self) -> HelpTime:
        if self.median != statistics.median(self.seconds):
            raise ValueError("median is not the median of seconds")
        return self


class Kill(Record):
    """One SIGKILL: how many seconds after the start, and whether the workers got it too or only their parent."""

    after_seconds: float
    whole_group: bool


class DemoKills(Record):
    """The demo killed and started again, against an undisturbed run; two workers against one."""

    command: str
    kills: list[Kill]
    killed_equal: bool
    workers_equal: bool
    result_lines: int
    results_sha256: str
    """Of the undisturbed run's results without their seconds."""
    environment: Machine


class BuiltChains(Record):
    """One build of chains for the same images: counts, one for each of the teacher's seeds."""

    name: str
    images: int
    answers: list[int] = Field(min_length=1)
    tokens: list[int]
    """Of all answers, by the pocket checkpoint's tokenizer."""
    well_formed: list[int]
    """Answers that rule `format` accepts."""
    consistent: list[int]
    correct: list[int]
    images_with_chain: list[int]
    """Images with at least one answer that rule `correct` accepts."""


class ChainsStudy(Record):
    """What REFLECTION and early stopping buy, with the describer on a drawn world."""

    command: str
    images: int
    candidates: int
    builds: list[BuiltChains]


class SensitivityStudy(Record):
    """What settings and rounds are worth on the drawn world."""

    command: str
    found: list[Sensitivity] = Field(min_length=1)
    environment: Machine


class BenchRow(BaseModel):
    """One object of what a bench prints with `--json`; what it says beyond this is kept."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str
    rival: str
    ours_value: float
    rival_value: float
    unit: str
    ratio: float
    predicted_ratio: float | None = None
    ours_spread: tuple[float, float] | None = None
    rival_spread: tuple[float, float] | None = None
    settings: dict[str, Any]


class Bench(Record):
    """What a bench printed."""

    command: str
    rows: list[BenchRow] = Field(min_length=1)
    environment: Machine


class DemoProfile(Record):
    """Processor seconds of the demo by part of the program."""

    command: str
    commit: str
    rate: int
    seconds: dict[str, float] = Field(min_length=1)
    environment: Machine


class CostPart(Record):
    """Seconds of one group of phases of one unit."""

    unit: str
    group: str
    at_most: float
    predicted: float
    measured: float


class CostOfDemo(Record):
    """The cost model against a demo that was run beside nothing else."""

    command: str
    parts: list[CostPart] = Field(min_length=1)
    environment: Machine


class Answered(BaseModel):
    """Accuracies of one model on one style, 0 to 1."""

    likelihood: float
    label_path: float
    label_path_unparsed: float


class Style(BaseModel):
    """One style of the certificate: the base, and `cls` once per seed."""

    zero_shot: Answered
    held_out: list[Answered] = Field(min_length=1)
    included: list[Answered] = Field(min_length=1)


class Certificate(BaseModel):
    """What `certificate.py` writes, as far as the documents show it."""

    budget: dict[str, Any]
    bars: dict[str, Any]
    per_target: dict[str, Style]
    means: dict[str, float]
    background: dict[str, float]
    pairs: dict[str, Any]
    perplexity: dict[str, float]
    reasoning: dict[str, dict[str, Any]] | None = None
    """Of the second laboratory: chains, own chains, parts, examples and words."""
    checks: dict[str, bool]
    holds: bool

    @model_validator(mode="after")
    def _holds(self) -> Certificate:
        if self.holds != all(self.checks.values()):
            raise ValueError("holds is not what the checks say")
        return self


class BudgetDraw(Record):
    """One point of a method's grid on one target: its accuracy on the source domains' `out` splits."""

    method: str
    target: str
    lr: float
    epochs: float
    accuracy: float
    chosen: bool


class BudgetCheck(Record):
    """`cls` at the chosen epochs and at twice as many: accuracy on the source domains' `out` splits."""

    target: str
    seed: int
    at: float
    twice: float


class Budgets(Record):
    """What `budgets.py` chose, and from what."""

    draws: list[BudgetDraw]
    checks: list[BudgetCheck]
    tolerance: float


class DependenceRow(Record):
    """One method on one answer path. Shares of answers, 0 to 1, with 95 % intervals over seeds and images."""

    method: str
    answer: str
    steps: float
    """Optimiser steps from the base, mean over targets and seeds."""
    with_chain: float
    """Share of the training images with an accepted chain, in the stage that saw most; in a round the model's own."""
    accuracy: Interval
    minus: dict[str, Interval]
    """Paired difference from other methods."""


class DependenceValue(Record):
    """One number of training images per source domain, or one share of the teacher's mistakes."""

    half: Literal["images", "mistakes"]
    value: float
    rows: list[DependenceRow] = Field(min_length=1)


class Dependence(Record):
    """Whether what holds depends on the number of training images, or on the teacher's mistakes."""

    command: str
    values: list[DependenceValue] = Field(min_length=1)
    environment: Machine


APART, SAME, DOMAINBED, FEWER, MAJORITY = (
    "concepts apart",
    "same concepts",
    "DomainBed",
    "DomainBed, as many",
    "majority vote",
)
"""What a linear head is trained on; `open_styles_head.training_sets` says what each is."""
OTHERS = "all others"
"""The source where a domain is held out."""


class HeadScore(Record):
    """Balanced accuracy of heads that are trained on one of these sets, 0 to 1, with 95 % intervals over concepts and
    seeds."""

    balanced: Interval
    minus_apart: Interval | None
    """Paired difference from heads whose concepts are kept apart; of these, None."""


class HeadRow(HeadScore):
    """The same for one source and one target."""

    accuracy: Interval
    trained: float
    """Training images, mean over seeds."""
    shared: float
    """Share of the images asked about whose concept is trained on."""


class HeadCell(Record):
    """Heads trained on one domain, or on all others, and asked about a target."""

    source: str
    target: str
    asked: float
    """Images, mean over seeds."""
    rows: dict[str, HeadRow]


class HeadMean(Record):
    """Means over several cells."""

    name: str
    cells: int
    rows: dict[str, HeadScore]


class OpenStylesHead(Record):
    """A linear head on the frozen tower of `smol`, on open_styles."""

    command: str
    images: int
    images_sha256: str
    """Of ids, domains, labels, concepts and image bytes."""
    tower: str
    features: int
    seeds: list[int]
    cells: list[HeadCell] = Field(min_length=1)
    means: list[HeadMean] = Field(min_length=1)
    environment: Machine


Kept = TypeVar("Kept", bound=BaseModel)


def this_machine() -> Machine:
    """The machine at hand, without its name."""
    return Machine.model_validate(reduced_environment(describe_environment()))


def write_record(path: Path, record: BaseModel) -> None:
    """Atomically, as sorted JSON."""
    write_json(path, record.model_dump(mode="json"))


def read_record(path: Path, kind: type[Kept]) -> Kept | None:
    """The record in a file; None where nothing was measured yet. Raises a ThroughlineError for anything else."""
    if not path.is_file():
        return None
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        place = ".".join(map(str, fault["loc"]))
        what = (
            f"the evidence is malformed: {place}: {fault['msg']}"
            if place
            else f"the evidence is malformed: {fault['msg']}"
        )
        raise ThroughlineError(what, path, "measure it again") from None
