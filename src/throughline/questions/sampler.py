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
from throughline.core.settings import SamplingSettings
from throughline.domains.samples import Sample
from throughline.questions.prompt import Prompt

if TYPE_CHECKING:  # brings torch
    import numpy as np

    from throughline.mllm.chat import Path
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
class Reply:
    """What came back to one request: a text, why it ended, and what it took. The finish reason "error" says that the
    request failed for good, and the text why."""

    text: str
    finish_reason: str | None = None
    usage: Usage | None = None
    rejected: bool = False
    """The endpoint will not answer this very request (HTTP 400 and the like)."""


@dataclass(frozen=True)
class Drawn:
    """One continuation: the `candidate`-th purpose's, for this sample."""

    sample: Sample
    candidate: int
    reply: Reply


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
        from throughline.core.seeding import generator  # brings numpy, which a look at options does without

        with self._mllm.evaluating():
            for batch, following in zip_longest(batches, batches[1:], fillvalue=()):
                prompts = [request.prompt(sample) for sample in batch]
                upcoming = [image for sample in following for image in request.prompt(sample).images]
                # the next batch is read while this one is computed
                self._reader.expect([*(image for prompt in prompts for image in prompt.images), *upcoming])
                paths = [prompt.encode(self._reader).path(self._mllm.chat) for prompt in prompts]
                draws = [[generator(request.seed, purpose, s.id) for purpose in request.purposes] for s in batch]
                rows = sampled_replies(self._mllm, paths, request.settings, draws, self._constraint)
                yield [
                    Drawn(sample, number, reply)
                    for sample, row in zip(batch, rows, strict=True)
                    for number, reply in enumerate(row)
                ]


def sampled_replies(
    mllm: Mllm,
    paths: Sequence[Path],
    settings: SamplingSettings,
    draws: Sequence[Sequence[np.random.Generator]],
    constraint: StageConstraint | None,
) -> list[list[Reply]]:
    """A reply to each path for each of its generators, all sampled together."""
    from throughline.mllm.sampling import sample

    replies: list[list[Reply]] = []
    for path, row in zip(paths, sample(mllm, paths, settings, draws, constraint=constraint), strict=True):
        usages = (Usage(prompt_tokens=len(path.tokens), completion_tokens=len(own.tokens)) for own in row)
        replies.append([Reply(own.text, own.finish_reason, usage) for own, usage in zip(row, usages, strict=True)])
    return replies
