"""A folder of images that appears whole or not at all, for the writers of this room."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from throughline.errors import ThroughlineError
from throughline.files import told_in_one_line


@contextlib.contextmanager
def staged_folder(out: Path, keep: bool = False) -> Iterator[Path]:
    """Yields a hidden folder beside `out` to write into and renames it to `out` at the end.

    What an earlier, killed run left there is removed first and what a failure leaves is removed after,
    unless `keep` says that the writer continues from it. Raises a ThroughlineError when `out` already
    holds something or cannot be written.
    """
    out = out.absolute()
    require_free(out)
    stage = out.parent / f".{out.name}.partial"
    with told_in_one_line(out):
        if stage.exists() and not keep:
            shutil.rmtree(stage)
        stage.mkdir(parents=True, exist_ok=True)
    try:
        yield stage
        with told_in_one_line(out):
            stage.replace(out)
    except BaseException:
        if not keep:
            shutil.rmtree(stage, ignore_errors=True)
        raise


def require_free(out: Path) -> None:
    """Raises a ThroughlineError unless `out` is absent or an empty folder."""
    with told_in_one_line(out):
        if out.is_dir() and any(out.iterdir()):
            raise ThroughlineError("the folder is not empty", out, "name a new one")
        if (out.exists() or out.is_symlink()) and not out.is_dir():
            raise ThroughlineError("a file is in the way of the folder", out, "name another one")
