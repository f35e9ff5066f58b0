"""Gets an archive from the first of its sources that gives the pinned bytes, and keeps it: a source is an address, or a
package of PyPI, npm or Debian, for which the package client that is there is called.

`data fetch` calls `obtain` for every archive that it needs. A file is accepted by its checksum alone, so what a dead or
changed source costs is the way to the next one. Where no checksum of it is known, who calls has to check the content.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import httpx2

from throughline.core.errors import ThroughlineError
from throughline.core.files import content_hash, file_sha256, in_threads, locked, readable_os_errors

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "throughline" / "archives"
"""Where archives are kept by default."""
CLIENTS: Mapping[str, tuple[str, ...]] = {
    # only a wheel: making one from a source package would run the package's own code
    "pip": ("pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"),
    "npm": ("npm", "pack", "--silent"),
    "apt": ("apt-get", "download", "--quiet"),
}
"""By kind of source the command that downloads a package into the folder where it is started."""
LARGEST = 200 * 2**30
"""Bytes of a download whose size is not known before."""


@dataclass(frozen=True)
class Package:
    """An archive by its content: its SHA-256, else its MD5, and its size, empty or 0 where these are not known.
    `sources` are tried in their order: `npm:name@version`, `pip:name==version`, `apt:name=version`, or an address."""

    name: str
    sha256: str = ""
    bytes: int = 0
    sources: tuple[str, ...] = ()
    md5: str = ""

    @property
    def checksum(self) -> str:
        """The one that is known, or nothing."""
        return self.sha256 or self.md5

    def fault(self, file: Path) -> str | None:
        """Why a file is not this archive, or None. Without a checksum only its size, where that is known, and that it
        is no web page, such as a form to confirm the download with, say so."""
        kind, size = "SHA-256" if self.sha256 else "MD5", file.stat().st_size
        with file.open("rb") as opened:
            if self.checksum:
                same = hashlib.file_digest(opened, kind.replace("-", "")).hexdigest() == self.checksum
                return None if same else f"it has other bytes than those pinned by {kind} {self.checksum[:12]}…"
            if opened.read(64).lstrip().lower().startswith((b"<!doctype", b"<html")):
                return "it is a web page"
        return None if size == (self.bytes or size) else f"it has {size:,} bytes instead of {self.bytes:,}"


def obtain(package: Package, cache: Path = CACHE, given: Mapping[str, Path] | None = None) -> Path:
    """The file with the package's bytes: one of those `given` by SHA-256 or name, or in `cache`, or a new one there.

    A download that was cut goes on where it stopped. Raises a ThroughlineError that says why no source gave it.
    """
    given, kept = given or {}, cache / (package.checksum or content_hash([package.name, *package.sources]))
    for file in filter(None, (given.get(package.sha256), given.get(package.name), kept)):
        if file.is_file() and package.fault(file) is None:
            return file
    with readable_os_errors(cache):
        cache.mkdir(parents=True, exist_ok=True)
    faults, queue = dict[str, str](), list(package.sources)
    for source in queue:
        kind, _, what = source.partition(":")
        # what one source gave is continued by another only where both give the same bytes
        part = cache / f"{package.checksum or content_hash([package.name, source])}.part"
        with readable_os_errors(cache), locked(cache, "another process downloads archives"):
            part.touch()
            before = part.stat().st_size
            try:
                if kind in CLIENTS:
                    _ask_client(_client(kind), what, part)
                else:
                    _download(source, part, package.bytes or LARGEST)
            except (httpx2.HTTPError, httpx2.InvalidURL, _SourceFault) as error:
                faults[source] = str(error).partition("\n")[0] or type(error).__name__
                if part.stat().st_size > before:
                    queue.append(source)  # it was cut, and goes on after the others
                continue
            fault = package.fault(part)
            if fault is None:
                part.replace(kept)
                return kept
            part.write_bytes(b"")
            if before:
                queue.append(source)  # what an earlier attempt had left may have been wrong
        faults[source] = fault
    what = "; ".join(f"{source}: {fault}" for source, fault in faults.items())
    remedy = "get that file in another way and name its folder with --archives"
    raise ThroughlineError(f"cannot get the archive {package.name}", what, remedy)


def files_by_hash(folder: Path) -> dict[str, Path]:
    """The files of a folder by name and by SHA-256, for `obtain`. Raises a ThroughlineError where there is none."""
    with readable_os_errors(folder):
        files = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
    if not files:
        raise ThroughlineError("no files in the folder of archives", folder, "name the folder you downloaded to")
    return {path.name: path for path in files} | dict(zip(in_threads(file_sha256, files), files, strict=True))


class _SourceFault(Exception):
    """Why a source gave nothing; the next one is tried."""


def _client(kind: str) -> tuple[str, ...]:
    """The command of a package client that is there: this Python's own pip, or else, as in an environment made by uv,
    any that is in the PATH."""
    name, *options = CLIENTS[kind]
    if kind == "pip" and find_spec("pip"):
        return sys.executable, "-m", name, *options
    program = shutil.which(name)
    if program is None:
        remedy = f": {Path(sys.executable).name} -m ensurepip" if kind == "pip" else ""
        raise _SourceFault(f"{name} is not installed{remedy}")
    return program, *options


def _ask_client(command: tuple[str, ...], what: str, part: Path) -> None:
    """Has a package client download a package; its one file becomes `part`."""
    with tempfile.TemporaryDirectory(dir=part.parent) as folder:
        call = [*command, what]
        ended = subprocess.run(call, cwd=folder, capture_output=True, text=True, check=False)
        files = list(Path(folder).iterdir())
        if ended.returncode or len(files) != 1:
            lines = ended.stderr.strip().splitlines() or ["it wrote no file"]
            raise _SourceFault(lines[-1])
        shutil.move(files[0], part)


def _download(address: str, part: Path, size: int) -> None:
    """Downloads `size` bytes at most; what an earlier attempt left in `part` is kept and continued."""
    there = part.stat().st_size
    if there >= size:
        return
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={there}-"} if there else {})}
    with httpx2.stream("GET", address, headers=headers, follow_redirects=True, timeout=60) as response:
        if response.status_code == httpx2.codes.RANGE_NOT_SATISFIABLE:  # there is no byte behind these
            if response.headers.get("Content-Range") == f"bytes */{there}":
                return
            part.write_bytes(b"")  # of a file that has changed since
        response.raise_for_status()
        there = there if response.status_code == httpx2.codes.PARTIAL_CONTENT else 0
        with part.open("ab" if there else "wb") as file:
            for block in response.iter_raw():
                there += len(block)
                if there > size:
                    raise _SourceFault(f"more than the {size:,} bytes that the archive has")
                file.write(block)
