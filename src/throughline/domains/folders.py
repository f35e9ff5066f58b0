"""Reads images by domain and class from a folder tree, a CSV or a Parquet file into one `ImageSet`.

The three give the same samples in the same order. Everything that works on images starts here.
"""

import posixpath
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path, PureWindowsPath

from throughline.core.errors import ThroughlineError
from throughline.core.files import file_sha256, in_threads
from throughline.domains.listing import Listing, is_there, list_folder, require_single, split_fault
from throughline.domains.manifests import LETTERS, QUESTIONS, require_answer
from throughline.domains.samples import ImageSet, Sample
from throughline.domains.tables import COLUMNS, OPTIONAL, Row, labels_of, read_csv, read_parquet

SPLIT_REMEDY = "move their images into <domain>/<class>: throughline makes its own splits"


def read_images(source: str | Path, name: str | None = None) -> ImageSet:
    """Reads a folder `<domain>/<class>/<image>`, or a table of `image, domain, label` and what is `OPTIONAL`.

    A table is a `.csv`, `.tsv` or `.parquet` file; its image paths are relative to its own folder. No image is
    decoded (a truncated file is found by `check_images` or when it is loaded); every file is read once for
    its SHA-256, and compared with the table's where that has one. `name` defaults to the folder's or file's own name.
    Raises a ThroughlineError that names the file or row at fault, also where splits are taken for domains or classes.
    """
    source = Path(source)
    listing = read_listing(source)
    if not is_table(source):
        _require_whole_folder(listing)
    fault = split_fault(listing.samples)
    if fault is not None:
        raise ThroughlineError(fault, source, SPLIT_REMEDY)
    labels: dict[tuple[str, ...], tuple[str, ...]] = {}  # one tuple for all images of a class
    samples = []
    for sample, value in zip(listing.samples, hash_files(sample.path for sample in listing.samples), strict=True):
        if isinstance(value, OSError):
            what = f"cannot read the image: {value.strerror or value}"
            raise ThroughlineError(what, sample.path, "remove or repair it")
        if sample.image_sha256 not in ("", value):
            what = "the file is not the one that the table was made from: its SHA-256 is another"
            raise ThroughlineError(what, sample.path, f"restore it, or make {source} anew: throughline data sample")
        own = labels.setdefault(sample.labels, sample.labels)
        samples.append(replace(sample, labels=own, image_sha256=value))
    return ImageSet(
        name=name or default_name(source),
        root=listing.root,
        domains=tuple(sorted({sample.domain for sample in samples})),
        classes=tuple(sorted({label for sample in samples for label in sample.labels})),
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
    return source.suffix.lower() in (".csv", ".tsv", ".parquet") and not source.is_dir()


def root_of(source: Path) -> Path:
    """What the ids of the images of a source are relative to: the folder, or that of the table."""
    return source.parent if is_table(source) else source


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
        require_unicode(sample.id, root)


def is_unicode(name: str) -> bool:
    """Whether the bytes of a file's name are text: the system gives others as lone surrogates."""
    return name.encode(errors="ignore").decode() == name


def require_unicode(name: str, where: Path) -> None:
    """Raises a ThroughlineError for a name that is no text."""
    if not is_unicode(name):
        raise ThroughlineError(f"the file name {name!r} is not UTF-8", where, "rename it")


def list_table(table: Path) -> Listing:
    """The rows of a CSV or Parquet file, in the order in which the same files would lie in a folder.

    A CSV may have any separator and encoding that `tables.read_csv` finds. Spaces around a value are dropped, and
    backslashes are read as Windows means them where no file has them in its name. A cell of `class_name` is how the
    row's class is written, and synonyms behind it, with `|` between them; one row of a class is enough. `parent_id` is
    the id of the image, in whatever set, that the row's was made from; `image_sha256` the hash that its file had.
    `labels` are all labels of an image that may have several, with `|` between them; its `label` is then not read. A
    table of multiple-choice questions is read as `manifests` has it.

    Raises a ThroughlineError for a missing column, an empty cell, a path listed twice, two names of one class, or an
    absolute path outside the table's folder (an id must not name a machine's own folders).
    """
    if not table.is_file():
        raise ThroughlineError("no such file", table, "give a folder, .csv, .tsv or .parquet")
    choose = partial(_own_columns, table)
    read = read_parquet([table], choose) if table.suffix.lower() == ".parquet" else read_csv(table, choose)
    if read.pictures is not None:
        remedy = f"write them as a folder: throughline data import {table} DIR"
        raise ThroughlineError("the images are inside the table", table, remedy)
    listing = Listing(table.parent)
    for number, row in enumerate(read.rows, start=1):
        sample, named = _sample_of_row(table, number, row)
        listing.samples.append(sample)
        names = tuple(name.strip() for name in named.split("|") if name.strip())
        if names and listing.names.setdefault(row["label"], names) != names:
            raise ThroughlineError(f"the class {row['label']} has two names", table, "give each class one class_name")
    if not listing.samples:
        raise ThroughlineError("the table lists no images", table, f"it needs rows of {', '.join(COLUMNS)}")
    require_single(listing.samples, table)
    listing.samples.sort(key=lambda sample: (sample.domain, sample.labels, *posixpath.split(sample.id)))
    return listing


def _own_columns(table: Path, names: Sequence[str]) -> dict[str, str]:
    own = QUESTIONS if QUESTIONS["image"] in names else {name: name for name in COLUMNS}
    missing = next((column for column in own.values() if column not in names), None)
    if missing is not None:
        what = f"no column named {missing} (found: {', '.join(names) or 'none'})"
        remedy = (
            f"the columns are image, domain, label and optionally {', '.join(OPTIONAL)}; `data import` takes others"
        )
        raise ThroughlineError(what, table, remedy)
    return {**own, **{name: name for name in (*OPTIONAL, *LETTERS) if name in names}}


def _sample_of_row(table: Path, number: int, row: Row) -> tuple[Sample, str]:
    """The sample, and its class's names."""
    cells = [row.get(column, "") for column in (*COLUMNS, *OPTIONAL)]
    image, domain, _, group, named, parent, sha256, several, _ = cells
    if not all(cells[:3]):
        raise ThroughlineError(f"row {number} has no {COLUMNS[cells.index('')]}", table)
    relative = Path(with_slashes(image, table.parent))
    if relative.is_absolute() or PureWindowsPath(image).is_absolute():
        folder = table.parent.resolve()
        if not relative.is_relative_to(folder):
            what = f"row {number} names {image}, outside the table's folder"
            raise ThroughlineError(what, table, "use paths relative to the table")
        relative = relative.relative_to(folder)
    id = posixpath.normpath(relative.as_posix())
    require_unicode(id, table)
    require_answer(table, number, row)
    labels, task = tuple(labels_of(row)), "multi" if several else "single"
    return Sample(id, table.parent, domain, labels, sha256, task, group or None, parent or None), named


def with_slashes(image: str, folder: Path) -> str:
    """A path of Windows with slashes; one that a file in `folder` has as its own name stays."""
    return image if "\\" not in image or is_there(folder, image) else image.replace("\\", "/")
