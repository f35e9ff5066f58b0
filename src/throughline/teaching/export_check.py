"""The check of an export: its Parquet rows, and whether its other files go with them. Called by `check`."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from throughline.chains.formats import FORMATS
from throughline.chains.journal import Problem, read_lines
from throughline.chains.names import Aliases
from throughline.chains.parsing import parse_chain
from throughline.chains.records import prompt_sha256
from throughline.chains.rules import RULES, judge
from throughline.core.errors import ThroughlineError
from throughline.core.untrusted import json_object, printable, quoted
from throughline.teaching.exports.export import DATA, MARKER
from throughline.teaching.exports.trainer_formats import JSONL, TRAINERS
from throughline.teaching.journal_check import Fault, PlacedFault, unknown_format

COLUMNS = ("image", "sample_id", "image_sha256", "domain", "label", "format", "chain", "prompt_sha256")
"""What every row of an export has."""
_BATCH = 16
"""Rows of a Parquet file in memory at once, with their images."""


def check_export(folder: Path | None, shards: Sequence[Path], counts: Counter[str]) -> Iterator[PlacedFault]:
    """Reads an export folder, or a shard without one (`folder` None), a row at a time, and fills `counts`."""
    counts.update(dict.fromkeys(("rows", "read", "refused", "unread"), 0))
    marker: dict[str, Any] | None = None
    if folder is not None and (folder / MARKER).is_file():
        marker = json_object((folder / MARKER).read_bytes())
        if marker is None:
            yield "unreadable_file", Problem(folder / MARKER, None, "not a JSON object in UTF-8")
    elif folder is not None:
        what = f"no {MARKER}: by which rule the chains were accepted is not known, and not checked"
        yield "no_marker", Problem(folder, None, what)
    seen: dict[int, set[int]] = {}
    for shard in shards:
        yield from _shard_faults(shard, marker or {}, seen, counts)
    counts["samples"] = len(seen)
    if not counts["rows"]:
        yield "no_record", Problem(folder or shards[0], None, "no row in it")
    if folder is not None and marker is not None:
        yield from _file_faults(folder, shards, marker, counts["rows"])


def _shard_faults(
    path: Path, marker: dict[str, Any], seen: dict[int, set[int]], counts: Counter[str]
) -> Iterator[PlacedFault]:
    """`seen` has the rows so far, as hashes: sample id → rows."""
    import pyarrow
    from pyarrow import parquet

    total = number = 0
    try:
        with parquet.ParquetFile(path) as file:
            total, names = file.metadata.num_rows, file.schema_arrow.names
            for name in (name for name in COLUMNS if name not in names):
                yield "missing_column", Problem(path, None, f"no column {name}")
            columns = [name for name in (*COLUMNS, "prompt", "concluded", "key") if name in names]
            classes = _class_list(file.schema_arrow.metadata or {}, marker)
            given = marker.get("names")
            others = {label: _texts(own) or () for label, own in given.items()} if isinstance(given, dict) else {}
            batches = file.iter_batches(_BATCH, columns=columns) if columns else ()
            for single in (batch.slice(place, 1) for batch in batches for place in range(batch.num_rows)):
                number += 1
                try:
                    [row] = single.to_pylist()
                except ValueError:  # bytes that are no UTF-8 in a text column
                    counts["refused"] += 1
                    yield "refused_row", Problem(path, number, "refused: a text is not UTF-8")
                    continue
                counts["read"] += 1
                rows = seen.setdefault(hash(str(row.get("sample_id"))), set())
                identity = hash(str(row.get("key", row.get("chain"))))
                if identity in rows:
                    yield "row_twice", Problem(path, number, "a row of an earlier sample_id and key")
                rows.add(identity)
                for kind, what in (*_content_faults(row), *_chain_faults(row, classes, others, marker.get("rule"))):
                    yield kind, Problem(path, number, what)
    except (pyarrow.ArrowException, OSError) as error:
        what = f"cannot be read: {printable(str(error), 200)}"
        yield "unreadable_file", Problem(path, number + 1 if number else None, what)
    counts["rows"] += total
    counts["unread"] += total - number


def _class_list(metadata: dict[bytes, bytes], marker: dict[str, Any]) -> tuple[str, ...]:
    """The class list: of the Parquet's own label column, else of the export; empty where there is none."""
    try:
        names = json.loads(metadata[b"huggingface"])["info"]["features"]["label"]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        names = marker.get("classes")
    return tuple(_texts(names) or ())


def _content_faults(row: dict[str, Any]) -> Iterator[Fault]:
    """What is missing, and what is not of its hash."""
    yield from (("null", f"no {name}") for name in COLUMNS if name in row and row[name] is None)
    image, prompt = row.get("image"), row.get("prompt")
    content = image.get("bytes") if isinstance(image, dict) else image
    if image is not None and not isinstance(content, bytes):
        yield "no_image", "the image's bytes are not in the row"
    elif content is not None and hashlib.sha256(content).hexdigest() != row.get("image_sha256"):
        yield "wrong_hash", "image_sha256 is not the hash of the image's bytes"
    if isinstance(prompt, str) and prompt_sha256(prompt) != row.get("prompt_sha256"):
        yield "wrong_hash", "prompt_sha256 is not the hash of the prompt"


def _chain_faults(row: dict[str, Any], classes: tuple[str, ...], others: Aliases, rule: Any) -> Iterator[Fault]:
    """Whether the chain is of its format, concludes what the row says, and is accepted by the export's rule."""
    format, chain, label = (row.get(name) for name in ("format", "chain", "label"))
    if isinstance(format, str) and format not in FORMATS:
        yield "unknown_format", unknown_format(format)
    if format not in FORMATS or not isinstance(chain, str):
        return
    if isinstance(label, int):
        label = classes[label] if 0 <= label < len(classes) else None
        if label is None:
            yield "bad_label", f"label {quoted(row['label'])} is not a class of the list"
    try:
        parsed = parse_chain(chain, FORMATS[format], classes, aliases=others)
    except ThroughlineError as error:
        yield "bad_classes", f"a class list of no use: {printable(error.what, 200)}"
        return
    if parsed.chain is None:
        yield "no_chain", f"the chain is none of {format}: {parsed.outcome}, {printable(parsed.detail, 200)}"
    elif isinstance(rule, str) and rule in RULES and label in classes:
        judged = judge(rule, parsed, classes, label, others)
        if not judged.accepted:
            why = f"{judged.outcome}, {printable(judged.detail, 200)}; the label is {quoted(label)}"
            yield "not_accepted", f"rule {rule} does not accept the chain: {why}"
    if classes and row.get("concluded") not in (None, parsed.label):
        yield "not_concluded", f"the chain does not conclude {quoted(row['concluded'])}"


def _file_faults(folder: Path, shards: Sequence[Path], marker: dict[str, Any], rows: int) -> Iterator[PlacedFault]:
    """Whether all that the export says it has is there."""
    files = marker.get("files")
    files = [name for name in files if isinstance(name, str)] if isinstance(files, list) else []
    for name in files:
        if not os.path.exists(folder / name):  # noqa: PTH110 (it bears names that no file can have)
            yield "missing_file", Problem(folder, None, f"{quoted(name)} of the export is not there")
    for path in shards:
        if f"{DATA}/{path.name}" not in files:
            yield "foreign_file", Problem(path, None, "no part of the export, but loaded with it")
    yield from _wrong_count(folder, rows, marker.get("chains"))
    for path in (folder / JSONL / name for name in TRAINERS):
        if path.is_file():
            yield from _trainer_faults(path, marker.get("jsonl_rows"))


def _trainer_faults(path: Path, expected: Any) -> Iterator[PlacedFault]:
    """Each image is looked for once."""
    rows, sought = 0, set[str]()
    for line in read_lines(path, "rows"):
        rows += 1
        images = _texts((json_object(line.data) or {}).get("images"))
        if images is None:
            yield "refused_line", Problem(path, line.number, "refused: no JSON object with images")
        for image in set(images or ()) - sought:
            sought.add(image)
            if not os.path.exists(path.parent / image):  # noqa: PTH110 (as above)
                yield "missing_file", Problem(path, line.number, f"the image {quoted(image)} is not there")
    yield from _wrong_count(path, rows, expected)


def _wrong_count(path: Path, rows: int, expected: Any) -> Iterator[PlacedFault]:
    if rows != expected:
        yield "wrong_count", Problem(path, None, f"{rows:,} rows, where the export says {quoted(expected)}")


def _texts(value: Any) -> list[str] | None:
    return value if isinstance(value, list) and all(isinstance(text, str) for text in value) else None
