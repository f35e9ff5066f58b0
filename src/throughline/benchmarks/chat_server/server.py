"""The chat server itself: what becomes of each request, its counters and its log.

Tests run it in their own event loop; `process` runs it in one of its own.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from dataclasses import dataclass
from typing import IO, Any, Self

from throughline.benchmarks.chat_server.answers import Answer, completion, error, write_answer
from throughline.benchmarks.chat_server.connection import Connection, Request, json_reply, reply
from throughline.benchmarks.chat_server.questions import Body, Question, read_body, read_question
from throughline.benchmarks.chat_server.settings import CONTENT_FAULTS, OUTCOMES, TRANSPORT_FAULTS, ServerSettings
from throughline.core.errors import ThroughlineError
from throughline.core.files import told_in_one_line

_SECRET_HEADERS = ("authorization", "proxy-authorization", "api-key", "x-api-key", "cookie")


@dataclass(slots=True)
class _Call:
    """A chat request from its arrival to its end."""

    connection: Connection
    entry: dict[str, Any] | None
    """The log line, but for how it ended."""
    outcome: str = ""
    reply: bytes = b""
    timer: asyncio.TimerHandle | None = None


class ChatServer:
    """The server in an event loop of the caller's: `async with ChatServer(settings) as server: … server.url`."""

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self._hashes_images = settings.answers is not None or settings.log is not None
        self._connections: set[Connection] = set()
        self._calls: dict[Connection, _Call] = {}
        """Those being answered."""
        self._server: asyncio.Server | None = None
        self._log: IO[str] | None = None
        self._requests = self._most = 0
        self._ended: Counter[str] = Counter()
        self._attempts: dict[str, int] = {}
        """How often faults were drawn for a request, by its digest."""

    async def __aenter__(self) -> Self:
        """Listens. ThroughlineError when the port is taken or the log cannot be written."""
        settings, self._began = self.settings, time.monotonic()
        if settings.log is not None:
            with told_in_one_line(settings.log):
                settings.log.parent.mkdir(parents=True, exist_ok=True)
                self._log = settings.log.open("a", buffering=1, encoding="utf-8")  # a line is flushed as it ends
        try:
            self._server = await asyncio.get_running_loop().create_server(
                lambda: Connection(self), settings.host, settings.port, backlog=1024
            )
        except OSError as fault:
            raise ThroughlineError(
                f"cannot listen: {fault.strerror}", f"{settings.host}:{settings.port}", "name another port, or 0"
            ) from fault
        return self

    async def __aexit__(self, *_: object) -> None:
        """Closes every connection, whatever it waits for."""
        assert self._server is not None
        server, self._server = self._server, None
        await _some_turns()  # an acceptance that is under way would trip over a closed server
        server.close()
        for connection in list(self._connections):
            connection.abort()
        await _some_turns()  # each notes its loss
        if self._log is not None:
            self._log.close()

    @property
    def port(self) -> int:
        """The port it listens on."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        """The base URL for clients, with `/v1`; counters are at `/stats` beside it."""
        return f"http://{self.settings.host}:{self.port}/v1"

    def stats(self) -> dict[str, int]:
        """Counters since the start.

        `requests` (chat requests, whole ones) is `now` and the sum of OUTCOMES without over_capacity, which is a part
        of refused_429 here. `distinct` counts different bodies, `most_at_once` the most that were answered at a time.
        """
        ended = self._ended
        return {
            "requests": self._requests,
            **{name: ended[name] for name in OUTCOMES},
            "refused_429": ended["refused_429"] + ended["over_capacity"],
            "now": len(self._calls),
            "most_at_once": self._most,
            "distinct": len(self._attempts),
        }

    def joined(self, connection: Connection) -> None:
        """A client has connected; called by the connection."""
        self._connections.add(connection)
        if self._server is None:
            connection.abort()

    def lost(self, connection: Connection) -> None:
        """The connection is gone, and with it the request that it waited for; called by the connection."""
        self._connections.discard(connection)
        call = self._calls.pop(connection, None)
        if call is not None:
            assert call.timer is not None
            call.timer.cancel()
            self._note(call.entry, "timed_out" if call.outcome == "timed_out" else "left")

    def received(self, connection: Connection, request: Request) -> None:
        """Answers one whole request, now or later; called by the connection."""
        path, always = request.path.partition("?")[0], self.settings.always
        if request.method == "POST" and path.endswith("/v1/chat/completions"):
            if always is None:
                self._chat(connection, request)
            else:
                self._tell(connection, request, *always)
        elif (request.method, path) == ("GET", "/stats"):
            connection.write(json_reply(200, self.stats()))
        else:
            fault = error(f"nothing is at {request.method} {path}", "invalid_request_error")
            self._tell(connection, request, 404, fault)

    def _tell(self, connection: Connection, request: Request, status: int, value: object) -> None:
        """An answer that is logged and sent at once, and counted nowhere."""
        self._write_entry(self._entry(request, read_body(request.body, self._hashes_images)), str(status))
        connection.write(json_reply(status, value))

    def _chat(self, connection: Connection, request: Request) -> None:
        settings, plan = self.settings, self.settings.faults
        body = read_body(request.body, self._hashes_images)
        attempt = self._attempts.setdefault(body.digest, 0)
        self._requests += 1
        call = _Call(connection, self._entry(request, body))
        if settings.at_once is not None and len(self._calls) >= settings.at_once:
            # no draw: how often a request is refused for want of room depends on the clock, and faults must not
            self._end(call, "over_capacity", _refused(settings.retry_after))
            return
        try:
            question = read_question(body)
            answer = self._answer(question)
        except (ValueError, ThroughlineError) as fault:  # the latter: a label that cannot stand in a chain
            self._end(call, "bad_requests", json_reply(400, error(str(fault), "invalid_request_error")))
            return
        self._attempts[body.digest] = attempt + 1
        call.outcome = plan.drawn(TRANSPORT_FAULTS, self._draws(attempt, body.digest)) or answer.outcome
        if call.outcome == "refused_429":
            self._end(call, call.outcome, _refused(plan.retry_after))
            return
        call.reply = _reply_of(call.outcome, question, answer)
        self._calls[connection] = call
        self._most = max(self._most, len(self._calls))
        delay = plan.timeout_seconds if call.outcome == "timed_out" else settings.latency
        if delay > 0:
            call.timer = asyncio.get_running_loop().call_later(delay, self._due, call)
        else:
            self._due(call)

    def _answer(self, question: Question) -> Answer:
        """What this request is always answered. ValueError for an image that the answers lack."""
        label, answers = question.first_option, self.settings.answers
        if answers is not None:
            known = [image for image in question.images if image in answers]
            if not known:
                images = ", ".join(question.images) or "it has none"
                raise ValueError(f"no answer for any image of the request: {images}")
            label = answers[known[0]]["label"]
        draws = self._draws("text", question.digest)
        return write_answer(label, self.settings.faults.drawn(CONTENT_FAULTS, draws), draws)

    def _draws(self, what: object, digest: str) -> random.Random:
        """For every draw about a request, apart from its order and the clock."""
        return random.Random(f"{self.settings.seed}/{what}/{digest}")

    def _due(self, call: _Call) -> None:
        del self._calls[call.connection]
        self._end(call, call.outcome, call.reply)

    def _end(self, call: _Call, outcome: str, reply: bytes) -> None:
        self._note(call.entry, outcome)
        if outcome in ("dropped_before", "dropped_midway", "timed_out"):
            call.connection.drop(reply)
        else:
            call.connection.write(reply)

    def _note(self, entry: dict[str, Any] | None, outcome: str) -> None:
        self._ended[outcome] += 1
        self._write_entry(entry, outcome)

    def _entry(self, request: Request, body: Body) -> dict[str, Any] | None:
        """A log line but for its end. The answer is not in it: whatever label is found there came with a request."""
        if self._log is None:
            return None
        headers = {name: value for name, value in request.headers.items() if name not in _SECRET_HEADERS}
        return {
            "digest": body.digest,
            "method": request.method,
            "path": request.path,
            "headers": headers,
            "authorization": len(headers) < len(request.headers),
            "body": body.value,
            "arrived": time.monotonic() - self._began,
        }

    def _write_entry(self, entry: dict[str, Any] | None, outcome: str) -> None:
        if self._log is not None and entry is not None:
            line = {**entry, "outcome": outcome, "ended": time.monotonic() - self._began}
            self._log.write(json.dumps(line) + "\n")


async def _some_turns() -> None:
    """Lets the loop do what it has already begun."""
    for _ in range(4):
        await asyncio.sleep(0)


def _refused(retry_after: float | None) -> bytes:
    fault = error("Rate limit reached for requests.", "requests", "rate_limit_exceeded")
    return json_reply(429, fault, "" if retry_after is None else f"Retry-After: {retry_after:g}\r\n")


def _reply_of(outcome: str, question: Question, answer: Answer) -> bytes:
    """The bytes sent when the request is due; none for a connection that is closed without."""
    if outcome in ("dropped_before", "timed_out"):
        return b""
    if outcome == "errors_500":
        return json_reply(500, error("The server had an error while processing your request.", "server_error"))
    body = json.dumps(completion(question, answer)).encode()
    if outcome == "bad_json":
        return reply(200, body[: len(body) // 2])
    whole = reply(200, body)
    return whole[: -(len(body) // 2)] if outcome == "dropped_midway" else whole
