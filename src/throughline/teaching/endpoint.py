"""Teachers behind OpenAI-compatible endpoints: OpenAI itself, vLLM, SGLang, `transformers serve`; several at once.

`Endpoints` sends one chat completion and sees it through, by the fates of `fates`: to the least loaded endpoint, again
after a refusal (429, Retry-After honoured), a server error or a time-out, waiting while a connection is lost. Every
other thing that can happen is an error that stops the build, or a named outcome. `PromptClient` makes completions of
prompts, for `EndpointTeacher`, `judge` and `served`.
"""

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import lru_cache, partial
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx2
import openai

from throughline.chains.records import FAILED
from throughline.core.errors import ThroughlineError
from throughline.domains.images import ImageError
from throughline.questions.prompt import Prompt
from throughline.questions.sampler import Reply
from throughline.teaching.completions import chat_body, read_completion, read_content
from throughline.teaching.concurrency import START, AdaptiveConcurrency
from throughline.teaching.fates import NoAnswer
from throughline.teaching.pictures import data_url
from throughline.teaching.prices import Price
from throughline.teaching.teachers import Brief, Flight, Request

NO_KEY = "none"
"""Sent where no key is set: local servers ask for none, the client's library insists on one."""
_LAST_WORDS: Mapping[int, str] = {
    402: "the account has no credit left",
    404: "the endpoint has no such model or address; base URLs mostly end in /v1",
    429: "the account has no quota left",
}
"""By HTTP status, what no further request can change, where it is more than that the teacher will not answer."""
_LONGEST_REASON = 300
_LONGEST_WAIT = 3600.0  # seconds; a server that names a longer one is asked every hour
_JITTER = random.Random()  # it has to differ between processes


@dataclass(frozen=True)
class Patience:
    """How long to go on with a request that does not come through."""

    timeout: float = 120.0
    """Seconds until an answer is given up."""
    attempts: int = 8
    """Server errors, time-outs and broken answers until the request counts as failed; refusals do not count."""
    first_delay: float = 0.5
    """Seconds before the second attempt; doubled each time, with jitter."""
    longest_delay: float = 30.0
    reach: float = 30.0
    """Seconds without any sign of life from any endpoint, at the start, until that is an error."""

    def delay(self, doublings: int) -> float:
        """Seconds before the next attempt."""
        return min(self.longest_delay, self.first_delay * 2.0 ** min(doublings, 30)) * _JITTER.uniform(0.5, 1.0)


@dataclass
class _Endpoint:
    url: str
    """As error texts may show it: without user and password."""
    client: openai.AsyncOpenAI
    concurrency: AdaptiveConcurrency
    closed_until: float = 0.0
    """No request goes there before: the connection is lost, or it refused most of what it got and named a time."""
    lost_delay: float = 0.0
    trouble: str = ""
    """Why nothing can be sent there now, for whoever watches."""
    alive: bool = False
    """Has answered anything at all."""

    def lose(self, why: str, patience: Patience) -> None:
        """The connection is lost: the endpoint closes for a while, each time for longer."""
        now = time.monotonic()
        self.trouble = f"cannot connect to {self.url} ({why}), trying again"
        if self.closed_until <= now:
            self.lost_delay = min(patience.longest_delay, max(patience.first_delay, 2 * self.lost_delay))
            self.closed_until = now + self.lost_delay


class Endpoints:
    """One or more base URLs that serve the same model."""

    def __init__(
        self, urls: Sequence[str], api_key: str | None, patience: Patience = Patience(), at_once: int = 256
    ) -> None:
        self.patience, self.at_once = patience, at_once * len(urls)
        self.requests = self.refused = self.retried = 0
        """What went over the wire so far."""
        self._key = api_key
        self._began: float | None = None
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=at_once)
        self._endpoints = [
            _Endpoint(
                _without_secrets(url),
                openai.AsyncOpenAI(
                    base_url=url,
                    api_key=api_key or NO_KEY,
                    max_retries=0,  # each attempt counts as a request under way, and a refusal narrows the concurrency
                    timeout=patience.timeout,
                    http_client=openai.DefaultAsyncHttpx2Client(limits=limits, timeout=patience.timeout),
                ),
                AdaptiveConcurrency(most=at_once, start=min(START, at_once)),
            )
            for url in urls
        ]

    @property
    def limit(self) -> int:
        """How many requests may be under way now, over all endpoints."""
        return sum(int(endpoint.concurrency.limit) for endpoint in self._endpoints)

    @property
    def in_flight(self) -> int:
        """How many requests are under way now."""
        return sum(endpoint.concurrency.in_flight for endpoint in self._endpoints)

    @property
    def trouble(self) -> str:
        """Why nothing can be sent anywhere now; empty while something can."""
        troubles = [endpoint.trouble for endpoint in self._endpoints]
        return "; ".join(troubles) if all(troubles) else ""

    async def close(self) -> None:
        """Lets the connections go."""
        for endpoint in self._endpoints:
            await endpoint.client.close()

    async def complete(self, body: Mapping[str, Any], key: str, flight: Flight, price: Price | None = None) -> Reply:
        """The reply to one chat completion `body`, after as many attempts as it takes.

        ThroughlineError when the endpoint will answer no request like this: key, model, quota, unreachable.
        """
        attempts = refusals = 0
        reason = ""
        self._began = self._began or time.monotonic()
        while attempts < self.patience.attempts:
            endpoint = await self._choose()
            ticket = await endpoint.concurrency.acquire()
            if endpoint.closed_until > time.monotonic():  # while this request waited for its place
                endpoint.concurrency.broken()
                continue
            flight.sent(key)
            self.requests += 1
            try:
                reply = await self._ask(endpoint, body, price)
            except NoAnswer as error:
                flight.returned(key)
                reason = self._words_of(error)
                self._note(endpoint, ticket, error, reason)
                fault = error.fate
                if fault in ("filtered", "rejected"):
                    return error.reply(f"{reason} [{endpoint.url}]")
                attempts, refusals = attempts + (fault == "passing"), refusals + (fault == "refused")
                self.retried += fault == "passing" and attempts < self.patience.attempts
                named = error.wait if fault == "refused" else 0.0 if fault == "lost" else None
                await asyncio.sleep(self.patience.delay(attempts + refusals - 1) if named is None else named)
            except BaseException:  # cancelled: whether it was paid for is not known, so it stays noted
                endpoint.concurrency.broken()
                raise
            else:
                endpoint.alive, endpoint.lost_delay, endpoint.trouble = True, 0.0, ""
                endpoint.concurrency.succeeded()
                return reply
        return Reply(f"given up after {attempts} attempts, the last: {reason}", FAILED)

    async def _ask(self, endpoint: _Endpoint, body: Mapping[str, Any], price: Price | None) -> Reply:
        """The answer to one request; NoAnswer for everything else that can come of it."""
        try:
            response = await endpoint.client.post("/chat/completions", body=dict(body), cast_to=httpx2.Response)
        except openai.APIStatusError as error:
            response = error.response
        except openai.APIConnectionError as error:
            if isinstance(error.__cause__, httpx2.ConnectError | httpx2.ConnectTimeout):
                raise NoAnswer("lost", str(error.__cause__) or type(error.__cause__).__name__) from None
            timed_out = isinstance(error, openai.APITimeoutError)
            raise NoAnswer("passing", "time-out" if timed_out else "connection lost") from None
        try:
            return read_completion(read_content(response.content), price, response.status_code)
        except NoAnswer as error:
            error.wait = _retry_after(response.headers)
            raise

    def _note(self, endpoint: _Endpoint, ticket: int, error: NoAnswer, reason: str) -> None:
        """What the error means for the endpoint. ThroughlineError when there is no use in going on."""
        endpoint.alive |= error.status is not None
        if error.fate == "refused":
            self.refused += 1
            mostly = endpoint.concurrency.refused(ticket)
            if mostly and error.wait:  # holds back this request, and the endpoint if it has refused most of what it got
                endpoint.closed_until = max(endpoint.closed_until, time.monotonic() + error.wait)
        else:
            endpoint.concurrency.broken()
        if error.fate == "lost":
            endpoint.lose(reason, self.patience)
        if error.fate == "final":
            what = _LAST_WORDS.get(error.status or 0, "the teacher will not answer")
            raise ThroughlineError(what, endpoint.url, reason)

    async def _choose(self) -> _Endpoint:
        """The least loaded endpoint of those that are not lost; waits while all are."""
        while True:
            now = time.monotonic()
            open_now = [endpoint for endpoint in self._endpoints if endpoint.closed_until <= now]
            if open_now:
                return min(open_now, key=lambda endpoint: endpoint.concurrency.load)
            waited = now - (self._began or now)
            if not any(endpoint.alive for endpoint in self._endpoints) and waited > self.patience.reach:
                urls = ", ".join(endpoint.url for endpoint in self._endpoints)
                why = self._endpoints[0].trouble.partition(" (")[2].partition("),")[0]
                what = f"cannot connect to the teacher (tried for {waited:.0f} s; {why})"
                raise ThroughlineError(what, urls, "check that it is running and that the URL is right")
            await asyncio.sleep(min(endpoint.closed_until for endpoint in self._endpoints) - now)

    def _words_of(self, error: NoAnswer) -> str:
        """The endpoint's own words, short, and without the key should it repeat it."""
        text = str(error) if error.status is None else f"HTTP {error.status}: {error}"
        text = " ".join((text.replace(self._key, "***") if self._key else text).split())
        return text if len(text) <= _LONGEST_REASON else text[:_LONGEST_REASON] + " …"


class PromptClient:
    """Sends prompts to endpoints, their images as data URLs of at most `image_side` pixels, `kept` of them in memory.

    It tells a request whose form is wrong from an image that is: when nothing has ever gone well, it is the form.
    """

    def __init__(self, endpoints: Endpoints, image_side: int, kept: int, price: Price | None = None) -> None:
        self._endpoints, self._price = endpoints, price
        self._data_url = lru_cache(maxsize=kept)(partial(data_url, side=image_side))
        self._rejected = 0
        self._proven = False

    async def reply_to(self, prompt: Prompt, brief: Brief, key: str, flight: Flight, proven: bool = False) -> Reply:
        """The reply to a prompt, under the parameters of the brief; `proven` says that the store holds answers.

        Raises an ImageError, naming the file, when an image cannot be read, and a ThroughlineError when all of the
        first requests were rejected, or as `Endpoints.complete` does.
        """
        urls = [await asyncio.to_thread(self._data_url, image) for image in prompt.images]
        body = chat_body(brief, prompt.with_urls(urls), key)
        reply = await self._endpoints.complete(body, key, flight, self._price)
        self._proven = self._proven or proven or not reply.rejected
        self._rejected += reply.rejected
        if self._rejected >= START and not self._proven:  # as many as are sent before the first reply
            do = f"{reply.text}: check --model, --param and --image-side"
            raise ThroughlineError("the endpoint rejects every request", do=do)
        return reply


class EndpointTeacher:
    """A model behind endpoints that can see. `brief.params` holds the request's parameters, and `image_side`, the
    longest side in pixels that an image is sent with."""

    batch = 1

    def __init__(self, brief: Brief, endpoints: Endpoints, price: Price | None = None) -> None:
        self.brief, self.at_once = brief, endpoints.at_once
        self._client = PromptClient(endpoints, brief.params["image_side"], endpoints.at_once, price)

    async def write(self, requests: Sequence[Request]) -> Sequence[Reply]:
        """Raises as `Endpoints.complete` does."""
        [request] = requests
        try:
            reply = await self._client.reply_to(request.prompt, self.brief, request.key, request.flight, request.proven)
        except ImageError as error:
            reply = Reply(error.what, FAILED)
        return [reply]


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, from `Retry-After` (a number or a date) or the `retry-after-ms` that OpenAI sends beside it."""
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        text = headers.get(name, "")
        try:
            seconds = float(text) * scale
        except ValueError:
            try:
                seconds = parsedate_to_datetime(text).timestamp() - time.time()
            except (ValueError, OverflowError):
                continue
        if seconds >= 0:
            return min(seconds, _LONGEST_WAIT)
    return None


def _without_secrets(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))
