"""Text of another's hand: JSON that a file may hold; and words in a message, a table or a dataset card: short, and
nothing that could steer a terminal."""

import json
import re
from typing import Any

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What moves a cursor or turns the direction of writing; not the tab and the line break."""


def json_object(data: bytes) -> dict[str, Any] | None:
    """The JSON object in some bytes; None where there is none."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def printable(text: str, most: int = 80) -> str:
    """The text as one line of at most `most` characters; what does not print is spelt as Python spells it."""
    text = text[: most + 1]  # it may be a megabyte
    text = text if text.isprintable() else repr(text)[1:-1]
    return text if len(text) <= most else text[: most - 1] + "…"


def quoted(value: object, most: int = 80) -> str:
    """Any value of a file, as Python spells it."""
    return printable(repr(value[:most] if isinstance(value, str) else value), most)


def visible(text: str) -> str:
    """The text in all its lines, without its control characters."""
    return _CONTROL.sub("\ufffd", text)
