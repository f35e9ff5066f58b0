"""The chain journal: append-only JSONL, one file for each writer, so that nothing that was once generated or paid
for is lost or asked for again. Teachers and self-labelling append through `JournalWriter`; `store` folds what
`read_lines` and `parse_line` read.
"""

import math
import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from pydantic import ValidationError
from pydantic_core import from_json

from throughline.chains.records import KINDS, SCHEMA, Record
from throughline.core.errors import ThroughlineError
from throughline.core.files import readable_os_errors
from throughline.core.locks import take_lock


class JournalWriter:
    """Appends records to one journal file. Each line is handed to the system whole at once, so that a killed
    process loses none; every `flush_every` lines the disk is made to hold them, which a power cut asks for.

    Opening repairs a last line that a kill tore: its bytes move to `<name>.torn`. ThroughlineError when the place
    cannot be written, or another writer holds the file.
    """

    def __init__(self, path: Path, flush_every: int = 16) -> None:
        self.path = path
        self._flush_every, self._unflushed = flush_every, 0
        with readable_os_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o644)
        try:
            with readable_os_errors(path):
                if not take_lock(self._handle):
                    do = "wait for it, or give each writer a shard of its own"
                    raise ThroughlineError("another process is writing this journal", path, do)
                self._repair()
        except BaseException:
            os.close(self._handle)
            raise

    def write(self, *records: Record) -> None:
        """Appends records; after a failure (full disk) the file ends where it ended before them."""
        data = b"".join(record.line().encode() + b"\n" for record in records)
        with readable_os_errors(self.path):
            size = os.fstat(self._handle).st_size
            try:
                written = 0
                while written < len(data):
                    written += os.write(self._handle, data[written:])
            except OSError:
                os.ftruncate(self._handle, size)
                raise
        self._unflushed += len(records)
        if self._unflushed >= self._flush_every:
            self.flush()

    def flush(self) -> None:
        """Makes the disk hold everything written so far."""
        with readable_os_errors(self.path):
            os.fsync(self._handle)
        self._unflushed = 0

    def close(self) -> None:
        """Flushes and lets the file go; closing twice does nothing."""
        if self._handle < 0:
            return
        try:
            self.flush()
        finally:
            os.close(self._handle)  # lets go of the lock as well
            self._handle = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _repair(self) -> None:
        whole, last = _last_line(self.path)
        if not last:
            return
        if isinstance(_json_object(last), dict):
            os.write(self._handle, b"\n")  # only the line break was lost
            return
        with self.path.with_name(self.path.name + ".torn").open("ab") as aside:
            aside.write(last + b"\n")
            aside.flush()
            os.fsync(aside.fileno())
        os.ftruncate(self._handle, whole)


def _last_line(path: Path) -> tuple[int, bytes]:
    """Where the bytes after the last line break begin, and these bytes; a long journal is not read for that."""
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:  # nothing to map
            return 0, b""
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            start = content.rfind(b"\n") + 1
            return start, content[start:]


@dataclass(frozen=True)
class Problem:
    """A line that could not be used; nothing is dropped without one."""

    path: Path
    line: int | None
    """From 1; None where it is about the whole file."""
    what: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.what}"


def journal_files(path: Path) -> list[Path]:
    """The journals of a folder (`journal-<shard>.jsonl`) in name order; any other path stands for itself."""
    return sorted(path.glob("journal-*.jsonl")) if path.is_dir() else [path]


def require_journals(store: Path) -> list[Path]:
    """The journal files of a store, or the one journal. ThroughlineError where there is none."""
    files = journal_files(store) if store.exists() else []
    if not files:
        raise ThroughlineError("no chain journal here", store, "name a folder of journal-*.jsonl or one such file")
    return files


class Line(NamedTuple):
    """A line of a journal that holds anything, as it stands in the file."""

    number: int
    """From 1."""
    offset: int
    """Bytes of the file before it."""
    data: bytes
    """Byte order mark and line end included."""


BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_lines(path: Path, what: str = "journal") -> Iterator[Line]:
    """The lines of a journal, or of `what` else has lines, one in memory at a time. ThroughlineError when the file
    cannot be read.

    Split at line feeds only: U+2028 inside a text is no line end.
    """
    offset = 0
    try:
        with path.open("rb") as file:
            for number, data in enumerate(file, start=1):
                if data.removeprefix(BYTE_ORDER_MARK).strip():
                    yield Line(number, offset, data)
                offset += len(data)
    except OSError as error:
        raise ThroughlineError(f"cannot read the {what}: {error.strerror}", path, "name an existing file") from error


def parse_line(path: Path, line: Line) -> Record | Problem:
    """The record in a line, or why there is none. ThroughlineError for a newer schema than this version knows."""
    value = _json_object(line.data)
    if isinstance(value, str):
        return Problem(path, line.number, value)
    schema = value.get("schema")
    if not isinstance(schema, int) or isinstance(schema, bool):
        return Problem(path, line.number, "no schema version")
    if schema > SCHEMA:
        raise ThroughlineError(
            f"journal schema {schema} is newer than this version's {SCHEMA}",
            f"{path}:{line.number}",
            "update throughline",
        )
    kind = value.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        return Problem(path, line.number, f"unknown kind {str(kind)[:80]!r}")
    try:
        return KINDS[kind].model_validate(value)
    except ValidationError as error:
        fault = error.errors()[0]
        return Problem(path, line.number, f"{kind}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}")


def _json_object(data: bytes) -> dict[str, Any] | str:
    """The JSON object of a line, or the reason why there is none that could be written again as it was read."""
    content = data.removeprefix(BYTE_ORDER_MARK)  # of any line: files may have been put together
    try:
        content.decode()
        value = from_json(content, allow_inf_nan=False)
    except UnicodeDecodeError:
        return "not UTF-8"
    except ValueError as error:
        return f"not JSON ({error})"
    if not isinstance(value, dict):
        return "not a JSON object"
    return "a number beyond all floats" if _is_infinite(value) else value


def _is_infinite(value: Any) -> bool:
    """Whether any number in it is: `1e999` is valid JSON."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return value in (math.inf, -math.inf) or any(map(_is_infinite, inner))
