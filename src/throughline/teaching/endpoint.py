"""Teachers behind OpenAI-compatible endpoints: OpenAI itself, vLLM, SGLang, `transformers serve`; several at once.

`Endpoints` sends one chat completion and sees it through: to the least loaded endpoint, again after a refusal (429,
Retry-After honoured), a server error or a time-out, waiting while a connection is lost. `EndpointTeacher` puts image
and question into it. Every other thing that can happen is an error that stops the build, or a named outcome.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx2
import openai

from throughline.chains.records import FAILED
from throughline.core.errors import ThroughlineError
from throughline.teaching.completions import Completion, image_body, read_completion, usage_of
from throughline.teaching.concurrency import START, AdaptiveConcurrency
from throughline.teaching.pictures import PictureBook
from throughline.teaching.prices import Price
from throughline.teaching.teachers import Ask, Brief, Flight, Written

_REJECTIONS = START
"""As many as are sent before the first answer is known."""
NO_KEY = "none"
"""Sent where no key is set: local servers ask for none, the client's library insists on one."""
_PASSING = {408, 409, 425}
"""Time-out, conflict, too early: the same request may go well later."""
_FILTERED = {"content_filter", "content_policy_violation", "ResponsibleAIPolicyViolation"}
_LONGEST_REASON = 300
_LONGEST_WAIT = 3600.0  # seconds; a server that names a longer one is asked every hour


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


@dataclass
class Traffic:
    """What went over the wire so far."""

    requests: int = 0
    refused: int = 0
    retried: int = 0


class _Broken(Exception):
    """HTTP 200 with something that is no chat completion."""


@dataclass(frozen=True)
class _Again:
    """Why a request has to be sent once more. `wait` in seconds, None for one that grows with every time."""

    reason: str
    counts: bool = True
    """As one of the attempts that a request has."""
    refused: bool = False
    wait: float | None = None


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


class Endpoints:
    """One or more base URLs that serve the same model."""

    def __init__(
        self,
        urls: Sequence[str],
        api_key: str | None,
        patience: Patience = Patience(),
        at_once: int = 256,
    ) -> None:
        self.patience, self.at_once = patience, at_once * len(urls)
        self.traffic = Traffic()
        self._key = api_key
        self._random = random.Random()  # jitter only: it has to differ between processes
        self._began: float | None = None
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=at_once)
        self._ends = [
            _Endpoint(
                _shown(url),
                openai.AsyncOpenAI(
                    base_url=url,
                    api_key=api_key or NO_KEY,
                    max_retries=0,
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
        return sum(int(end.concurrency.limit) for end in self._ends)

    @property
    def trouble(self) -> str:
        """Why nothing can be sent anywhere now; empty while something can."""
        return "; ".join(end.trouble for end in self._ends) if all(end.trouble for end in self._ends) else ""

    @property
    def in_flight(self) -> int:
        """How many requests are under way now."""
        return sum(end.concurrency.in_flight for end in self._ends)

    async def close(self) -> None:
        """Lets the connections go."""
        for end in self._ends:
            await end.client.close()

    async def complete(self, body: Mapping[str, Any], key: str, flight: Flight) -> Completion:
        """The answer to one chat completion `body`, after as many attempts as it takes.

        ThroughlineError when the endpoint will answer no request like this: key, model, quota, unreachable.
        """
        attempts = refusals = 0
        reason = ""
        self._began = self._began or time.monotonic()
        while attempts < self.patience.attempts:
            end = await self._chosen()
            ticket = await end.concurrency.acquire()
            if end.closed_until > time.monotonic():  # while this one waited for its place
                end.concurrency.broken()
                continue
            flight.sent(key)
            self.traffic.requests += 1
            try:
                response = await end.client.post("/chat/completions", body=dict(body), cast_to=httpx2.Response)
                completion = _read(response.content)
            except (openai.APIError, _Broken) as error:
                flight.returned(key)
                fate = self._fate(end, ticket, error)
                if isinstance(fate, Completion):
                    return fate
                reason, attempts, refusals = fate.reason, attempts + fate.counts, refusals + fate.refused
                self.traffic.refused += fate.refused
                self.traffic.retried += fate.counts and attempts < self.patience.attempts
                await asyncio.sleep(self._jittered(attempts + refusals - 1) if fate.wait is None else fate.wait)
            except BaseException:  # cancelled: whether it was paid for is not known, so it stays noted
                end.concurrency.broken()
                raise
            else:
                end.alive, end.lost_delay, end.trouble = True, 0.0, ""
                end.concurrency.succeeded()
                return completion
        return Completion(f"given up after {attempts} attempts, the last: {reason}", FAILED)

    def _fate(self, end: _Endpoint, ticket: int, error: openai.APIError | _Broken) -> Completion | _Again:
        """What an error means: the end of this request, or another attempt."""
        if isinstance(error, openai.RateLimitError):
            return self._refused(end, ticket, error)
        end.concurrency.broken()
        if isinstance(error, openai.APIConnectionError):
            if isinstance(error.__cause__, httpx2.ConnectError | httpx2.ConnectTimeout):
                self._lose(end, self._said(error.__cause__) or type(error.__cause__).__name__)
                return _Again("connection lost", counts=False, wait=0.0)
            return _Again("time-out" if isinstance(error, openai.APITimeoutError) else "connection lost")
        end.alive = True
        passing = isinstance(error, openai.APIStatusError) and error.status_code in _PASSING
        if isinstance(error, openai.APIStatusError) and error.status_code < 500 and not passing:
            return self._rejected(end, error)
        return _Again(self._said(error))

    def _refused(self, end: _Endpoint, ticket: int, error: openai.RateLimitError) -> _Again:
        """Retry-After holds back this request, and the endpoint if it has refused most of what it got."""
        end.alive = True
        mostly = end.concurrency.refused(ticket)
        if error.code == "insufficient_quota":
            raise self._stop("the account has no quota left", end, error) from None
        wait = _retry_after(error)
        if wait and mostly:
            end.closed_until = max(end.closed_until, time.monotonic() + wait)
        return _Again("refused", counts=False, refused=True, wait=wait)

    async def _chosen(self) -> _Endpoint:
        """The least loaded endpoint of those that are not lost; waits while all are."""
        while True:
            now = time.monotonic()
            there = [end for end in self._ends if end.closed_until <= now]
            if there:
                return min(there, key=lambda end: end.concurrency.load)
            waited = now - (self._began or now)
            if not any(end.alive for end in self._ends) and waited > self.patience.reach:
                names = ", ".join(end.url for end in self._ends)
                tried = f"tried for {waited:.0f} s; {self._ends[0].trouble.partition(' (')[2].partition('),')[0]}"
                raise ThroughlineError(
                    f"cannot connect to the teacher ({tried})", names, "is it running, the URL right?"
                )
            await asyncio.sleep(min(end.closed_until for end in self._ends) - now)

    def _lose(self, end: _Endpoint, why: str) -> None:
        now = time.monotonic()
        end.trouble = f"cannot connect to {end.url} ({why}), trying again"
        if end.closed_until <= now:
            first, longest = self.patience.first_delay, self.patience.longest_delay
            end.lost_delay = min(longest, max(first, 2 * end.lost_delay))
            end.closed_until = now + end.lost_delay

    def _rejected(self, end: _Endpoint, error: openai.APIStatusError) -> Completion:
        if error.code in _FILTERED:
            return Completion(self._said(error), "content_filter")
        if isinstance(error, openai.NotFoundError):
            what = "the teacher knows no such model or address; base URLs mostly end in /v1"
            raise self._stop(what, end, error) from None
        if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
            raise self._stop("the teacher will not answer", end, error) from None
        return Completion(f"{self._said(error)} [{end.url}]", FAILED, rejected=True)

    def _stop(self, what: str, end: _Endpoint, error: openai.APIStatusError) -> ThroughlineError:
        return ThroughlineError(what, end.url, self._said(error))

    def _said(self, error: Exception) -> str:
        """The endpoint's own words, short, and without the key should it repeat it."""
        text = str(error)
        if isinstance(error, openai.APIStatusError):
            body = error.body if isinstance(error.body, dict) else {}
            detail = body.get("message") or body.get("detail")  # OpenAI's shape, FastAPI's
            text = f"HTTP {error.status_code}: {detail or error.response.text or error.message}"
        text = text.replace(self._key, "***") if self._key else text
        text = " ".join(text.split())
        return text if len(text) <= _LONGEST_REASON else text[:_LONGEST_REASON] + " …"

    def _jittered(self, doublings: int) -> float:
        delay = min(self.patience.longest_delay, self.patience.first_delay * 2.0 ** min(doublings, 30))
        return delay * self._random.uniform(0.5, 1.0)


@dataclass
class EndpointTeacher:
    """A model behind endpoints that can see. `brief.params` holds the request's parameters, and `image_side`, the
    longest side in pixels that an image is sent with."""

    brief: Brief
    endpoints: Endpoints
    price: Price | None = None
    batch: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        self._pictures = PictureBook(self.brief.params["image_side"], kept=self.at_once)
        self._form = FormCheck()

    @property
    def at_once(self) -> int:
        """Requests that may be under way at the same time at most, over all endpoints."""
        return self.endpoints.at_once

    async def write(self, asks: Sequence[Ask]) -> Sequence[Written]:
        """Raises as `Endpoints.complete` does."""
        return [await self._one(ask) for ask in asks]

    async def _one(self, ask: Ask) -> Written:
        try:
            url = await asyncio.to_thread(self._pictures.data_url, ask.sample.path)
        except ThroughlineError as error:
            return Written(str(error.what), FAILED)
        body = image_body(self.brief, ask.sample, url, ask.candidate)
        said = await self.endpoints.complete(body, ask.key, ask.flight)
        self._form.note(said, ask.proven)
        if said.finish_reason == FAILED:
            return Written(said.text, FAILED)
        return Written(said.text, said.finish_reason, usage_of(said, self.price))


class FormCheck:
    """Tells a request whose form is wrong from an image that is: when nothing has ever gone well, it is the form."""

    def __init__(self) -> None:
        self._rejected = 0
        self._proven = False

    def note(self, said: Completion, proven: bool = False) -> None:
        """ThroughlineError when all of the first requests were rejected; `proven` says that the store holds answers."""
        self._proven = self._proven or proven or not said.rejected
        self._rejected += said.rejected
        if self._rejected >= _REJECTIONS and not self._proven:
            raise ThroughlineError("the endpoint rejects every request", do=f"{said.text}: check --model and --param")


def _read(content: bytes) -> Completion:
    try:
        return read_completion(json.loads(content))
    except (ValueError, RecursionError) as error:
        raise _Broken("the answer is no chat completion") from error


def _retry_after(error: openai.RateLimitError) -> float | None:
    """Seconds, from `Retry-After` (a number or a date) or the `retry-after-ms` that OpenAI sends beside it."""
    headers = error.response.headers
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


def _shown(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))
