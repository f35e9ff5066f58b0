"""The field's benchmarks: where each is to be had, how its folder must look, and a writer for rows of the
hub.

`throughline data fetch` prints the one and calls the other; nothing here opens a network connection.
Sources and layouts are those of facebookresearch/DomainBed (`domainbed/scripts/download.py`,
`domainbed/datasets.py`).
"""

import contextlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Any

from throughline.core.errors import ThroughlineError
from throughline.core.files import whole_folder, write_atomically
from throughline.domains.listing import is_folder_name, is_image_name
from throughline.domains.tables import OPTIONAL, Row, image_table

TABLE = "images.csv"
"""Of a written folder whose images have groups or named classes: the same images, with these."""


@dataclass(frozen=True)
class Benchmark:
    """One data set: its domains as folder names, its size, its source, and its name on the hub, if it is
    there.
    """

    name: str
    domains: tuple[str, ...]
    classes: int
    images: str
    source: str
    hub: str | None = None

    def describe(self, folder: Path) -> str:
        """What to download and how it must lie below `folder`, as lines of text."""
        tree = "\n".join(f"  {folder}/{domain}/<class>/<image>" for domain in self.domains)
        hub = f"or from the hub: throughline data fetch {self.name} {folder} --hub   ({self.hub})\n"
        return (
            f"{self.name}: {self.images} images, {len(self.domains)} domains, {self.classes} classes\n"
            f"source: {self.source}\n{hub if self.hub else ''}"
            f"expected layout:\n{tree}\nthen: throughline data check {folder}"
        )


BENCHMARKS = {
    name: Benchmark(name, tuple(row.pop("domains")), **row)
    for name, row in json.loads(resources.files(__package__).joinpath("benchmarks.json").read_text("utf-8")).items()
}
"""By name, in the spelling of the command line; `benchmarks.json` has them as data."""

# What a picture's first bytes say about its format, for rows that come without a file name.
SIGNATURES = ((b"\x89PNG", ".png"), (b"\xff\xd8", ".jpg"), (b"BM", ".bmp"), (b"RIFF", ".webp"), (b"GIF8", ".gif"))


def write_rows(
    rows: Iterable[Mapping[str, Any]],
    out: Path,
    label_names: list[str] | None = None,
    on_image: Callable[[int], None] | None = None,
    beside: Mapping[str, str] | None = None,
) -> int:
    """Writes rows `{image: {bytes, path}, domain, label}` as `<out>/<domain>/<label>/<file>`; returns
    their count.

    Bytes are kept as they are. A row's own file name is kept too, since DomainBed's split depends on it;
    where there is none, or it is taken, the row's number stands in front. Rows with a `group`, a `class_name` or a
    `parent_id` are listed in `<out>/images.csv`, too, since folders have no place for these. A run that was stopped
    continues: images already written are not written again, what is no longer wanted is removed, and `out` appears when
    all are there. `label_names` translates integer labels; `beside` are further files of `out`, by name. Raises a
    ThroughlineError for a row that lacks a part or a place that cannot be written.
    """
    listed: dict[PurePosixPath, Row] = {}
    with whole_folder(out, keep=True) as folder:
        for number, row in enumerate(rows):
            data = _bytes_of(row, number)
            parent = PurePosixPath(_part(row, "domain", number), _part(row, "label", number, label_names))
            path = parent / _file_name(row["image"].get("path"), data, number)
            if path in listed:
                path = parent / f"{number:06d}_{path.name}"
            more = {name: str(row.get(name) or "") for name in OPTIONAL}
            listed[path] = {"image": str(path), "domain": parent.parts[0], "label": parent.name, **more}
            target = folder / path
            if not (target.is_file() and target.read_bytes() == data):
                write_atomically(target, data)
            if on_image is not None:
                on_image(number + 1)
        if not listed:
            raise ThroughlineError("the data set has no rows", out)
        _remove_others(folder, {folder / path for path in listed})
        if any(row[name] for row in listed.values() for name in OPTIONAL):
            write_atomically(folder / TABLE, image_table(listed.values()))
        for name, text in (beside or {}).items():
            write_atomically(folder / name, text)
    return len(listed)


def _remove_others(folder: Path, kept: set[Path]) -> None:
    """Of a run that was killed and repeated with other options, or in the middle of a file."""
    for path in sorted(folder.rglob("*"), reverse=True):  # what lies in a folder before the folder
        if path.is_dir():
            with contextlib.suppress(OSError):  # one that holds something stays
                path.rmdir()
        elif path not in kept:
            path.unlink()


def _bytes_of(row: Mapping[str, Any], number: int) -> bytes:
    image = row.get("image")
    data = image.get("bytes") if isinstance(image, Mapping) else None
    if not isinstance(data, bytes) or not data:
        raise ThroughlineError(f"row {number} of the data set has no image bytes")
    return data


def _part(row: Mapping[str, Any], column: str, number: int, names: list[str] | None = None) -> str:
    value = row.get(column)
    if names is not None and isinstance(value, int) and 0 <= value < len(names):
        value = names[value]
    text = "" if value is None else str(value)
    if not is_folder_name(text):
        raise ThroughlineError(f"row {number} of the data set has no usable {column} ({value!r})")
    return text


def _file_name(path: str | None, data: bytes, number: int) -> str:
    name = PurePosixPath((path or "").replace("\\", "/")).name
    if is_image_name(name):
        return name
    ending = next((ending for start, ending in SIGNATURES if data.startswith(start)), None)
    if ending is None:
        raise ThroughlineError(f"row {number} of the data set is neither PNG, JPEG, BMP, WebP nor GIF")
    return f"{number:06d}{ending}"
