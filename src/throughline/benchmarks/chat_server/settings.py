"""What the chat server is told to do: its capacity and latency, the answers, and the shares of requests that go wrong.

Whoever starts a server writes these; the process of its own reads them as JSON.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Answers = Mapping[str, Mapping[str, str]]
"""What is concluded about an image, by the SHA-256 (hex) of its bytes: `{"label": …}`."""

TRANSPORT_FAULTS = ("refused_429", "errors_500", "dropped_before", "dropped_midway", "timed_out", "bad_json")
CONTENT_FAULTS = ("truncated", "malformed", "refusals", "empty")
OUTCOMES = ("answered", *TRANSPORT_FAULTS, *CONTENT_FAULTS, "over_capacity", "bad_requests", "left")
"""How a request can end; each one ends in one way. `answered`: with a whole chain. `over_capacity`: the 429 that is
no fault of the plan. `bad_requests`: 400. `left`: the connection was gone before the answer was due."""

Share = Field(default=0.0, ge=0, le=1)


class FaultPlan(BaseModel):
    """The share of requests that meets each fault. Transport faults are drawn for each attempt, so that a repetition
    may go well; content faults for each distinct body, as the same request would always get the same text."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    refused_429: float = Share
    """Refused at once, with `retry_after`."""
    errors_500: float = Share
    dropped_before: float = Share
    """The connection is closed before any byte of the answer."""
    dropped_midway: float = Share
    """… in the middle of the answer's body."""
    timed_out: float = Share
    """No byte for `timeout_seconds`, then the connection is closed. Holds its place meanwhile."""
    bad_json: float = Share
    """Status 200 and a body that is no JSON."""
    truncated: float = Share
    """Cut in the middle of a stage, finish reason "length"."""
    malformed: float = Share
    """One stage is missing."""
    refusals: float = Share
    """Half of them in `message.refusal` with content null, half as text."""
    empty: float = Share
    """Content ""."""
    retry_after: float | None = Field(default=None, ge=0)
    """Seconds, in the planned 429's header; fractions are sent as such, which keeps tests short."""
    timeout_seconds: float = Field(default=600.0, ge=0)

    @model_validator(mode="after")
    def _shares_of_a_whole(self) -> Self:
        for faults in (TRANSPORT_FAULTS, CONTENT_FAULTS):
            if sum(getattr(self, fault) for fault in faults) > 1 + 1e-9:
                raise ValueError(f"the shares of {', '.join(faults)} add up to more than 1")
        return self

    def drawn(self, faults: tuple[str, ...], draws: random.Random) -> str | None:
        """One of `faults`, each as often as its share says; None for the rest."""
        point = draws.random()
        for fault in faults:
            point -= getattr(self, fault)
            if point < 0:
                return fault
        return None


@dataclass(frozen=True)
class ServerSettings:
    """What the server does; the defaults answer everything at once and without fault."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    host: str = "127.0.0.1"
    port: int = 0
    """0: any free one."""
    latency: float = 0.0
    """Seconds from a whole request to its answer."""
    at_once: int | None = None
    """How many requests are answered at a time; a further one is refused. None: no limit."""
    retry_after: float | None = None
    """Seconds, in the header of a refusal for want of capacity; None sends no such header."""
    faults: FaultPlan = field(default_factory=FaultPlan)
    answers: Answers | None = None
    """None: the first option of the prompt's list is concluded, and images are not looked at."""
    always: tuple[int, Any] | None = None
    """HTTP status and JSON value that every chat request gets, whatever it asks: logged, and counted nowhere."""
    log: Path | None = None
    """JSONL, one line for each request when it ends; appended to."""
    seed: int = 0
    """Of faults and wording."""
