"""The check of an export: its Parquet rows, and whether its other files go with them. Called by `check`."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from throughline.chains.formats import FORMATS, ChainFormat
from throughline.chains.parsing import parse_chain
from throughline.chains.records import prompt_sha256
from throughline.chains.rules import RULES, judge
from throughline.core.errors import ThroughlineError
from throughline.teaching.checks.findings import Findings
from throughline.teaching.exports.export import DATA, JSONL, MARKER
from throughline.teaching.exports.trainer_formats import TRAINERS
from throughline.teaching.printable import printable, quoted

COLUMNS = ("image", "sample_id", "image_sha256", "domain", "label", "format", "chain", "prompt_sha256")
"""What every row of an export has."""
_BATCH = 16
"""Rows of a Parquet file in memory at once, with their images."""

_Faults = Iterator[tuple[str, str]]
"""Kind and words of problems."""


class ExportCheck:
    """An export folder, or shards without one (`folder` None)."""

    def __init__(self, findings: Findings, counts: Counter[str], folder: Path | None) -> None:
        self._findings, self._counts, self._folder = findings, counts, folder
        counts.update(dict.fromkeys(("rows", "read", "refused", "unread"), 0))
        self._marker = {} if folder is None else self._read_marker(folder)
        """What the export says of itself; empty where it says nothing."""
        self._rows: set[int] = set()
        self._samples: set[int] = set()

    def check(self, shards: Sequence[Path]) -> None:
        """Reads them all, a batch of rows at a time."""
        for path in shards:
            self._shard(path)
        self._counts["samples"] = len(self._samples)
        if not self._counts["rows"]:
            self._findings.problem("no_record", "no row in it", self._folder or shards[0])
        if self._folder is not None and self._marker:
            self._files(self._folder, shards)

    def _read_marker(self, folder: Path) -> dict[str, Any]:
        path = folder / MARKER
        if not path.is_file():
            what = f"no {MARKER}: by which rule the chains were accepted is not known, and not checked"
            self._findings.note("no_marker", what, folder)
            return {}
        try:
            marker = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            marker = None
        if isinstance(marker, dict):
            return marker
        self._findings.problem("unreadable_file", "not a JSON object in UTF-8", path)
        return {}

    def _shard(self, path: Path) -> None:
        import pyarrow
        from pyarrow import parquet

        total = number = 0
        try:
            with parquet.ParquetFile(path) as file:
                total, names = file.metadata.num_rows, file.schema_arrow.names
                for name in (name for name in COLUMNS if name not in names):
                    self._findings.problem("missing_column", f"no column {name}", path)
                columns = [name for name in (*COLUMNS, "prompt", "concluded", "key") if name in names]
                classes = self._classes(file.schema_arrow.metadata or {})
                for batch in file.iter_batches(_BATCH, columns=columns) if columns else ():
                    for place in range(batch.num_rows):
                        number += 1
                        self._row(path, number, batch.slice(place, 1), classes)
        except (pyarrow.ArrowException, OSError) as error:
            what = f"cannot be read: {printable(str(error), 200)}"
            self._findings.problem("unreadable_file", what, path, number + 1 if number else None)
        self._counts["rows"] += total
        self._counts["unread"] += total - number

    def _classes(self, metadata: dict[bytes, bytes]) -> tuple[str, ...]:
        """The class list: of the Parquet's own label column, else of the export; empty where none is told."""
        try:
            names = json.loads(metadata[b"huggingface"])["info"]["features"]["label"]["names"]
        except (KeyError, TypeError, ValueError, RecursionError):
            names = self._marker.get("classes")
        return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else ()

    def _row(self, path: Path, number: int, batch: Any, classes: tuple[str, ...]) -> None:
        """`batch` has one row."""
        try:
            row = batch.to_pylist()[0]
        except ValueError:  # bytes that are no UTF-8 in a text column
            self._counts["refused"] += 1
            self._findings.problem("refused_row", "refused: a text is not UTF-8", path, number)
            return
        self._counts["read"] += 1
        for kind, what in self._faults(row, classes):
            self._findings.problem(kind, what, path, number)

    def _faults(self, row: dict[str, Any], classes: tuple[str, ...]) -> _Faults:
        for name in (name for name in COLUMNS if name in row and row[name] is None):
            yield "null", f"no {name}"
        self._samples.add(hash(str(row.get("sample_id"))))
        identity = hash((str(row.get("sample_id")), str(row.get("key", row.get("chain")))))
        if identity in self._rows:
            yield "row_twice", "a row of an earlier sample_id and key"
        self._rows.add(identity)
        yield from _image_faults(row)
        prompt = row.get("prompt")
        if isinstance(prompt, str) and prompt_sha256(prompt) != row.get("prompt_sha256"):
            yield "wrong_hash", "prompt_sha256 is not the hash of the prompt"
        format = row.get("format")
        if isinstance(format, str) and format not in FORMATS:
            yield "unknown_format", f"unknown chain format {quoted(format)}; known are {', '.join(FORMATS)}"
        elif isinstance(format, str) and isinstance(row.get("chain"), str):
            yield from self._chain_faults(row, FORMATS[format], classes)

    def _chain_faults(self, row: dict[str, Any], format: ChainFormat, classes: tuple[str, ...]) -> _Faults:
        rule, label = self._marker.get("rule"), row.get("label")
        if isinstance(label, int):
            label = classes[label] if 0 <= label < len(classes) else None
            if label is None:
                yield "bad_label", f"label {quoted(row['label'])} is no class of the list"
        try:
            parsed = parse_chain(row["chain"], format, classes)
        except ThroughlineError as error:
            yield "bad_classes", f"a class list of no use: {printable(error.what, 200)}"
            return
        if parsed.chain is None:
            yield "no_chain", f"the chain is none of {format.name}: {parsed.outcome}, {printable(parsed.detail, 200)}"
        elif isinstance(rule, str) and rule in RULES and label in classes:
            judged = judge(rule, parsed, classes, label)
            if not judged.accepted:
                why = f"{judged.outcome}, {printable(judged.detail, 200)}; the label is {quoted(label)}"
                yield "not_accepted", f"rule {rule} does not accept the chain: {why}"
        if classes and row.get("concluded") is not None and row["concluded"] != parsed.label:
            yield "not_concluded", f"the chain does not conclude {quoted(row['concluded'])}"

    def _files(self, folder: Path, shards: Sequence[Path]) -> None:
        """Whether all that the export says it has is there."""
        problem, named = self._findings.problem, self._marker.get("files")
        named = [name for name in named if isinstance(name, str)] if isinstance(named, list) else []
        for name in named:
            if not _is_there(folder / name):
                problem("missing_file", f"{quoted(name)} of the export is not there", folder)
        for path in shards:
            if f"{DATA}/{path.name}" not in named:
                problem("foreign_file", "no part of the export, but loaded with it", path)
        self._number_of_rows(folder, self._counts["rows"], "chains")
        for path in (folder / JSONL / name for name in TRAINERS):
            if path.is_file():
                self._trainer_file(path)

    def _number_of_rows(self, path: Path, rows: int, field: str) -> None:
        if rows != self._marker.get(field):
            what = f"{rows:,} rows, where the export says {quoted(self._marker.get(field))}"
            self._findings.problem("wrong_count", what, path)

    def _trainer_file(self, path: Path) -> None:
        problem, rows, looked_for = self._findings.problem, 0, set[str]()
        try:
            with path.open("rb") as file:
                for number, data in enumerate(file, start=1):
                    rows += bool(data.strip())
                    images = _images_of(data)
                    if data.strip() and images is None:
                        problem("refused_line", "refused: no JSON object with images", path, number)
                    for image in set(images or ()) - looked_for:
                        looked_for.add(image)
                        if not _is_there(path.parent / image):
                            problem("missing_file", f"the image {quoted(image)} is not there", path, number)
        except OSError as error:
            problem("unreadable_file", f"cannot be read: {error.strerror}", path)
        self._number_of_rows(path, rows, "jsonl_rows")


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that no file can have: too long, with a null byte
        return False


def _images_of(data: bytes) -> list[str] | None:
    """The image paths of a line for a trainer; None when it has none."""
    try:
        images = json.loads(data)["images"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return images if isinstance(images, list) and all(isinstance(image, str) for image in images) else None


def _image_faults(row: dict[str, Any]) -> _Faults:
    image = row.get("image")
    if image is None:
        return
    content = image.get("bytes") if isinstance(image, dict) else image
    if not isinstance(content, bytes):
        yield "no_image", "the image's bytes are not in the row"
    elif hashlib.sha256(content).hexdigest() != row.get("image_sha256"):
        yield "wrong_hash", "image_sha256 is not the hash of the image's bytes"
