"""A `Sampler` behind an OpenAI-compatible endpoint that serves the model's own merged weights.

Each draw sends the seed that it is named by, and a server that knows `seed` draws from it; what is computed together
still rounds differently from call to call, so texts are not the same to the bit when asked for again, and what is
recorded stands. Images travel as `pictures` sends them: small ordinary files as they are, all else as a JPEG.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, ClassVar

from throughline.chains.records import FAILED
from throughline.core.errors import ThroughlineError
from throughline.core.seeding import seed_of
from throughline.domains.samples import Sample
from throughline.questions.sampler import Drawn, SamplingRequest
from throughline.teaching.completions import Completion, chat_body, usage_of
from throughline.teaching.endpoint import Endpoints, FormCheck, Patience
from throughline.teaching.pictures import PictureBook
from throughline.teaching.teachers import Brief

IMAGE_SIDE = 8192
"""Pixels; longer sides are scaled down. Twelve tiles of 448 in a row are 5,376: no processor looks closer."""
PATIENCE = Patience(timeout=1800.0, attempts=3)
"""A slow server is no fault: `transformers serve` answers one after the other. Whether it runs at all is looked at."""
_SEEDS = 2**31
"""Servers take seeds of 31 bits."""
_LOOK = 1.0  # seconds between two looks at whether the server still runs


class EndpointSampler:
    """Asks `model` at `url`, at most `at_once` requests under way and fewer while the endpoint refuses.

    `require_alive` is called now and then and raises when the server has ended. `params` says who served.
    """

    whole_batches: ClassVar[bool] = False

    def __init__(
        self,
        url: str,
        model: str,
        params: Mapping[str, Any],
        *,
        at_once: int,
        patience: Patience = PATIENCE,
        require_alive: Callable[[], None] = lambda: None,
    ) -> None:
        self.params = params
        self._url, self._model, self._at_once, self._patience = url, model, at_once, patience
        self._require_alive = require_alive

    def draw(self, request: SamplingRequest, batches: Sequence[Sequence[Sample]]) -> Generator[Sequence[Drawn]]:
        """Answers as they come in. ThroughlineError for an image that cannot be read, when the server has ended, will
        answer no request like these, or gives no answer to one in all its attempts."""
        endpoints = Endpoints([self._url], None, self._patience, self._at_once)
        asking = _Asking(request, self._model, endpoints, PictureBook(IMAGE_SIDE, kept=self._at_once))
        waiting = iter(
            asking.one(sample, number)
            for batch in batches
            for sample in batch
            for number in range(len(request.purposes))
        )
        with asyncio.Runner() as runner:  # its end cancels what is still under way
            try:
                flying: set[asyncio.Task[Drawn]] = set()
                while True:
                    flying |= runner.run(_started(islice(waiting, self._at_once - len(flying))))
                    if not flying:
                        return
                    done, flying = runner.run(_first_of(flying))
                    answered = [task.result() for task in done if task.exception() is None]
                    if answered:
                        yield answered
                    self._require_alive()  # first: a server that has ended is why the others failed
                    for task in done:
                        task.result()
            finally:
                runner.run(endpoints.close())


class _Asking:
    """The requests of one call."""

    def __init__(self, request: SamplingRequest, model: str, endpoints: Endpoints, pictures: PictureBook) -> None:
        self._request, self._model, self._endpoints, self._pictures = request, model, endpoints, pictures
        self._form = FormCheck()

    async def one(self, sample: Sample, number: int) -> Drawn:
        request = self._request
        prompt = request.prompt(sample)
        urls = [await asyncio.to_thread(self._pictures.data_url, image.path) for image in prompt.images]
        params = {
            "temperature": request.settings.temperature,
            "top_p": request.settings.top_p,
            "max_tokens": request.settings.max_new_tokens,
            "seed": seed_of(request.seed, request.purposes[number], sample.id) % _SEEDS,
        }
        brief = Brief("self", self._model, prompt.text, params, request.seed)
        key = brief.key(sample.image_sha256, number)
        body = chat_body(brief, prompt.with_urls(urls), sample.image_sha256, number)
        said = await self._endpoints.complete(body, key, _Unpaid())
        self._form.note(said)
        self._require_answer(said, sample)
        return Drawn(sample, number, said.text.strip(), said.finish_reason, usage_of(said, None))

    @staticmethod
    def _require_answer(said: Completion, sample: Sample) -> None:
        """A refusal of this very request is its answer. None at all is no answer that the model would have given."""
        if said.finish_reason == FAILED and not said.rejected:
            raise ThroughlineError(f"the server gave no answer: {said.text}", sample.id, "the same command continues")


class _Unpaid:
    """Notes nothing: what a kill loses here was computed on this machine."""

    def sent(self, key: str) -> None:
        """See `teachers.Flight`."""

    def returned(self, key: str) -> None:
        """See `teachers.Flight`."""


async def _started(asking: Iterator[Coroutine[Any, Any, Drawn]]) -> set[asyncio.Task[Drawn]]:
    return {asyncio.ensure_future(request) for request in asking}


async def _first_of(
    flying: set[asyncio.Task[Drawn]],
) -> tuple[set[asyncio.Task[Drawn]], set[asyncio.Task[Drawn]]]:
    return await asyncio.wait(flying, timeout=_LOOK, return_when=asyncio.FIRST_COMPLETED)
