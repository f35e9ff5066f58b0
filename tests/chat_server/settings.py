"""What the chat server does: its capacity and latency, the labels it concludes, the shares of requests that fail."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TRANSPORT_FAULTS = ("refused_429", "errors_500", "dropped_before", "dropped_midway", "timed_out", "bad_json")
CONTENT_FAULTS = ("truncated", "malformed", "refusals", "empty")
OUTCOMES = ("answered", *TRANSPORT_FAULTS, *CONTENT_FAULTS, "over_capacity", "bad_requests", "left")
"""How a request can end; each one ends in one way. `answered`: with a whole chain. `over_capacity`: the 429 that is
no fault of the plan. `bad_requests`: 400. `left`: the client closed the connection before the answer was due."""


@dataclass(frozen=True)
class FaultPlan:
    """The share of requests, 0 to 1, that meets each fault. Transport faults are drawn for each attempt, so that a
    repetition may succeed; content faults for each distinct body, as the same request always gets the same text."""

    refused_429: float = 0.0
    """Refused at once, with `retry_after`."""
    errors_500: float = 0.0
    dropped_before: float = 0.0
    """The connection is closed before any byte of the answer."""
    dropped_midway: float = 0.0
    """The connection is closed in the middle of the answer's body."""
    timed_out: float = 0.0
    """No byte for `timeout_seconds`, then the connection is closed. Counts as a request at work meanwhile."""
    bad_json: float = 0.0
    """Status 200 and a body that is not JSON."""
    truncated: float = 0.0
    """Cut in the middle of a stage, finish reason "length"."""
    malformed: float = 0.0
    """One stage is missing."""
    refusals: float = 0.0
    """Half of them in `message.refusal` with content null, half as text."""
    empty: float = 0.0
    """Content ""."""
    retry_after: float | None = None
    """Seconds, in the header of a planned 429."""
    timeout_seconds: float = 600.0

    def draw(self, faults: tuple[str, ...], draws: random.Random) -> str | None:
        """One of `faults`, each as often as its share says; None for the rest."""
        point = draws.random()
        for fault in faults:
            point -= getattr(self, fault)
            if point < 0:
                return fault
        return None


@dataclass(frozen=True)
class ServerSettings:
    """The defaults answer everything at once and without fault."""

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
    labels: Mapping[str, str] | None = None
    """What is concluded about an image, by the SHA-256 (hex) of its bytes. None: the first option of the prompt."""
    always: tuple[int, Any] | None = None
    """HTTP status and JSON value (text: sent as it is) that every chat request gets, whatever it asks: logged, and
    counted nowhere."""
    first: Mapping[str, Sequence[tuple[int, Any]]] = field(default_factory=dict)
    """As `always`, for the first requests about an image, one after the other; by the SHA-256 (hex) of its bytes."""
    says: Callable[[str], str] | None = None
    """What is said to a prompt in the place of a chain; a function of a module, as the server is another process."""
    log: Path | None = None
    """JSONL, one line for each request when it ends; appended to."""
    seed: int = 0
    """Of faults and wording."""
