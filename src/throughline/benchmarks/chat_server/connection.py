"""HTTP/1.1 of one client over `asyncio.Protocol`: whole requests out of its bytes, replies into them.

The server gives one `Connection` to every client and is told what arrives. As much of HTTP as JSON clients use: a body
has a Content-Length, and the next request comes after the answer.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Request:
    """One whole request; header names in small letters."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Host(Protocol):
    """Whoever the connections of the clients belong to."""

    def joined(self, connection: Connection) -> None:
        """A client has connected."""

    def received(self, connection: Connection, request: Request) -> None:
        """A request is there; it is answered by `write` or `drop`, now or later."""

    def lost(self, connection: Connection) -> None:
        """The connection is gone, and with it the request that it waited for."""


class Connection(asyncio.Protocol):
    """Takes one request at a time, and stays open between them."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._buffer = bytearray()
        self._answering = False
        self._closes = False
        """After the answer, as the client asked."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._host.joined(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        self._host.lost(self)

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        self._buffer += data
        if self._answering:
            return
        try:
            request = self._take_request()
        except ValueError as fault:
            self._closes = True
            self.write(json_reply(400, {"error": {"message": f"this is no HTTP/1.1 request: {fault}"}}))
            return
        if request is not None:
            self._answering = True
            self._host.received(self, request)

    def write(self, reply: bytes) -> None:
        """Sends a whole reply."""
        self._answering = False
        if self._closes:
            self.drop(reply.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
        else:
            self._transport.write(reply)

    def drop(self, last: bytes = b"") -> None:
        """Sends `last`, closes, and hears no more."""
        self._transport.write(last)
        self._transport.close()

    def abort(self) -> None:
        """Closes at once, whatever is still to be sent."""
        self._transport.abort()

    def _take_request(self) -> Request | None:
        """The next request out of the buffer; None while it is not whole. ValueError for bytes that are none."""
        head_end = self._buffer.find(b"\r\n\r\n")
        if head_end < 0:
            return None
        first, *lines = self._buffer[:head_end].decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ")
        parts = (line.partition(":") for line in lines)
        headers = {name.strip().lower(): value.strip() for name, _, value in parts}
        if "transfer-encoding" in headers:
            raise ValueError("its body has no Content-Length")
        body_at = head_end + 4
        end = body_at + int(headers.get("content-length", 0))
        if len(self._buffer) < end:
            return None
        body = bytes(self._buffer[body_at:end])
        del self._buffer[:end]
        self._closes = headers.get("connection") == "close"
        return Request(method, path, headers, body)


def reply(status: int, body: bytes, headers: str = "") -> bytes:
    """A whole HTTP reply; each of the further `headers` ends its line."""
    head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n{headers}\r\n".encode("ascii") + body


def json_reply(status: int, value: object, headers: str = "") -> bytes:
    """A reply with `value` as JSON."""
    return reply(status, json.dumps(value).encode(), headers)
