"""What the records of all analyses have in common. Each analysis has its own beside what it measures.

Probabilities and shares are between 0 and 1, `points` are differences of shares times 100, entropies and NLLs are in
nats. An `Interval` is a mean over images with its 95 % bootstrap interval over images; both ends are the mean itself
where there is one image only.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict

Source = Literal["label", "teacher", "self"]
"""Whose words were scored: the class as the whole answer, a teacher's chain, a chain of the model's own."""

Kind = Literal["class", "chain"]
"""Which of its tokens: those of the class name where the answer stands, or all."""

WHOSE = {"label": "the class as the whole answer", "teacher": "a teacher's chains", "self": "the model's own chains"}
KIND = {"class": "tokens of the class", "chain": "all tokens of the chain"}


class Record(BaseModel):
    """Frozen; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class State(Record):
    """Weights that were looked at: `method` None for the base; `round` None for what a unit ended with."""

    method: str | None
    unit: str | None
    round: int | None

    @property
    def name(self) -> str:
        """For tables: `base`, `mtct`, `mtct_sarr round 1`."""
        if self.method is None:
            return "base"
        return self.method if self.round is None else f"{self.method} round {self.round}"


class OfState(Record):
    """What was measured of one state of the weights."""

    state: State


class Compared(Record):
    """What was measured of the same texts under two states of the weights."""

    before: State
    after: State
    source: Source


BASE = State(method=None, unit=None, round=None)


class Missing(Record):
    """What could not be measured, and why; `analysis` is that which lacks it, as `--what` calls it."""

    what: str
    why: str
    analysis: str = ""
