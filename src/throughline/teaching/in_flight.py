"""Which requests are under way, on disk, so that a kill's losses can be counted by whoever comes next.

One small file for each writer beside its journal: a line for the count of all requests ever lost, then a line for each
request under way. A line is written in place when a request leaves and blanked when its answer is in the journal, so
what stands there when the file is opened was sent and never recorded: paid for perhaps, and lost.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from throughline.core.files import readable_os_errors
from throughline.teaching.teachers import Flight

WIDTH = 64
"""Characters of a key (SHA-256, hex) and of every line."""
_BLANK = b" " * WIDTH + b"\n"


def lost_in(store: Path) -> int:
    """Requests lost by the kills of all writers of a store, as far as their losses were counted."""
    files = sorted(store.glob("in-flight-*.txt"))
    return sum(_count(path.read_text("ascii", errors="replace").splitlines()) for path in files)


def _count(lines: Sequence[str]) -> int:
    first = lines[0].removeprefix("lost").strip() if lines else ""
    return int(first) if first.isdecimal() else 0


class InFlight(Flight):
    """The file, open for one writer."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with readable_os_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            content = path.read_bytes() if path.is_file() else b""
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644)
        lines = content.decode("ascii", errors="replace").splitlines()
        self._lost = _count(lines)
        self.under_way = frozenset(line.strip() for line in lines[1:] if line.strip())
        """Keys that were under way when the last writer died."""
        self._slots: dict[str, int] = {}
        self._free: list[int] = []

    def settle(self, recorded: Iterable[str]) -> None:
        """Counts the found keys that are not in the journal as lost, and starts afresh."""
        lost = self._lost + len(self.under_way - frozenset(recorded))
        self._write(0, f"lost {lost}".ljust(WIDTH).encode() + b"\n")
        with readable_os_errors(self.path):
            os.ftruncate(self._handle, len(_BLANK))

    def sent(self, key: str) -> None:
        """Notes that the request is on its way."""
        if key in self._slots:
            return
        slot = self._free.pop() if self._free else len(self._slots) + 1
        self._slots[key] = slot
        self._write(slot, key.ljust(WIDTH).encode() + b"\n")

    def returned(self, key: str) -> None:
        """Blanks the request's line."""
        slot = self._slots.pop(key, None)
        if slot is not None:
            self._free.append(slot)
            self._write(slot, _BLANK)

    def close(self) -> None:
        """Requests that were cancelled keep their lines: they are lost."""
        os.close(self._handle)

    def _write(self, slot: int, line: bytes) -> None:
        with readable_os_errors(self.path):
            os.lseek(self._handle, slot * len(_BLANK), os.SEEK_SET)
            os.write(self._handle, line)
