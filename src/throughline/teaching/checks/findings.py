"""What a check finds wrong or worth knowing, with its place in a file. Filled by `journals` and `exports`,
given out by `check`.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from throughline.teaching.printable import printable


class Finding(BaseModel):
    """One thing that was found, or the first of several alike."""

    model_config = ConfigDict(frozen=True)

    kind: str
    what: str
    """What it repeats of a file is shortened and printable."""
    path: str
    place: int | None = None
    """The line of a journal or the row of a Parquet file, from 1; None where it is about the whole."""
    count: int = 1

    def __str__(self) -> str:
        where = printable(self.path, 1_000) + ("" if self.place is None else f":{self.place}")
        return f"{where}: {self.what}" + (f" (the first of {self.count:,})" if self.count > 1 else "")


class Findings:
    """Problems and notes; of each kind the first `limit` are listed, all are counted."""

    def __init__(self, limit: int) -> None:
        self.problems: list[Finding] = []
        self.counts: Counter[str] = Counter()
        self.ok = True
        self._limit = limit
        self._listed: Counter[str] = Counter()
        self._notes: dict[tuple[str, str], Finding] = {}

    @property
    def notes(self) -> list[Finding]:
        """In the order in which they were found first."""
        return list(self._notes.values())

    def problem(self, kind: str, what: str, path: Path, place: int | None = None) -> None:
        """Something that cannot be used or would be misread."""
        self.ok = False
        self.counts[kind] += 1
        if self._has_room(kind):
            self.problems.append(Finding(kind=kind, what=what, path=named(path), place=place))

    def note(self, kind: str, what: str, path: Path, place: int | None = None) -> None:
        """Something worth knowing; notes of the same words are counted with the first."""
        self.counts[kind] += 1
        first = self._notes.get((kind, what))
        if first is not None:
            self._notes[kind, what] = first.model_copy(update={"count": first.count + 1})
        elif self._has_room(kind):
            self._notes[kind, what] = Finding(kind=kind, what=what, path=named(path), place=place)

    def _has_room(self, kind: str) -> bool:
        self._listed[kind] += 1
        return self._listed[kind] <= self._limit


def named(path: Path) -> str:
    """A path as JSON can hold it: file names need not be Unicode."""
    return str(path).encode(errors="backslashreplace").decode()
