"""Unpacks an archive (zip, tar in any compression, Debian package, Qt resource file) without trusting it: nothing is
written outside the folder, no link is made, and size and number of files are bounded.
"""

import contextlib
import io
import lzma
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, cast

from throughline.core.errors import ThroughlineError
from throughline.core.files import readable_os_errors

LIMITS = (1_000_000, 200 * 2**30)
"""Files and bytes of one archive, unpacked: DomainNet, the largest benchmark, has 587,000 images."""
LARGEST_FILE = 2**28
"""Bytes of a file that is read into memory."""

_NO_ARCHIVE = tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error
_BROKEN = *_NO_ARCHIVE, EOFError, OSError, RuntimeError, ValueError, LookupError
"""What the readers raise for bytes that are no archive of their kind: an encrypted zip gives a RuntimeError."""

_Opener = Callable[[tarfile.TarInfo], IO[bytes]]
Members = Iterator[tuple[str, int, Callable[[], IO[bytes]]]]
"""Name, size and content of each ordinary file of an archive."""


def unpack(
    archive: Path, folder: Path, wanted: Callable[[str], object] = bool, limits: tuple[int, int] = LIMITS
) -> list[PurePosixPath]:
    """Writes the archive's ordinary files whose names are `wanted` below `folder`; gives their names, in its order.

    Links and devices are passed over. Raises a ThroughlineError for an archive that is broken, that names a file
    outside the folder, or that is larger than allowed.
    """
    written = list[PurePosixPath]()
    with _readable(archive):
        for path, _, open_file in _wanted_members(archive, wanted, limits):
            target = folder / path
            with readable_os_errors(target):
                target.parent.mkdir(parents=True, exist_ok=True)
                with open_file() as source, target.open("wb") as file:
                    shutil.copyfileobj(source, file)
            written.append(path)
    return written


def read_files(
    archive: Path, wanted: Callable[[str], object] = bool, limits: tuple[int, int] = LIMITS, largest: int = LARGEST_FILE
) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Name and content of each file that `unpack` would write, one at a time; none may have more than `largest` bytes.
    Raises as `unpack` does."""
    with _readable(archive):
        for path, size, open_file in _wanted_members(archive, wanted, limits):
            if size > largest:
                raise ThroughlineError(f"{path} has {size:,} bytes, more than {largest:,}", archive, "do not use it")
            with open_file() as source:
                data = source.read()
            yield path, data


@contextlib.contextmanager
def _readable(archive: Path) -> Iterator[None]:
    try:
        yield
    except _BROKEN as error:
        raise ThroughlineError(f"the archive cannot be unpacked ({error})", archive, "remove it and repeat") from error


def _wanted_members(
    archive: Path, wanted: Callable[[str], object], limits: tuple[int, int]
) -> Iterator[tuple[PurePosixPath, int, Callable[[], IO[bytes]]]]:
    most, left = limits
    for name, size, open_file in _members(archive):
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in path.parts[0]:
            raise ThroughlineError(f"the archive names {name!r}, outside its folder", archive, "do not use it")
        if not wanted(str(path)):
            continue
        most, left = most - 1, left - size
        if left < 0 or most < 0:
            raise ThroughlineError("more than {:,} files or {:,} bytes".format(*limits), archive, "do not use it")
        yield path, size, open_file


def _members(archive: Path) -> Members:
    with archive.open("rb") as file:
        start = file.read(8)
        file.seek(0)
        if start.startswith(b"PK"):
            with zipfile.ZipFile(file) as opened:
                for entry in opened.infolist():
                    if not (entry.is_dir() or stat.S_ISLNK(entry.external_attr >> 16)):
                        yield entry.filename, entry.file_size, partial(opened.open, entry)
        elif start.startswith(b"qres"):
            yield from _qt_members(file.read())
        else:
            if start == b"!<arch>\n":
                _seek_debian_data(file)
            with tarfile.open(fileobj=file) as tar:
                for member in tar:
                    if member.isreg():
                        # it gives None for links and devices alone
                        yield member.name, member.size, partial(cast(_Opener, tar.extractfile), member)


def _seek_debian_data(file: IO[bytes]) -> None:
    """A Debian package is an `ar` archive; its files are in the member data.tar, which is the last one."""
    file.seek(8)
    while header := file.read(60):
        if header.startswith(b"data.tar"):
            return
        size = int(header[48:58])
        file.seek(size + size % 2, io.SEEK_CUR)
    raise EOFError("no data in this Debian package")


def _qt_members(data: bytes) -> Members:
    """The files in a Qt resource file (`rcc --binary`): a tree of entries, their contents, their names in UTF-16.

    Offsets are from the file's start, numbers big-endian; https://github.com/qt/qtbase, `src/tools/rcc/rcc.cpp`.
    """
    version, tree, contents, names = struct.unpack_from(">4I", data, 4)
    entry_size = 14 if version < 2 else 22  # since version 2 an entry has a time

    def walk(number: int, folder: PurePosixPath) -> Members:
        place = tree + entry_size * number
        name, flags, first, second = struct.unpack_from(">IHII", data, place)
        length = 2 * struct.unpack_from(">H", data, names + name)[0]
        path = folder / data[names + name + 6 :][:length].decode("utf-16-be") if number else folder
        if flags & 2:  # a folder: so many entries from that one
            for inside in range(max(second, number + 1), second + first):
                yield from walk(inside, path)
            return
        start = contents + second
        size = struct.unpack_from(">I", data, start)[0]
        content = data[start + 4 :][:size]
        if flags & 4:
            raise ValueError("compressed with Zstandard")
        if flags & 1:  # zlib, behind its size
            size = struct.unpack_from(">I", content)[0]
            content = zlib.decompressobj().decompress(content[4:], size)
        yield str(path), size, partial(io.BytesIO, content)

    yield from walk(0, PurePosixPath())
