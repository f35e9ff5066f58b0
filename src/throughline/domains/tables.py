"""Reads a table as it lies, CSV in any encoding and with any separator or Parquet, into rows of text under the
project's own column names; and writes the project's image table. `folders` and `archives` read with it.
"""

import contextlib
import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from throughline.core.errors import ThroughlineError
from throughline.domains.samples import composed

COLUMNS = ("image", "domain", "label")
OPTIONAL = ("group", "class_name", "parent_id", "image_sha256", "labels", "report")
_FIELD = re.compile(r"\{([^{}:]+)(?::(\d+))?\}")
SEPARATORS = {",": ",", ";": ";", "tab": "\t", "|": "|"}
"""By the name that a user gives them."""

Row = dict[str, str]
"""Text by the project's column names; a cell without content is empty."""
Choice = Callable[[Sequence[str]], Mapping[str, str]]
"""Given the names of a table's columns, its column for each of ours. Raises a ThroughlineError where one is missing."""


@dataclass(frozen=True)
class TableRows:
    """What was read: the form of the file in words, the table's column for each of ours, the rows, and, where the
    images themselves are in the table, these as `{bytes, path}`, in the order of the rows; the cell `image` is then the
    row's number from 0.
    """

    form: str
    columns: Mapping[str, str]
    rows: list[Row]
    pictures: Iterable[Mapping[str, Any] | None] | None = None


def read_text(path: Path, encoding: str | None = None) -> tuple[str, str]:
    """A file's text and its encoding: the one given, else what the byte order mark says, else UTF-8, else cp1252, which
    Excel writes on Windows. What gzip has packed is unpacked. Raises a ThroughlineError where it is none of these.
    """
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data
        marked = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8"
        likely = (marked,) if b"\0" in data else (marked, "cp1252")  # no text on Windows holds a zero
        for name in (encoding,) if encoding else likely:
            with contextlib.suppress(UnicodeError):
                return data.decode(name).removeprefix("\ufeff"), name
    except LookupError as error:
        raise ThroughlineError(f"no encoding named {encoding}", path, "name one such as cp1252 or utf-8") from error
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise ThroughlineError(f"cannot read the file: {reason}", path) from error
    raise ThroughlineError(f"no text in {encoding or 'UTF-8 or cp1252'}", path, "name its encoding, or mend the file")


def read_csv(
    table: Path,
    choose: Choice,
    separator: str | None = None,
    encoding: str | None = None,
    reshape: Callable[[list[dict[str, Any]]], list[dict[str, Any]]] | None = None,
) -> TableRows:
    """The rows of a CSV file. Unless given, the separator is the one of `SEPARATORS` that the first line has most of.
    `reshape` makes other rows of those that are there, with columns that `choose` may then take.

    Rows without any content, which spreadsheets leave at the end, are no rows.
    """
    text, encoding = read_text(table, encoding)
    text = text.lstrip("\r\n")
    first = text.partition("\n")[0]
    separator = separator or max(SEPARATORS, key=lambda name: first.count(SEPARATORS[name]))
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=SEPARATORS[separator])
        reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
        names: Sequence[str] = reader.fieldnames
        numbered: Iterable[dict[str, Any]] = ({"row": number, **row} for number, row in enumerate(reader))
        if reshape is not None and (numbered := reshape([*numbered])):
            names = [*numbered[0]]
        columns = choose(names)
        rows = [{name: fill(column, row) for name, column in columns.items()} for row in numbered]
    except csv.Error as error:
        raise ThroughlineError(f"not a CSV file: {error}", table) from error
    form = f"CSV, {encoding}, separated by {separator}"
    return TableRows(form, columns, [row for row in rows if any(row.values())])


def read_parquet(files: Sequence[Path], choose: Choice) -> TableRows:
    """The rows of Parquet files of one kind. Whole numbers in a column that Hugging Face's metadata describes as class
    labels are read as their names.
    """
    import pyarrow
    from pyarrow import parquet

    cells: list[dict[str, Any]] = []
    try:
        schema = parquet.read_schema(files[0])
        columns = choose(schema.names)
        image = columns["image"]
        embedded = image in schema.names and bool(pyarrow.types.is_struct(schema.field(image).type))
        read = {name: column for name, column in columns.items() if not (embedded and name == "image")}
        needed = [name for name in schema.names if any(name in used(column) for column in read.values())]
        for file in files:
            cells += parquet.read_table(file, columns=needed).to_pylist()
    except pyarrow.ArrowException as error:
        raise ThroughlineError(f"not a Parquet file: {error}", files[0]) from error
    named = _class_labels(schema.metadata)
    cells = [{column: cell(value, named.get(column, ())) for column, value in row.items()} for row in cells]
    numbered = ({"row": number, **row} for number, row in enumerate(cells))
    rows = [{name: fill(column, row) for name, column in read.items()} for row in numbered]
    if not embedded:
        return TableRows("Parquet with paths", columns, rows)
    rows = [{**row, "image": str(number)} for number, row in enumerate(rows)]
    return TableRows("Parquet with embedded images", columns, rows, embedded_images(files, image))


def embedded_images(files: Iterable[Path], column: str) -> Iterator[Mapping[str, Any] | None]:
    """The images in Parquet files, `{bytes, path}` each, in the order of `read_parquet`'s rows; few at a time."""
    from pyarrow import parquet

    for file in files:
        for batch in parquet.ParquetFile(file).iter_batches(batch_size=64, columns=[column]):
            yield from batch.column(0).to_pylist()


def used(column: str) -> list[str]:
    """The columns that a column uses: itself, or those in the braces of a template such as `{image_id}.jpg`, or
    `{image_id:2}` for its first two characters."""
    return [name for name, _ in _FIELD.findall(column)] or [column]


def fill(column: str, row: Mapping[str, Any]) -> str:
    """A row's cell of a column or template, composed; empty where a column of the template is."""
    cells = {name: cell(row.get(name)) for name in used(column)}
    if column in cells:
        return cells[column]
    filled = _FIELD.sub(lambda field: cells[field[1]][: int(field[2]) if field[2] else None], column)
    return filled if all(cells.values()) else ""


def labels_of(row: Row) -> list[str]:
    """The one label of a row, or those in its cell `labels`, where an image may have several."""
    return [*dict.fromkeys(part.strip() for part in row.get("labels", "").split("|") if part.strip())] or [row["label"]]


def image_table(rows: Iterable[Row]) -> str:
    """An image table as CSV: the project's columns, the optional ones only where a row has something in them."""
    rows = list(rows)
    names = [*COLUMNS, *(name for name in OPTIONAL if any(row.get(name) for row in rows))]
    return csv_text([names, *([row.get(name, "") for name in names] for row in rows)])


def csv_text(rows: Iterable[Sequence[str]], separator: str = ",") -> str:
    """Rows as CSV, each ended by a line feed."""
    text = io.StringIO()
    csv.writer(text, delimiter=separator, lineterminator="\n").writerows(rows)
    return text.getvalue()


def beside(table: Path, root: Path, rows: Iterable[Row]) -> list[Row]:
    """Rows whose image paths begin in `root`, with paths that begin in the folder of `table`, as a table has them.

    Raises a ThroughlineError where the table is there already, and where an image does not lie below its folder.
    """
    if table.exists():
        raise ThroughlineError("the table is there already", table, "name another one")
    root, folder = root.resolve(), table.resolve().parent
    try:
        return [{**row, "image": (root / row["image"]).relative_to(folder).as_posix()} for row in rows]
    except ValueError:
        remedy = f"name {root / table.name}, or a place above it"
        raise ThroughlineError("the images do not lie below the table's folder", table, remedy) from None


def _class_labels(metadata: Mapping[bytes, bytes] | None) -> dict[str, Sequence[str]]:
    """Names of the classes by column, as the library `datasets` writes them into a file."""
    with contextlib.suppress(ValueError, LookupError, AttributeError, TypeError):  # somebody else's metadata
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        values = {  # of a list those in it
            column: feature[0] if isinstance(feature, list) else feature.get("feature", feature)
            for column, feature in features.items()
        }
        return {column: value["names"] for column, value in values.items() if value.get("_type") == "ClassLabel"}
    return {}


def cell(value: object, names: Sequence[str] = ()) -> str:
    """A value as composed text without blanks around it; the values of a list with `|` between them. With `names`, a
    whole number is the name in its place, and empty where there is none: -1 is "no label" in the library `datasets`.
    """
    if isinstance(value, list):
        return "|".join(filter(None, (cell(own, names) for own in value)))
    if names and isinstance(value, int):
        value = names[value] if 0 <= value < len(names) else None
    # half a surrogate pair is no text that could be written
    return "" if value is None else composed(str(value).strip().encode(errors="replace").decode())
