"""A local checkpoint as the teacher: it samples its chains through `mllm`, batch by batch.

The k-th candidate of an image draws from a generator named by (seed, image, k), so it does not depend on what was
asked before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from throughline.chains.records import FAILED, Usage
from throughline.core.errors import ThroughlineError
from throughline.core.seeding import generator
from throughline.core.settings import SamplingSettings
from throughline.mllm.chat import Path
from throughline.mllm.constraints import StageConstraint
from throughline.mllm.images import ImageReader
from throughline.mllm.load import Mllm
from throughline.mllm.sampling import sample
from throughline.questions.prompt import user_prompt
from throughline.teaching.teachers import Ask, Brief, Written


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

    async def write(self, asks: Sequence[Ask]) -> Sequence[Written]:
        """Chains for one batch; an image that cannot be read gets none, and the others theirs."""
        paths: dict[int, Path] = {}
        faults: dict[int, Written] = {}
        for place, ask in enumerate(asks):
            prompt = user_prompt(ask.sample, self.brief.prompt)
            try:
                paths[place] = prompt.encode(self._reader).path(self._mllm.chat)
            except ThroughlineError as error:
                faults[place] = Written(error.what, FAILED)
        drawn = await self._drawn(paths, asks) if paths else {}
        return [drawn[place] if place in drawn else faults[place] for place in range(len(asks))]

    async def _drawn(self, paths: Mapping[int, Path], asks: Sequence[Ask]) -> dict[int, Written]:
        """What the model replies to each prompt, by its place among the asks."""
        draws = [
            [generator(self.brief.seed, f"teacher candidate {asks[place].candidate}", asks[place].sample.image_sha256)]
            for place in paths
        ]
        prompts = list(paths.values())
        rows = await asyncio.to_thread(sample, self._mllm, prompts, self._sampling, draws, constraint=self._constraint)
        return {
            place: Written(
                reply.text,
                reply.finish_reason,
                Usage(prompt_tokens=len(path.tokens), completion_tokens=len(reply.tokens)),
            )
            for (place, path), (reply,) in zip(paths.items(), rows, strict=True)
        }
