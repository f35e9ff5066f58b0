"""Files that are whole or absent: atomic writes, content hashes, JSON lines. Used by every room."""

import contextlib
import errno
import hashlib
import itertools
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from throughline.core.errors import ThroughlineError
from throughline.core.locks import take_lock

Item = TypeVar("Item")
Result = TypeVar("Result")

_DRAFT = re.compile(r"\..+\.[a-z0-9_]{8}")
"""What `write_atomically` calls its file before it is whole; the end is the system's."""

_FULL_DISK = re.compile("|".join([os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT), "iostream error"]))
"""What errors say then: Python's and safetensors' in the system's words, torch's in the last ones."""

_UMASK = os.umask(0o077)  # it can only be read by setting it; put back at once, before any thread starts
os.umask(_UMASK)


@contextlib.contextmanager
def readable_os_errors(path: Path) -> Iterator[None]:
    """Turns an operating system error about `path` (full disk, no permission) into a ThroughlineError of one line."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise ThroughlineError(f"cannot write: {reason}", path, "free disk space, or name another place") from error


def full_disk(error: BaseException | None, place: object) -> ThroughlineError | None:
    """The fault behind an error, or behind what it came from, when that is a full disk; None when it is another one.
    `place` stands for a file that the error does not name."""
    while error is not None:
        if words := _FULL_DISK.search(str(error)):
            where = getattr(error, "filename", None) or place
            return ThroughlineError(f"cannot write: {words[0]}", where, "free disk space")
        error = error.__cause__ or error.__context__
    return None


def require_own_folder(out: Path, marks: Iterable[str], what: str) -> None:
    """Raises a ThroughlineError unless `out` is absent, empty, or holds one of `marks`: the names that say it is
    `what`, e.g. a run."""
    with readable_os_errors(out):
        if out.exists() and not out.is_dir():
            raise ThroughlineError(f"a file has the name of the folder of {what}", out, "name another with --out")
        names = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if names and names.isdisjoint(marks):
        raise ThroughlineError(f"the folder holds something else than {what}", out, "name another with --out")


def require_writable(path: Path) -> None:
    """Raises a ThroughlineError now rather than after hours of work when no file can be written at `path`."""
    if path.is_dir():
        raise ThroughlineError("cannot write: a folder has this name", path, "name a file")
    with readable_os_errors(path):
        nearest = next(folder for folder in path.absolute().parents if folder.exists())
        tempfile.TemporaryFile(dir=nearest).close()  # asking for rights says nothing about full or read-only disks


def write_atomically(path: Path, content: str | bytes, durable: bool = True) -> None:
    """Writes beside `path`, flushes to disk, renames: a kill leaves the old file or the new one, never half.

    `durable=False` leaves the flush to the system: for files that can be made again, when there are many of them.
    """
    data = content.encode() if isinstance(content, str) else content
    with readable_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                os.fchmod(file.fileno(), 0o666 & ~_UMASK)  # mkstemp makes private files; ours are ordinary ones
                file.write(data)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def partial_folder(out: Path) -> Path:
    """Where `whole_folder` writes until all is there; kept after a failure where the writer continues from it."""
    return out.parent / f".{out.name}.partial"


@contextlib.contextmanager
def whole_folder(out: Path, keep: bool = False, replace: bool = False) -> Iterator[Path]:
    """A folder that appears whole or not at all: yields a hidden folder beside `out`, and renames it at the end.

    What an earlier, killed run left there is removed first and what a failure leaves is removed after,
    unless `keep` says that the writer continues from it. With `replace` an older folder stands until the new one takes
    its place. Raises a ThroughlineError when `out` already holds something else, when another process writes the same
    folder, or when it cannot be written.
    """
    out = out.absolute()
    if not replace:
        require_free_folder(out)
    stage, old = partial_folder(out), out.parent / f".{out.name}.replaced"
    with readable_os_errors(out):
        stage.mkdir(parents=True, exist_ok=True)
    with locked(stage, "another process is writing this folder"):
        try:
            with readable_os_errors(out):
                for left in () if keep else stage.iterdir():
                    shutil.rmtree(left) if left.is_dir() else left.unlink()
            yield stage
            with readable_os_errors(out):
                if replace and out.exists():
                    shutil.rmtree(old, ignore_errors=True)
                    out.replace(old)
                stage.replace(out)
                shutil.rmtree(old, ignore_errors=True)
        except BaseException:
            if old.exists() and not out.exists():
                old.replace(out)
            if not keep:
                shutil.rmtree(stage, ignore_errors=True)
            raise


@contextlib.contextmanager
def locked(path: Path, what: str, do: str = "wait for it") -> Iterator[None]:
    """Holds a file or folder for this process alone; a ThroughlineError of `what` and `do` when another one has it.

    Windows has no such lock: one writer at a time is then up to the user.
    """
    if sys.platform == "win32":
        yield
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        if not take_lock(handle):
            raise ThroughlineError(what, path, do)
        yield
    finally:
        os.close(handle)


def require_free_folder(out: Path) -> None:
    """Raises a ThroughlineError unless `out` is absent or an empty folder."""
    with readable_os_errors(out):
        if out.is_dir() and any(out.iterdir()):
            raise ThroughlineError("the folder is not empty", out, "name a new one")
        if (out.exists() or out.is_symlink()) and not out.is_dir():
            raise ThroughlineError("a file has the name of this folder", out, "name another one")


def remove_leftovers(folder: Path) -> None:
    """Removes what killed writers left half written in a folder and below. For the only one who writes there."""
    for path in folder.rglob(".*"):
        if _DRAFT.fullmatch(path.name) and path.is_file():
            path.unlink()


def canonical_json(value: Any) -> str:
    """One spelling per value: sorted keys, no spaces, so that equal content has equal hashes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def content_hash(value: Any) -> str:
    """SHA-256 (hex) of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def in_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """`function` of every item, in their order, by some threads: for what waits on a disk or needs no lock of Python's.

    Only a thousand are under way: a future for each of a million files would fill the memory.
    """
    left = iter(items)
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        while some := list(itertools.islice(left, 1000)):
            yield from pool.map(function, some)


def write_json(path: Path, value: Any) -> None:
    """Atomic, indented, sorted JSON."""
    write_atomically(path, json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False) + "\n")


def write_json_lines(path: Path, rows: Iterable[Any]) -> None:
    """Atomic JSONL, one canonical line per row."""
    write_atomically(path, "".join(canonical_json(row) + "\n" for row in rows))


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """All rows of a JSONL file that this project wrote whole; a line that is no JSON object is an error."""
    rows = []
    data = path.read_bytes().removesuffix(b"\n")
    # at line feeds alone: a row may hold other ends of lines, such as U+2028, that JSON does not escape
    for number, line in enumerate(data.split(b"\n") if data else (), start=1):
        try:
            row = json.loads(line.decode())
        except ValueError as error:
            raise ThroughlineError(f"line {number} is not JSON ({getattr(error, 'msg', error)})", path) from error
        if not isinstance(row, dict):
            raise ThroughlineError(f"line {number} is not a JSON object", path)
        rows.append(row)
    return rows
