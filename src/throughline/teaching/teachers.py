"""Who writes chains: one protocol, and the drawn world's describer behind it. A teacher never sees a label.

`Brief` is what all requests to a teacher have in common; with an image and a candidate's number it makes the key by
which a request is known for ever. `building` asks; `endpoint` and `local` are the teachers that can see.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from throughline.chains.formats import ChainFormat
from throughline.chains.records import Usage, candidate_key, prompt_sha256
from throughline.core.errors import ThroughlineError
from throughline.domains.samples import Sample
from throughline.drawn.describer import describe
from throughline.drawn.scenes import Scene
from throughline.drawn.world import read_scenes


@dataclass(frozen=True)
class Brief:
    """What a teacher is told apart from the image: all that its answers depend on, and nothing else.

    Where it is asked, how fast and by how many at once is no part of it.
    """

    source: str
    """What kind of teacher: "describer", "endpoint" or "local"."""
    model: str
    prompt: str
    """The whole question, class list included."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """Sampling parameters and how the image is sent."""
    seed: int = 0

    @cached_property
    def prompt_sha256(self) -> str:
        """SHA-256 (hex) of the question, as candidate lines carry it."""
        return prompt_sha256(self.prompt)

    def key(self, image_sha256: str, candidate: int) -> str:
        """The key of one request: equal keys are the same request, whatever the image is called."""
        return candidate_key(image_sha256, self.prompt_sha256, self.model, dict(self.params), self.seed, candidate)


class Flight(Protocol):
    """Notes which requests are under way, so that those lost by a kill can be counted."""

    def sent(self, key: str) -> None:
        """The request is on its way and may be paid for."""

    def returned(self, key: str) -> None:
        """It came to nothing (refused, broken) or its answer is on disk."""


@dataclass(frozen=True)
class Ask:
    """One request: the `candidate`-th chain for an image."""

    sample: Sample
    candidate: int
    key: str
    flight: Flight
    proven: bool = False
    """The store holds answers to this brief: its form is right."""


@dataclass(frozen=True)
class Written:
    """What a teacher gave back for one image: its words, why it stopped, and what it took."""

    text: str
    finish_reason: str | None = None
    usage: Usage | None = None


class Teacher(Protocol):
    """Writes chains; the same ask with another number is an independent attempt of the same kind."""

    @property
    def brief(self) -> Brief:
        """What it is told besides the image."""

    @property
    def batch(self) -> int:
        """How many images it takes in one call."""

    @property
    def at_once(self) -> int:
        """How many calls may be under way at the same time."""

    async def write(self, asks: Sequence[Ask]) -> Sequence[Written]:
        """One chain for each ask, in order; a request that failed for good has finish reason "error".

        ThroughlineError when no further ask can go well: a wrong key, an unknown model, an image it cannot know.
        """
        ...


class Describer:
    """The drawn world's own teacher: it gets parts, colours and setting from `scenes.jsonl`, never the class."""

    batch = 1
    at_once = 1

    def __init__(self, root: Path, format: ChainFormat, prompt: str, seed: int) -> None:
        self.brief = Brief("describer", "describer", prompt, {}, seed)
        self._format = format
        self._scenes: Mapping[str, Scene] = read_scenes(root)

    async def write(self, asks: Sequence[Ask]) -> Sequence[Written]:
        """Descriptions of the scenes behind the images."""
        return [self._described(ask) for ask in asks]

    def _described(self, ask: Ask) -> Written:
        name = ask.sample.id
        scene = self._scenes.get(name)
        if scene is None:
            raise ThroughlineError("the describer knows drawn images only", name, "give a teacher that can see")
        seed = self.brief.seed
        text = describe(scene, seed=seed, sample_id=name, candidate=ask.candidate, format=self._format)
        return Written(text, "stop")
