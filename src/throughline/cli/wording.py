"""Small words of what verbs say."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """`1 file`, `1,200 files`: for nouns with a regular plural."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
