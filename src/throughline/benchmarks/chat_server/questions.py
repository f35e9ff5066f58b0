"""What a chat request asks: its body with the image data taken out, and the few things in it that an answer needs.

The server reads every request through here; without its images a body is small, and quickly read.
"""

from __future__ import annotations

import binascii
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Body:
    """A request's body, read."""

    digest: str
    """SHA-256 (hex) of all its bytes."""
    value: Any
    """Its JSON with `;sha256,…` for `;base64,…` in the images' addresses; a text where it is none."""
    images: list[str]
    """The SHA-256 (hex) of each image, in order; "" where it was not asked for or the data are none."""


def read_body(body: bytes, hashed: bool) -> Body:
    """`hashed` asks for the images' SHA-256, which takes many times as long as all the rest."""
    images: list[str] = []

    def without_data(match: re.Match[bytes]) -> bytes:
        if b"\\" in match[2]:  # words of a text
            return match[0]
        images.append(_sha256_of_base64(match[2]) if hashed else "")
        return match[1] + b";sha256," + images[-1].encode() + b'"'

    rest = _IMAGE.sub(without_data, body)
    try:
        value = json.loads(rest)
    except (ValueError, RecursionError):
        value = rest.decode(errors="replace")
    return Body(hashlib.sha256(body).hexdigest(), value, images)


_IMAGE = re.compile(rb'("data:image/[\w.+-]+);base64,([^"]*)"')  # one character that may not be: this reads fast


def _sha256_of_base64(data: bytes) -> str:
    try:
        return hashlib.sha256(binascii.a2b_base64(data)).hexdigest()
    except binascii.Error:
        return ""


@dataclass(frozen=True, slots=True)
class Question:
    """A chat request, as far as the answer depends on it."""

    digest: str
    model: str
    first_option: str
    """Of the prompt's list of options; "something" without one."""
    images: list[str]
    prompt_tokens: int


def read_question(body: Body) -> Question:
    """ValueError, to be told to the client, for a body that is no chat request."""
    value = body.value
    if not isinstance(value, dict) or not isinstance(value.get("messages"), list):
        raise ValueError("the body is no JSON object with messages")
    if value.get("stream"):
        raise ValueError("this server does not stream")
    prompt = "\n".join(_texts(value["messages"]))
    options = _OPTIONS.search(prompt)
    first_option = (options[1].strip() if options else "") or "something"
    tokens = tokens_of(prompt) + 85 * len(body.images)  # OpenAI's flat part of an image
    return Question(body.digest, str(value.get("model")), first_option, body.images, tokens)


_OPTIONS = re.compile(r"options:\s*([^,\n]*)", re.IGNORECASE)


def _texts(messages: list[Any]) -> Iterator[str]:
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, str):
            yield content
        elif isinstance(content, list):
            yield from (str(part["text"]) for part in content if isinstance(part, dict) and "text" in part)


def tokens_of(text: str) -> int:
    """About how many tokens English text has: one for four characters."""
    return -(-len(text) // 4)
