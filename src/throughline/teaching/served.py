"""A `Sampler` behind an OpenAI-compatible endpoint that serves the model's own merged weights.

Each draw sends the seed that it is named by, and a server that knows `seed` draws from it; what is computed together
still rounds differently from call to call, so texts are not the same to the bit when asked for again, and what is
recorded stands. Images travel as `pictures` sends them: small ordinary files as they are, all else as a JPEG.
"""

import asyncio
from collections.abc import Callable, Coroutine, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, ClassVar

from throughline.chains.records import FAILED, Usage
from throughline.core.errors import ThroughlineError
from throughline.core.seeding import seed_of
from throughline.domains.samples import Sample
from throughline.questions.sampler import Drawn, SamplingRequest
from throughline.teaching.endpoint import Endpoints, Patience, PromptClient
from throughline.teaching.teachers import Brief, Flight

IMAGE_SIDE = 8192
"""Pixels; longer sides are scaled down. Twelve tiles of 448 in a row are 5,376: no processor looks closer."""
PATIENCE = Patience(timeout=1800.0, attempts=3)
"""A slow server is no fault: `transformers serve` answers one after the other. Whether it runs at all is looked at."""
_SEEDS = 2**31
"""Servers take seeds of 31 bits."""
_LOOK = 1.0  # seconds between two looks at whether the server still runs


@dataclass(frozen=True)
class EndpointSampler:
    """Asks `model` at `url`, at most `at_once` requests under way and fewer while the endpoint refuses.

    `require_alive` is called now and then and raises when the server has ended. `params` says who served.
    """

    url: str
    model: str
    params: Mapping[str, Any]
    at_once: int
    patience: Patience = PATIENCE
    require_alive: Callable[[], None] = lambda: None
    whole_batches: ClassVar[bool] = False

    def draw(self, request: SamplingRequest, batches: Sequence[Sequence[Sample]]) -> Generator[Sequence[Drawn]]:
        """Continuations as they come in. ThroughlineError for an image that cannot be read, when the server has ended,
        will answer no request like these, or gives no answer to one in all its attempts."""
        endpoints = Endpoints([self.url], None, self.patience, self.at_once)
        client = PromptClient(endpoints, IMAGE_SIDE, kept=self.at_once)
        numbers = range(len(request.purposes))
        waiting = (
            self._draw(client, request, sample, number) for batch in batches for sample in batch for number in numbers
        )
        pending: set[asyncio.Task[Drawn]] = set()
        with asyncio.Runner() as runner:  # its end cancels what is still under way
            try:
                while True:
                    following = islice(waiting, self.at_once - len(pending))
                    done, pending = runner.run(_next_done(pending, following))
                    if not (done or pending):
                        return
                    drawn = [task.result() for task in done if task.exception() is None]
                    if drawn:
                        yield drawn
                    self.require_alive()  # first: a server that has ended is why the others failed
                    for task in done:
                        task.result()
            finally:
                runner.run(endpoints.close())

    async def _draw(self, client: PromptClient, request: SamplingRequest, sample: Sample, number: int) -> Drawn:
        prompt = request.prompt(sample)
        params = {
            "temperature": request.settings.temperature,
            "top_p": request.settings.top_p,
            "max_tokens": request.settings.max_new_tokens,
            "seed": seed_of(request.seed, request.purposes[number], sample.id) % _SEEDS,
        }
        brief = Brief("self", self.model, prompt.text, params, request.seed)
        # notes no flight: what a kill loses here was computed on this machine
        reply = await client.reply_to(prompt, brief, brief.key(sample.image_sha256, number), Flight())
        if reply.finish_reason == FAILED and not reply.rejected:  # a refusal of this very request is its answer
            raise ThroughlineError(f"the server gave no answer: {reply.text}", sample.id, "the same command continues")
        return Drawn(sample, number, replace(reply, text=reply.text.strip(), usage=reply.usage or Usage()))


async def _next_done(
    pending: set[asyncio.Task[Drawn]], following: Iterable[Coroutine[Any, Any, Drawn]]
) -> tuple[set[asyncio.Task[Drawn]], set[asyncio.Task[Drawn]]]:
    """Starts the following draws and waits for the first of all to end: those that have, and those still under way."""
    tasks = pending | {asyncio.ensure_future(draw) for draw in following}
    return await asyncio.wait(tasks, timeout=_LOOK, return_when=asyncio.FIRST_COMPLETED) if tasks else (set(), set())
