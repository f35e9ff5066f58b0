"""Reads images by domain and class from a folder tree, a CSV or a Parquet file into one `ImageSet`.

The three give the same samples in the same order. Everything that works on images starts here.
"""

import csv
import posixpath
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path, PureWindowsPath
from typing import Any

from throughline.core.errors import ThroughlineError
from throughline.core.files import file_sha256, in_threads
from throughline.domains.listing import Listing, list_folder, require_single, split_fault
from throughline.domains.samples import ImageSet, Sample, composed

COLUMNS = ("image", "domain", "label")
OPTIONAL = ("group", "class_name")
SPLIT_REMEDY = "move their images into <domain>/<class>: throughline makes its own splits"


def read_images(source: str | Path, name: str | None = None) -> ImageSet:
    """Reads a folder `<domain>/<class>/<image>`, or a table of `image, domain, label[, group][, class_name]`.

    A table is a `.csv` or `.parquet` file; its image paths are relative to its own folder. No image is
    decoded (a truncated file is found by `check_images` or when it is loaded); every file is read once for
    its SHA-256. `name` defaults to the folder's or file's own name. Raises a ThroughlineError that names the
    file or row at fault, also where splits are taken for domains or classes.
    """
    source = Path(source)
    listing = read_listing(source)
    if not is_table(source):
        _require_whole_folder(listing)
    fault = split_fault(listing.samples)
    if fault is not None:
        raise ThroughlineError(fault, source, SPLIT_REMEDY)
    labels: dict[str, tuple[str, ...]] = {}  # one tuple for all images of a class
    samples = []
    for sample, value in zip(listing.samples, hash_files(sample.path for sample in listing.samples), strict=True):
        if isinstance(value, OSError):
            what = f"cannot read the image: {value.strerror or value}"
            raise ThroughlineError(what, sample.path, "remove or repair it")
        own = labels.setdefault(sample.label, sample.labels)
        samples.append(replace(sample, labels=own, image_sha256=value))
    return ImageSet(
        name=name or default_name(source),
        root=listing.root,
        domains=tuple(sorted({sample.domain for sample in samples})),
        classes=tuple(sorted({sample.label for sample in samples})),
        samples=tuple(samples),
        names=listing.names,
        empty=tuple(listing.empty),
    )


def read_listing(source: Path) -> Listing:
    """The images of a folder or table, not yet opened. Raises as `list_folder` and `list_table` do."""
    return list_table(source) if is_table(source) else list_folder(source)


def default_name(source: Path) -> str:
    """What images are called that are given no name: as their folder, or their table without its ending."""
    return source.stem if is_table(source) else source.resolve().name


def is_table(source: Path) -> bool:
    """Whether `source` is read as a table of images rather than as a folder."""
    return source.suffix.lower() in (".csv", ".parquet") and not source.is_dir()


def hash_files(paths: Iterable[Path]) -> list[str | OSError]:
    """SHA-256 (hex) of each file, or the error that reading it gave; in the order of `paths`."""
    return list(in_threads(_hash_or_error, paths))  # reading waits on the disk


def _hash_or_error(path: Path) -> str | OSError:
    try:
        if path.exists() and not path.is_file():  # a named pipe would block for ever
            return OSError("not a regular file")
        return file_sha256(path)
    except OSError as error:
        return error


def _require_whole_folder(listing: Listing) -> None:
    root = listing.root
    for folder in listing.closed.get("unreadable_folder", ()):
        raise ThroughlineError("cannot read the folder", root / folder, "grant reading rights")
    if not listing.samples:
        raise ThroughlineError("no images found", root, "the layout is <folder>/<domain>/<class>/<image>")
    empty = sorted(set(listing.folders) - {sample.domain for sample in listing.samples})
    if empty:
        # DomainBed's ImageFolder stops here too; skipping the folder would shift the seeds of later domains.
        raise ThroughlineError(
            f"the domain folder {empty[0]} has no <class>/<image>", root / empty[0], "fill it or remove it"
        )
    for sample in listing.samples:
        _require_unicode(sample.id, root)


def is_unicode(name: str) -> bool:
    """Whether the bytes of a file's name are text: the system gives others as lone surrogates."""
    return name.encode(errors="ignore").decode() == name


def _require_unicode(name: str, where: Path) -> None:
    if not is_unicode(name):
        raise ThroughlineError(f"the file name {name!r} is not UTF-8", where, "rename it")


def list_table(table: Path) -> Listing:
    """The rows of a CSV or Parquet file, in the order in which the same files would lie in a folder.

    Spaces around a value are dropped, and backslashes are read as Windows means them where no file has them in its
    name. A cell of `class_name` is how the row's class is written, and synonyms behind
    it, with `|` between them; one row of a class is enough. Raises a ThroughlineError for a missing column, an empty
    cell, a path listed twice, two names of one class, or an absolute path outside the table's folder (an id must not
    name a machine's own folders).
    """
    if not table.is_file():
        raise ThroughlineError("no such file", table, "give a folder, .csv or .parquet")
    rows = _read_csv(table) if table.suffix.lower() == ".csv" else _read_parquet(table)
    listing = Listing(table.parent)
    for number, row in enumerate(rows, start=1):
        sample, named = _sample_of_row(table, number, row)
        listing.samples.append(sample)
        names = tuple(name.strip() for name in named.split("|") if name.strip())
        if names and listing.names.setdefault(sample.label, names) != names:
            raise ThroughlineError(f"the class {sample.label} has two names", table, "give each class one class_name")
    if not listing.samples:
        raise ThroughlineError("the table lists no images", table, f"it needs rows of {', '.join(COLUMNS)}")
    require_single(listing.samples, table)
    listing.samples.sort(key=lambda sample: (sample.domain, sample.label, *posixpath.split(sample.id)))
    return listing


def _read_csv(table: Path) -> list[dict[str, Any]]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            _require_columns(table, reader.fieldnames or [])
            return list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ThroughlineError(f"not a CSV file in UTF-8: {error}", table) from error


def _read_parquet(table: Path) -> list[dict[str, Any]]:
    import pyarrow
    from pyarrow import parquet

    try:
        schema = parquet.read_schema(table)
        names = schema.names
        _require_columns(table, names)
        kind = schema.field("image").type
        if pyarrow.types.is_nested(kind) or pyarrow.types.is_binary(kind):
            remedy = f"write them as a folder: throughline data fetch {table} DIR"
            raise ThroughlineError("the images are inside the table", table, remedy)
        wanted = [name for name in (*COLUMNS, *OPTIONAL) if name in names]
        rows: list[dict[str, Any]] = parquet.read_table(table, columns=wanted).to_pylist()
    except pyarrow.ArrowException as error:
        raise ThroughlineError(f"not a Parquet file: {error}", table) from error
    return rows


def _require_columns(table: Path, names: Sequence[str]) -> None:
    missing = next((name for name in COLUMNS if name not in names), None)
    if missing is not None:
        what = f"no column named {missing} (found: {', '.join(names) or 'none'})"
        raise ThroughlineError(what, table, "the columns are image, domain, label and optionally group, class_name")


def _sample_of_row(table: Path, number: int, row: dict[str, Any]) -> tuple[Sample, str]:
    """The sample, and its class's names."""
    image, domain, label, group, named = cells = [_cell(row, column) for column in (*COLUMNS, *OPTIONAL)]
    if not all(cells[:3]):
        raise ThroughlineError(f"row {number} has no {COLUMNS[cells.index('')]}", table)
    if "\\" in image and not (table.parent / image).exists():
        image = image.replace("\\", "/")
    relative = Path(image)
    if relative.is_absolute() or PureWindowsPath(image).is_absolute():
        folder = table.parent.resolve()
        if not relative.is_relative_to(folder):
            what = f"row {number} names {image}, outside the table's folder"
            raise ThroughlineError(what, table, "use paths relative to the table")
        relative = relative.relative_to(folder)
    id = posixpath.normpath(relative.as_posix())
    _require_unicode(id, table)
    return Sample(id, table.parent, domain, (label,), "", group=group or None), named


def _cell(row: dict[str, Any], column: str) -> str:
    value = row.get(column)
    return "" if value is None else composed(str(value).strip())
