"""Somebody's text in a message or a table: short, and nothing that could steer the terminal. Called by the check of
stores and exports and by the tables of `chains stats`.
"""

from __future__ import annotations


def printable(text: str, most: int = 80) -> str:
    """The text as one line of at most `most` characters; what does not print is spelt as Python spells it."""
    text = text[: most + 1]  # it may be a megabyte
    text = text if text.isprintable() else repr(text)[1:-1]
    return text if len(text) <= most else text[: most - 1] + "…"


def quoted(value: object, most: int = 80) -> str:
    """Any value of a file, as Python spells it."""
    return printable(repr(value[:most] if isinstance(value, str) else value), most)
