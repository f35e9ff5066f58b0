"""A table as data: made where its numbers are known, rendered by `reporting` for terminal, Markdown, LaTeX and page."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")

MISSING = "X"
"""Stands where there is no number."""


@dataclass(frozen=True)
class Table:
    """A finished table: every cell is text, the first column names the row."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def tabulate(
    title: str, items: Iterable[Item], columns: Mapping[str, Callable[[Item], str]], notes: tuple[str, ...] = ()
) -> Table:
    """A row for each item; `columns` gives for each heading what stands under it."""
    rows = tuple(tuple(cell(item) for cell in columns.values()) for item in items)
    return Table(title, tuple(columns), rows, notes)
