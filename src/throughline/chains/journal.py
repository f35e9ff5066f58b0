"""The chain journal: append-only JSONL, one file for each writer, so that nothing that was once generated or paid
for is lost or asked for again. Teachers and self-labelling append; everything downstream reads the merged records.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import ValidationError

from throughline.chains.records import (
    KINDS,
    SCHEMA,
    Candidate,
    Header,
    Record,
    Usage,
    Verdict,
    candidate_key,
    classes_sha256,
    make_header,
)
from throughline.core.errors import ThroughlineError
from throughline.core.files import canonical_json, told_in_one_line

if sys.platform != "win32":
    import fcntl

__all__ = [
    "Candidate",
    "Header",
    "Journal",
    "JournalWriter",
    "Problem",
    "Usage",
    "Verdict",
    "candidate_key",
    "classes_sha256",
    "journal_files",
    "make_header",
    "read_journal",
    "scan_journal",
]


class JournalWriter:
    """Appends records to one journal file. Each line is handed to the system whole at once, so that a killed
    process loses none; every `flush_every` lines the disk is made to hold them, which a power cut asks for.

    Opening repairs a last line that a kill tore: its bytes move to `<name>.torn`. ThroughlineError when the place
    cannot be written, or another writer holds the file.
    """

    def __init__(self, path: Path, flush_every: int = 16) -> None:
        if flush_every < 1:
            raise ValueError("flush_every counts lines, from 1")
        self.path = path
        self.torn = 0
        """How many torn bytes the opening moved aside."""
        self._flush_every, self._unflushed = flush_every, 0
        with told_in_one_line(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o644)
        try:
            self._lock()
            with told_in_one_line(path):
                self._repair()
        except BaseException:
            os.close(self._handle)
            raise

    def write(self, *records: Record) -> None:
        """Appends records; after a failure (full disk) the file ends where it ended before them."""
        data = b"".join(record.line().encode() + b"\n" for record in records)
        with told_in_one_line(self.path):
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
        with told_in_one_line(self.path):
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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _lock(self) -> None:
        # Windows has no such lock: one writer per file is then up to the user
        if sys.platform != "win32":
            try:
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise ThroughlineError(
                    "another writer holds this journal",
                    self.path,
                    "wait for it, or give each writer a shard of its own",
                ) from error

    def _repair(self) -> None:
        whole, last = _last_line(self.path)
        if not last:
            return
        if isinstance(_parsed(last), dict):
            os.write(self._handle, b"\n")  # only the line break was lost
            return
        with self.path.with_name(self.path.name + ".torn").open("ab") as aside:
            aside.write(last + b"\n")
            aside.flush()
            os.fsync(aside.fileno())
        os.ftruncate(self._handle, whole)
        self.torn = len(last)


_BLOCK = 1 << 16


def _last_line(path: Path) -> tuple[int, bytes]:
    """Where the bytes after the last line break begin, and these bytes; a long journal is not read for that."""
    with path.open("rb") as file:
        start, last = file.seek(0, os.SEEK_END), b""
        while start > 0:
            size = min(_BLOCK, start)
            start = file.seek(start - size)
            last = file.read(size) + last
            if (found := last.rfind(b"\n")) >= 0:
                return start + found + 1, last[found + 1 :]
        return 0, last


@dataclass(frozen=True)
class Problem:
    """A line that could not be used; nothing is dropped without one."""

    path: Path
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.what}"


@dataclass(frozen=True)
class Journal:
    """The records of one or more journal files, in reading order, without duplicates."""

    headers: tuple[Header, ...]
    candidates: tuple[Candidate, ...]
    """One for each (key, sample_id): the first read that did not fail."""
    verdicts: tuple[Verdict, ...]
    """One for each (key, sample_id, rule): the last read, since rules can be applied again."""
    problems: tuple[Problem, ...] = ()
    duplicates: int = 0
    """How many candidate lines share their (key, sample_id) with another; one of each stands."""

    def by_key(self) -> dict[tuple[str, str], Candidate]:
        """Candidates by (key, sample_id): what need not be asked for again."""
        return {(candidate.key, candidate.sample_id): candidate for candidate in self.candidates}

    def accepted(self, rule: str) -> tuple[Candidate, ...]:
        """The candidates that the rule called `rule` keeps."""
        kept = {
            (verdict.key, verdict.sample_id) for verdict in self.verdicts if verdict.rule == rule and verdict.accepted
        }
        return tuple(candidate for candidate in self.candidates if (candidate.key, candidate.sample_id) in kept)


def journal_files(folder: Path) -> list[Path]:
    """The journals of a folder (`journal-<shard>.jsonl`), in name order."""
    return sorted(folder.glob("journal-*.jsonl"))


def read_journal(paths: Path | Iterable[Path]) -> Journal:
    """Reads and merges journal files; a folder stands for its `journal-<shard>.jsonl`.

    Lines that cannot be used (no JSON, unknown kind, wrong fields, torn) are listed in `problems` with file and
    line number. Two candidates of one (key, sample_id) with different texts are a problem too; the first stands.
    ThroughlineError for a file that cannot be read, and for a line of a newer schema than this version knows.
    """
    headers: dict[str, Header] = {}
    candidates: dict[tuple[str, str], Candidate] = {}
    verdicts: dict[tuple[str, str, str], Verdict] = {}
    problems: list[Problem] = []
    duplicates = 0
    for path, number, record in scan_journal(paths):
        if isinstance(record, Problem):
            problems.append(record)
        elif isinstance(record, Header):
            headers.setdefault(record.line(), record)
        elif isinstance(record, Verdict):
            identity = (record.key, record.sample_id, record.rule)
            verdicts.pop(identity, None)  # the last one read also takes the last place
            verdicts[identity] = record
        else:
            first = candidates.setdefault((record.key, record.sample_id), record)
            if first is record:
                continue
            duplicates += 1
            if first.failed:  # asked again after the failure: the answer stands
                candidates[record.key, record.sample_id] = record
            elif first.text != record.text and not record.failed:
                what = f"another text for a key already read ({record.key}, {record.sample_id})"
                problems.append(Problem(path, number, what))
    return Journal(
        tuple(headers.values()),
        tuple(candidates.values()),
        tuple(verdicts.values()),
        tuple(problems),
        duplicates,
    )


def scan_journal(paths: Path | Iterable[Path]) -> Iterator[tuple[Path, int, Record | Problem]]:
    """Every line that holds anything, one after the other with its file and number (from 1), in a line's memory.

    Nothing is merged: `read_journal` does that. Raises as it does.
    """
    given = [paths] if isinstance(paths, Path) else list(paths)
    for path in (file for one in given for file in (journal_files(one) if one.is_dir() else [one])):
        for number, data in _lines(path):
            yield path, number, _record(path, number, data)


_BOM = b"\xef\xbb\xbf"


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbered lines (from 1) that hold anything. Split at line feeds only: U+2028 inside a text is no line end."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                data = line.removeprefix(_BOM)  # of any line: files may have been put together
                if data.strip():
                    yield number, data
    except OSError as error:
        raise ThroughlineError(f"cannot read the journal: {error.strerror}", path, "name an existing file") from error


class _Unfit(ValueError):
    """JSON that is of no use here; the text says why."""


_DEEPEST = 100
"""Levels of a line. Pydantic writes 255; no field of ours has more than three."""


def _parsed(data: bytes) -> dict[str, Any] | str:
    """The JSON object of a line, or the reason why there is none."""
    try:
        return _object(data)
    except _Unfit as error:
        return str(error)
    except UnicodeDecodeError:
        return "not UTF-8"
    except (json.JSONDecodeError, RecursionError):
        return "not JSON; a torn line, if it is the last"
    except ValueError:  # of int(): see sys.set_int_max_str_digits
        return "a whole number of more digits than Python reads"


def _object(data: bytes) -> dict[str, Any]:
    """What can be written again as it was read; the two searches of the bytes hardly ever find anything."""
    value = _DECODER.decode(data.removeprefix(_BOM).decode())
    if not isinstance(value, dict):
        raise _Unfit("not a JSON object")
    if data.count(b"[") + data.count(b"{") > _DEEPEST and _depth(value) > _DEEPEST:
        raise _Unfit(f"nested deeper than {_DEEPEST} levels")
    if b"\\ud" in data or b"\\uD" in data:
        try:
            canonical_json(value).encode()
        except UnicodeEncodeError:
            raise _Unfit("half of a surrogate pair, which is no Unicode") from None
    return value


def _not_finite(name: str) -> float:
    raise _Unfit(f"{name} is no number of JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    return number if math.isfinite(number) else _not_finite("a number beyond all floats")


_DECODER = json.JSONDecoder(parse_constant=_not_finite, parse_float=_finite)


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level:
        depth += 1
        within = [one.values() if isinstance(one, dict) else one if isinstance(one, list) else () for one in level]
        level = [inner for values in within for inner in values]
    return depth


def _record(path: Path, number: int, data: bytes) -> Record | Problem:
    value = _parsed(data)
    if isinstance(value, str):
        return Problem(path, number, value)
    schema = value.get("schema")
    if not isinstance(schema, int) or isinstance(schema, bool):
        return Problem(path, number, "no schema version")
    if schema > SCHEMA:
        raise ThroughlineError(
            f"journal schema {schema} is newer than this version's {SCHEMA}",
            f"{path}:{number}",
            "update throughline",
        )
    kind = value.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        return Problem(path, number, f"unknown kind {str(kind)[:80]!r}")
    try:
        return KINDS[kind].model_validate(value)
    except ValidationError as error:
        fault = error.errors()[0]
        return Problem(path, number, f"{kind}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}")
