"""Who draws a model's continuations of prompts: this process, or a server that another implementation talks to.

Self-labelling asks through the protocol and does not see which it is. `InProcessSampler` stands here; the one behind an
OpenAI-compatible endpoint is `teaching.served`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from throughline.chains.records import Usage
from throughline.core.seeding import generator
from throughline.core.settings import SamplingSettings
from throughline.domains.samples import Sample
from throughline.questions.prompt import Prompt

if TYPE_CHECKING:  # brings torch
    from throughline.mllm.constraints import StageConstraint
    from throughline.mllm.images import ImageReader
    from throughline.mllm.load import Mllm


@dataclass(frozen=True)
class SamplingRequest:
    """What is drawn for every sample: continuations of the prompt that `prompt` makes of it, one for each purpose.

    A draw is named by (seed, purpose, sample id).
    """

    prompt: Callable[[Sample], Prompt]
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
    """Draws continuations for samples."""

    @property
    def whole_batches(self) -> bool:
        """Whether numbers depend, in their last bits, on who is in the batch: then a torn batch is drawn again whole,
        and else only what is missing."""

    @property
    def params(self) -> Mapping[str, Any]:
        """What the texts depend on beside the request and the weights; part of the key by which a draw is known."""

    def draw(self, request: SamplingRequest, batches: Sequence[Sequence[Sample]]) -> Generator[Sequence[Drawn]]:
        """All continuations, in pieces as they are there. Where `whole_batches`, a piece is a batch, in order.

        Closing the generator lets go of whatever drew. Raises ThroughlineError when nothing more can be drawn.
        """


class InProcessSampler:
    """The model in memory: a batch at a time, each prompt computed once for all purposes."""

    whole_batches: ClassVar[bool] = True
    params: ClassVar[Mapping[str, Any]] = {}

    def __init__(
        self, mllm: Mllm, reader: ImageReader | None = None, constraint: StageConstraint | None = None
    ) -> None:
        from throughline.mllm.images import ImageReader

        self._mllm, self._reader, self._constraint = mllm, reader or ImageReader(mllm.chat), constraint

    def draw(self, request: SamplingRequest, batches: Sequence[Sequence[Sample]]) -> Generator[Sequence[Drawn]]:
        """ThroughlineError, naming the file, for an image that cannot be read."""
        from throughline.mllm.sampling import sample as continuations_of

        with self._mllm.evaluating():
            for batch, following in zip_longest(batches, batches[1:], fillvalue=()):
                prompts = [request.prompt(sample) for sample in batch]
                upcoming = [image for sample in following for image in request.prompt(sample).images]
                # the next batch is read while this one is computed
                self._reader.expect([*(image for prompt in prompts for image in prompt.images), *upcoming])
                paths = [prompt.encode(self._reader).path(self._mllm.chat) for prompt in prompts]
                draws = [[generator(request.seed, purpose, s.id) for purpose in request.purposes] for s in batch]
                rows = continuations_of(self._mllm, paths, request.settings, draws, constraint=self._constraint)
                yield [
                    Drawn(
                        sample=sample,
                        candidate=number,
                        text=continuation.text,
                        finish_reason=continuation.finish_reason,
                        usage=Usage(prompt_tokens=len(path.tokens), completion_tokens=len(continuation.tokens)),
                    )
                    for sample, path, row in zip(batch, paths, rows, strict=True)
                    for number, continuation in enumerate(row)
                ]
