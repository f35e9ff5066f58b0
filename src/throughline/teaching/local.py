"""A local checkpoint as the teacher: it samples its chains through `mllm`, batch by batch.

The k-th candidate of an image draws from a generator named by (seed, image, k), so it does not depend on what was
asked before.
"""

import asyncio
from collections.abc import Sequence

from numpy.random import Generator

from throughline.chains.records import FAILED
from throughline.core.errors import ThroughlineError
from throughline.core.seeding import generator
from throughline.core.settings import SamplingSettings
from throughline.mllm.chat import Path
from throughline.mllm.constraints import StageConstraint
from throughline.mllm.images import ImageReader
from throughline.mllm.load import Mllm
from throughline.questions.sampler import Reply, sampled_replies
from throughline.teaching.teachers import Brief, Request


class LocalTeacher:
    """A loaded model that writes chains. `batch` images go through it together; it works at one batch at a time.

    `constraint` is the one that `sampling` asks for (`constraints.constraint_of`).
    """

    at_once = 1

    def __init__(
        self,
        mllm: Mllm,
        prompt: str,
        sampling: SamplingSettings,
        seed: int,
        batch: int,
        constraint: StageConstraint | None = None,
    ) -> None:
        params = sampling.model_dump(mode="json") | {"tiles": mllm.chat.tiles, "dtype": str(mllm.model.dtype)}
        if mllm.quantization != "none":  # no entry otherwise, as in journals older than the choice
            params["quantization"] = mllm.quantization
        self.brief = Brief("local", f"{mllm.name}@{mllm.fingerprint[:12]}", prompt, params, seed)
        self.batch = batch
        self._mllm, self._sampling, self._constraint = mllm, sampling, constraint
        self._reader = ImageReader(mllm.chat)

    async def write(self, requests: Sequence[Request]) -> Sequence[Reply]:
        """Chains for one batch; an image that cannot be read gets none, and the others theirs."""
        replies: dict[int, Reply] = {}
        paths: dict[int, Path] = {}
        for place, request in enumerate(requests):
            try:
                paths[place] = request.prompt.encode(self._reader).path(self._mllm.chat)
            except ThroughlineError as error:
                replies[place] = Reply(error.what, FAILED)
        if paths:
            draws = [[self._generator(requests[place])] for place in paths]
            how = (self._sampling, draws, self._constraint)
            rows = await asyncio.to_thread(sampled_replies, self._mllm, list(paths.values()), *how)
            replies |= {place: reply for place, [reply] in zip(paths, rows, strict=True)}
        return [replies[place] for place in range(len(requests))]

    def _generator(self, request: Request) -> Generator:
        purpose = f"teacher candidate {request.candidate}"
        return generator(self.brief.seed, purpose, request.sample.image_sha256)
