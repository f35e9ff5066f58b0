"""Who draws a model's continuations: this process, or a server that another implementation talks to.

`training.rounds` asks through the protocol and does not see which it is. `InProcessSampler` stands here; the one
behind an OpenAI-compatible endpoint is `teaching.served`.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, ClassVar, Protocol

from throughline.chains.records import Usage
from throughline.core.seeding import generator
from throughline.core.settings import SamplingSettings
from throughline.domains.samples import Sample
from throughline.mllm.chat import user_turn
from throughline.mllm.constraints import StageConstraint
from throughline.mllm.images import ImageReader
from throughline.mllm.load import Mllm
from throughline.mllm.sampling import sample


@dataclass(frozen=True)
class Asked:
    """What every image is asked, and how it is answered. A draw is named by (seed, purpose, sample id): each purpose
    is one more continuation of the same prompt."""

    question: str
    settings: SamplingSettings
    seed: int
    purposes: tuple[str, ...]


@dataclass(frozen=True)
class Drawn:
    """One continuation: the `candidate`-th purpose's, for this sample. A request that failed for good has the finish
    reason "error", and its text says why."""

    sample: Sample
    candidate: int
    text: str
    finish_reason: str | None
    usage: Usage | None


class Sampler(Protocol):
    """Draws continuations of images that are asked the same question."""

    @property
    def whole_batches(self) -> bool:
        """Whether numbers depend, in their last bits, on who is in the batch: then a torn batch is drawn again whole,
        and else only what is missing."""

    @property
    def params(self) -> Mapping[str, Any]:
        """What the texts depend on beside `Asked` and the weights; part of the key by which a request is known."""

    def draw(self, asked: Asked, batches: Sequence[Sequence[Sample]]) -> Generator[Sequence[Drawn]]:
        """All continuations, in pieces as they are there. Where `whole_batches`, a piece is a batch, in order.

        Closing the generator lets go of whatever drew. Raises ThroughlineError when nothing more can be drawn.
        """


class InProcessSampler:
    """The model in memory: a batch at a time, image and prompt computed once for all purposes."""

    whole_batches: ClassVar[bool] = True
    params: ClassVar[Mapping[str, Any]] = {}

    def __init__(
        self, mllm: Mllm, reader: ImageReader | None = None, constraint: StageConstraint | None = None
    ) -> None:
        self._mllm, self._reader, self._constraint = mllm, reader or ImageReader(mllm.chat), constraint

    def draw(self, asked: Asked, batches: Sequence[Sequence[Sample]]) -> Generator[Sequence[Drawn]]:
        """ThroughlineError, naming the file, for an image that cannot be read."""
        turn = user_turn(asked.question)
        with self._mllm.asked():
            for batch, following in zip_longest(batches, batches[1:], fillvalue=()):
                self._reader.expect([*batch, *following])  # read the next batch while this one is computed
                prompts = [self._mllm.chat.prompt(turn, [self._reader.encode(one)]) for one in batch]
                draws = [[generator(asked.seed, purpose, one.id) for purpose in asked.purposes] for one in batch]
                said = sample(self._mllm, prompts, asked.settings, draws, constraint=self._constraint)
                yield [
                    Drawn(
                        sample=one,
                        candidate=number,
                        text=continuation.text,
                        finish_reason=continuation.finish_reason,
                        usage=Usage(prompt_tokens=len(prompt.tokens), completion_tokens=len(continuation.tokens)),
                    )
                    for one, prompt, row in zip(batch, prompts, said, strict=True)
                    for number, continuation in enumerate(row)
                ]
