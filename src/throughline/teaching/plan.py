"""What a build is to make: which images get chains, and when an image has enough of them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

from throughline.chains.formats import ChainFormat
from throughline.chains.rules import RULES
from throughline.core.errors import ThroughlineError
from throughline.domains.samples import ImageSet, Sample, spread

MOST_CANDIDATES = 64
"""Candidates an image: the ledger has one bit for each."""

TRIAL = 50
"""Answers after which a teacher should have had one accepted."""

Clock = Callable[[], str | None]
"""The time of a line, ISO 8601 in UTC; None where results must not depend on the date."""


@dataclass(frozen=True)
class BuildPlan:
    """Which images get chains, and when an image has enough. ThroughlineError for images with several labels, and for
    what cannot be asked for."""

    images: ImageSet
    format: ChainFormat
    rule: str = "correct"
    """The rule that decides; the verdicts of all rules are written."""
    candidates: int = 4
    """Chains asked for per image at most."""
    enough: int | None = 1
    """Accepted chains at which an image is done; None asks for all candidates whatever comes."""
    shard: tuple[int, int] = (0, 1)
    """This writer's number, from 0, and how many there are; an image belongs to one by its bytes."""
    images_named: str | None = None
    """The image folder as the user named it, for the header."""
    go_on: bool = False
    """Whatever comes of the first `TRIAL` answers; otherwise no further request is made when none is accepted."""
    read_thinking: bool = False
    """Where an answer is nothing but thinking, take the chain from it."""
    max_cost: float | None = None
    """US dollars that the store may have cost, whatever was asked; requests that would lead beyond are not made."""

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ThroughlineError("unknown verdict rule", repr(self.rule), f"name one of {', '.join(RULES)}")
        if self.images.several:
            what = "images may have several labels, and a chain concludes in one class"
            raise ThroughlineError(what, self.images.root, "name images with one label each")
        if not 1 <= self.candidates <= MOST_CANDIDATES:
            raise ThroughlineError("candidates per image", self.candidates, f"ask for 1 to {MOST_CANDIDATES}")
        number, count = self.shard
        if not 0 <= number < count:
            raise ThroughlineError("no such shard", f"{number}/{count}", "number them from 0, e.g. 0/4 to 3/4")

    @cached_property
    def samples(self) -> tuple[Sample, ...]:
        """The images of this writer."""
        number, count = self.shard
        if count == 1:
            return self.images.samples
        return tuple(sample for sample in self.images.samples if int(sample.image_sha256[:8], 16) % count == number)

    def limited(self, limit: int | None) -> Self:
        """The plan for `limit` of its images, spread over domains and classes; for all where it is None."""
        if limit is None:
            return self
        return replace(self, images=replace(self.images, samples=spread(self.images.samples, limit)))
