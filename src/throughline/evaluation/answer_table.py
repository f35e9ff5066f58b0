"""The CSV file of `predict`: a row for each image, written as soon as it is answered, so that after a kill the same
call goes on. Beside it `FILE.asked.json` says by content what the rows are answers to. Free of torch.
"""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from throughline.chains.outcomes import Outcome
from throughline.core.errors import ThroughlineError
from throughline.core.files import readable_os_errors, write_atomically, write_json
from throughline.domains.tables import csv_text
from throughline.runs.folder import input_changes, listed_changes

COLUMNS = ("image", "label", "confidence", "reasoning_label", "agree", "outcome", "chain")
UNKNOWN = "unknown"
"""The label of an answer that is not sure enough."""
ASKED = ".asked.json"
"""What is added to the table's name for the file beside it."""
Row = Sequence[str]


def open_table(path: Path, asked: Mapping[str, Any], images: Mapping[str, str | None]) -> dict[str, Row]:
    """Begins the table at `path`, or opens it: the rows by image that earlier calls have answered.

    `asked` is everything that answers depend on but the images; these come as name and SHA-256, None for one that
    cannot be read. A row torn by a kill, and those of images that could not be read, are taken out. Raises
    ThroughlineError, and changes nothing, for a file of something else and for rows of other images, of another model
    or of other options.
    """
    record = path.with_name(path.name + ASKED)
    rows = _earlier_rows(path, record, asked, images) if path.is_file() else {}
    write_json(record, {"asked": asked, "images": images})
    write_table(path, rows.values())
    return rows


def write_table(path: Path, rows: Iterable[Row]) -> None:
    """The whole table anew."""
    write_atomically(path, csv_text([COLUMNS, *rows]))


def add_row(path: Path, row: Row) -> None:
    """A row at the end of the table."""
    with readable_os_errors(path), path.open("a", encoding="utf-8", newline="") as file:
        file.write(csv_text([row]))


def _earlier_rows(
    path: Path, record: Path, asked: Mapping[str, Any], images: Mapping[str, str | None]
) -> dict[str, Row]:
    text, header = path.read_bytes().decode(errors="replace"), csv_text([COLUMNS])
    if header.startswith(text):  # empty, or its first line torn
        return {}
    try:
        rows = list(csv.reader(io.StringIO(text, newline="")))
        if not text.startswith(csv_text(rows)):  # the last one is torn
            rows.pop()
        whole = text.startswith(csv_text(rows)) and {len(row) for row in rows} == {len(COLUMNS)}
        earlier = json.loads(record.read_text("utf-8"))
        changes, contents = input_changes(earlier["asked"], asked), dict(earlier["images"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError, csv.Error):
        whole = False
    if not whole or not text.startswith(header):
        raise _not_ours(path, "it has content other than answers that can be continued")
    if changes:
        raise _not_ours(path, f"its rows have other settings ({listed_changes(changes)})")
    answered: dict[str, Row] = {row[0]: row for row in rows[1:] if row[COLUMNS.index("outcome")] != Outcome.ERROR}
    for name in answered:
        if contents.get(name) != images.get(name, name):
            raise _not_ours(path, f"it has an answer about another image, {name}")
    return answered


def _not_ours(path: Path, what: str) -> ThroughlineError:
    return ThroughlineError(what, path, "name another file with --csv")
