"""The lines of a run folder, one record for each kind, for whoever writes them and whoever reads them.

The fields of a record are what is written of it, but for `Prediction.to_json`; `read_record` checks and reads it back.
Unknown keys are ignored, so that a run of a later minor version is still read. A chain's candidates and verdicts have
their records in `chains.records`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any, TypeVar

from pydantic import TypeAdapter

SCHEMA = 1
"""Raised when a line of today could no longer be read by yesterday's reader in yesterday's meaning."""

CLASS_MEASURES = {"balanced_accuracy": "balanced", "macro_f1": "macro-F1", "macro_auc": "macro-AUC"}
"""Those of a results line's metrics that count every class alike, with their headings. Lines of earlier versions have
none, nor have lines about no sample. Of samples with several labels an answer is right as a set, and each class is
measured by itself."""

COPIED = "copied"
"""The metric of a results line about answers behind examples: the expected accuracy of copying one of their labels."""

COST_COLUMNS = ("parameters", "images_a_second", "seconds", "dollars")
"""What is known of the cost of a unit: see `reader.UnitFolder`."""

Record = TypeVar("Record")
Factor = str | int | float | bool
"""The level of a factor of a unit: a name or a number."""


@dataclass(frozen=True, slots=True)
class ResultsLine:
    """One line of results.jsonl: one answer path of one unit on one split."""

    unit: str
    dataset: str
    model: str
    targets: tuple[str, ...]
    method: str
    seed: int
    round: int | None
    """None for the unit's final state, else the round of self-labelling after which it was measured."""
    answer: str
    split: str
    n: int
    """Every planned sample: unparsed and failed answers count as wrong."""
    correct: int
    accuracy: float
    unparsed: int = 0
    errors: int = 0
    seconds: float = 0.0
    factors: Mapping[str, Factor] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA

    @property
    def target(self) -> str:
        """The held-out domains as one name, joined by a plus sign."""
        return "+".join(self.targets)


@dataclass(frozen=True, slots=True)  # a hundred thousand are held at once
class Prediction:
    """One line of predictions.jsonl: one answer path's answer to one sample.

    `predicted` is None when no class could be read, a list where a sample may have several labels.
    """

    sample_id: str
    domain: str
    labels: tuple[str, ...]
    answer: str
    predicted: str | tuple[str, ...] | None
    outcome: str
    text: str = ""
    probabilities: tuple[float, ...] | None = None
    """Over the classes offered, in their order; of the likelihood path."""

    @property
    def correct(self) -> bool:
        """Whether the classes read are just the sample's. An answer without a class is wrong."""
        return self.predicted is not None and set(self.classes_named) == set(self.labels)

    @property
    def classes_named(self) -> tuple[str, ...]:
        """The classes that were read."""
        return (self.predicted,) if isinstance(self.predicted, str) else self.predicted or ()

    @property
    def confidence(self) -> float | None:
        """The probability of the class with the highest one, where there are probabilities."""
        return max(self.probabilities) if self.probabilities else None

    def to_json(self) -> dict[str, Any]:
        """The line without what this answer does not have."""
        return {key: value for key, value in asdict(self).items() if key != "probabilities" or value is not None}


@dataclass(frozen=True, slots=True)
class TrainingLine:
    """One line of training.jsonl: a logged optimiser step, with means since the line before."""

    stage: str
    round: int
    """0 for a stage on labels and a teacher's chains."""
    step: int
    epoch: float
    loss: float
    losses: Mapping[str, float] = field(default_factory=dict)
    """The reduced NLL of each kind of branch (label, chain)."""
    class_probability: Mapping[str, float] = field(default_factory=dict)
    """Of each kind of branch, the mean probability of the tokens that name the class."""
    lr: float | None = None


@dataclass(frozen=True, slots=True)
class RoundLine:
    """One line of rounds.jsonl: what a round of self-labelling sampled, kept and trained on."""

    round: int
    sampled: int
    accepted: int
    outcomes: Mapping[str, int] = field(default_factory=dict)
    """`accepted`, the outcomes of the rejected, and `rejected_class` for a well-formed chain with another class."""
    adapter_changed: bool | None = None
    """Whether the output of the model moved."""
    trained: int | None = None
    """Samples that the round trained on."""
    unpaired: int | None = None
    """Of a round of preference, the samples without both a right and a wrong chain."""


def read_record(kind: type[Record], row: Mapping[str, Any]) -> Record:
    """A row of JSON as a record of this kind; pydantic.ValidationError (a ValueError) where it lacks or misstates
    something."""
    record: Record = _adapter(kind).validate_python(row)  # type: ignore[arg-type]  # types are hashable
    return record


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
