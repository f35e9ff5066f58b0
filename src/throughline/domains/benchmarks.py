"""The field's benchmarks: where each is to be had, on which terms, how its folder must look, how its own form is read,
and a writer for rows of the hub.

`throughline data fetch` prints the one and calls the other; nothing here opens a network connection.
Sources and layouts are those of facebookresearch/DomainBed (`domainbed/scripts/download.py`,
`domainbed/datasets.py`) and of p-lambda/wilds (`wilds/datasets`).
"""

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import TypeAdapter

from throughline.core.errors import ThroughlineError, UsageError
from throughline.core.files import whole_folder, write_atomically
from throughline.core.nearest import did_you_mean
from throughline.domains.archives import Form
from throughline.domains.class_lists import CLASS_LISTS
from throughline.domains.listing import is_folder_name, is_image_name
from throughline.domains.tables import OPTIONAL, Row, image_table

TABLE = "images.csv"
"""Of a written folder whose images have groups or named classes: the same images, with these."""


@dataclass(frozen=True)
class Benchmark:
    """One data set: its key in `dataset_info.json` of jiansheng-li/MLLMs, its group (common things, a special field, or
    drift for those of arXiv 2604.15705), its domains as folder names or their number, its class list (in `CLASS_LISTS`,
    empty if unknown), terms and source, and the form of its official file, if it is not a folder. What is not
    known is `unknown`."""

    name: str
    key: str
    group: str
    subject: str
    lists: str
    domains: tuple[str, ...] | int
    images: str
    licence: str
    citation: str
    source: str
    note: str = ""
    form: Form | None = None

    @property
    def row(self) -> tuple[str, ...]:
        """Of the table of all benchmarks: name, group, subject, how many domains and classes, licence."""
        domains = self.domains if isinstance(self.domains, int) else len(self.domains)
        classes = f"{len(CLASS_LISTS[self.lists]):,}" if self.lists else "unknown"
        return self.name, self.group, self.subject, f"{domains:,}", classes, self.licence

    def describe(self, folder: Path) -> str:
        """What to download, how it must lie below `folder`, and the command that converts it, as lines of text."""
        named = ("<domain>",) if isinstance(self.domains, int) else self.domains
        _, _, _, domains, classes, _ = self.row
        lines = [
            f"{self.name}: {self.images} images, {domains} domains, {classes} classes; {self.group}, {self.subject}",
            f"licence: {self.licence}",
            f"citation: {self.citation}",
            f"source: {self.source}",
            *([f"note: {self.note}"] if self.note else []),
            "expected layout:",
            *(f"  {folder}/{domain}/<class>/<image>" for domain in named),
        ]
        out = f"{folder}.csv" if self.form is not None and "labels" in self.form.columns else folder
        if self.form is not None:
            lines.append(f"its own form: throughline data import {self.form.source} {out} --form {self.name}")
        return "\n".join([*lines, f"then: throughline data check {out}"])


_FILE = resources.files(__package__).joinpath("benchmarks.json")
BENCHMARKS = {row.name: row for row in TypeAdapter(list[Benchmark]).validate_json(_FILE.read_bytes())}
"""By name, in the spelling of the command line: the 20 sets of arXiv 2402.06599, then three of arXiv 2604.15705.
`benchmarks.json` has them as data."""


def benchmark_of(name: str) -> Benchmark:
    """Raises a UsageError for a name that none has."""
    if name not in BENCHMARKS:
        raise UsageError(f"no benchmark named {name}", do=did_you_mean(name, BENCHMARKS, "the benchmarks"))
    return BENCHMARKS[name]


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
