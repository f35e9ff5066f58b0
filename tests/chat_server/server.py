"""The chat server itself: what becomes of each request, its counters and its log."""

import asyncio
import json
import random
import time
from collections import Counter
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Self

from tests.chat_server.replies import Question, completion_about, error, read_question
from tests.chat_server.settings import CONTENT_FAULTS, OUTCOMES, TRANSPORT_FAULTS, ServerSettings

_SECRET_HEADERS = ("authorization", "api-key", "cookie")


@dataclass(frozen=True)
class Request:
    """One whole HTTP request; header names in small letters."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Reply:
    """The bytes sent `delay` seconds after the request, how the request then ends, and whether the connection does."""

    outcome: str
    data: bytes
    delay: float = 0.0
    closes: bool = False


class ChatServer:
    """The server in an event loop of the caller's: `async with ChatServer(settings) as server: … server.url`."""

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self._clients: set[asyncio.StreamWriter] = set()
        self._now = self._most = 0
        self._ended: Counter[str] = Counter()
        self._attempts: Counter[str] = Counter()
        """How often faults were drawn for a request, by its digest."""
        self._distinct: set[str] = set()
        self._first = {image: list(answers) for image, answers in settings.first.items()}
        self._began = time.monotonic()

    async def __aenter__(self) -> Self:
        """Listens."""
        self._server = await asyncio.start_server(
            self._converse, self.settings.host, self.settings.port, backlog=1024, limit=1 << 26
        )
        self.port = int(self._server.sockets[0].getsockname()[1])
        self.url = f"http://{self.settings.host}:{self.port}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        """Closes every connection, whatever it waits for."""
        self._server.close()
        while self._clients:
            for client in list(self._clients):
                client.transport.abort()
            await asyncio.sleep(0)

    def stats(self) -> dict[str, int]:
        """Counters since the start. `requests` (whole chat requests) is `now` and the sum of OUTCOMES without
        over_capacity, which is a part of refused_429 here. `distinct` counts different bodies, `most_at_once` the most
        that were answered at a time."""
        ended = self._ended
        return {
            "requests": self._now + sum(ended.values()),
            **{name: ended[name] for name in OUTCOMES},
            "refused_429": ended["refused_429"] + ended["over_capacity"],
            "now": self._now,
            "most_at_once": self._most,
            "distinct": len(self._distinct),
        }

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client, request after request, until either side closes the connection."""
        self._clients.add(writer)
        try:
            open_ = True
            while open_:
                request = await _read_request(reader)
                open_ = await self._answer(request, reader, writer) and request.headers.get("connection") != "close"
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client is gone
        except ValueError:
            writer.write(_http(400, error("this is no HTTP/1.1 request", "invalid_request_error")))
        finally:
            self._clients.discard(writer)
            writer.close()

    async def _answer(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answers one request; whether the connection goes on."""
        arrived, question = time.monotonic(), read_question(request.body)
        if request.method == "GET" and request.path == "/stats":
            writer.write(_http(200, self.stats()))
            return True
        queue = self._first.get(next(iter(question.images), ""))
        fixed = queue.pop(0) if queue else self.settings.always
        if not (request.method == "POST" and request.path.endswith("/v1/chat/completions")):
            fixed = 404, error(f"nothing is at {request.method} {request.path}", "invalid_request_error")
        if fixed is not None:  # logged, sent at once, and counted nowhere
            self._note(request, question, arrived, str(fixed[0]))
            writer.write(_http(*fixed, is_json=not isinstance(fixed[1], str)))
            return True
        self._distinct.add(question.digest)
        reply = self._reply_to(question)
        outcome = reply.outcome
        if reply.delay > 0 and not await self._wait(reply.delay, reader) and outcome != "timed_out":
            outcome = "left"
        self._ended[outcome] += 1
        self._note(request, question, arrived, outcome)
        if outcome != "left":
            writer.write(reply.data)
        return outcome != "left" and not reply.closes

    async def _wait(self, seconds: float, reader: asyncio.StreamReader) -> bool:
        """Whether the client is still there after so many seconds. It sends nothing before its answer, so that the end
        of its bytes is its leaving."""
        self._now += 1
        self._most = max(self._most, self._now)
        try:
            await asyncio.wait_for(reader.read(1), seconds)
            return False
        except TimeoutError:
            return True
        finally:
            self._now -= 1

    def _reply_to(self, question: Question) -> Reply:
        settings, plan, digest = self.settings, self.settings.faults, question.digest
        if settings.at_once is not None and self._now >= settings.at_once:
            # no draw: how often a request is refused for want of room depends on the clock, and faults must not
            return Reply("over_capacity", _refusal(settings.retry_after))
        known = [image for image in question.images if settings.labels is None or image in settings.labels]
        if not question.is_chat or (settings.labels is not None and not known):
            complaint = f"no label for any image of the request: {', '.join(question.images)}"
            return Reply("bad_requests", _http(400, error(complaint, "invalid_request_error")))
        label = question.first_option if settings.labels is None else settings.labels[known[0]]
        draws = self._draws("text", digest)
        content_fault = plan.draw(CONTENT_FAULTS, draws)
        completion = completion_about(question, label, content_fault, draws, settings.says)
        fault = plan.draw(TRANSPORT_FAULTS, self._draws(self._attempts[digest], digest))
        self._attempts[digest] += 1
        if fault is None:
            return Reply(content_fault or "answered", _http(200, completion), settings.latency)
        return self._faulty(fault, completion)

    def _faulty(self, fault: str, completion: dict[str, Any]) -> Reply:
        """The reply with a fault of transport in the place of this completion."""
        plan, latency, whole = self.settings.faults, self.settings.latency, _http(200, completion)
        failure = error("The server had an error.", "server_error")
        return {
            "refused_429": Reply(fault, _refusal(plan.retry_after)),
            "errors_500": Reply(fault, _http(500, failure), latency),
            "bad_json": Reply(fault, _http(200, '{"id": "chat', is_json=False), latency),
            "dropped_before": Reply(fault, b"", latency, closes=True),
            "dropped_midway": Reply(fault, whole[: -len(whole) // 4], latency, closes=True),
            "timed_out": Reply(fault, b"", plan.timeout_seconds, closes=True),
        }[fault]

    def _draws(self, what: object, digest: str) -> random.Random:
        """For every draw about a request, apart from its order and the clock."""
        return random.Random(f"{self.settings.seed}/{what}/{digest}")

    def _reply_uncounted(
        self,
        request: Request,
        question: Question,
        arrived: float,
        writer: asyncio.StreamWriter,
        status: int,
        value: Any,
    ) -> bool:
        """An answer that is logged and sent at once, and counted nowhere."""
        self._note(request, question, arrived, str(status))
        writer.write(_http(status, value))
        return True

    def _note(self, request: Request, question: Question, arrived: float, outcome: str) -> None:
        """A log line. The reply is not in it: whatever label is found there came with a request."""
        if self.settings.log is None:
            return
        headers = {name: value for name, value in request.headers.items() if name not in _SECRET_HEADERS}
        line = {
            "digest": question.digest,
            "method": request.method,
            "path": request.path,
            "headers": headers,
            "authorization": len(headers) < len(request.headers),
            "body": question.body,
            "arrived": arrived - self._began,
            "outcome": outcome,
            "ended": time.monotonic() - self._began,
        }
        with self.settings.log.open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")


async def _read_request(reader: asyncio.StreamReader) -> Request:
    """The next request, whose body has a Content-Length. ValueError for bytes that are none; IncompleteReadError once
    the client has closed the connection."""
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").strip().split("\r\n")
    method, path, _ = first.split(" ")
    fields = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): value.strip() for name, _, value in fields}
    return Request(method, path, headers, await reader.readexactly(int(headers.get("content-length", 0))))


def _http(status: int, value: Any, headers: str = "", is_json: bool = True) -> bytes:
    """A whole HTTP reply with `value` as JSON, or as it stands; each of the further `headers` ends its line."""
    body = (json.dumps(value) if is_json else value).encode()
    head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n{headers}\r\n".encode("ascii") + body


def _refusal(retry_after: float | None) -> bytes:
    fault = error("Rate limit reached for requests.", "requests", "rate_limit_exceeded")
    return _http(429, fault, "" if retry_after is None else f"Retry-After: {retry_after:g}\r\n")
