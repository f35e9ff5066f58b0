"""The check of a store's journals: each line by itself, and what lines say of each other. Called by `checking`."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from throughline.chains.formats import FORMATS
from throughline.chains.journal import Problem, scan_journal
from throughline.chains.names import matcher_of
from throughline.chains.outcomes import Outcome
from throughline.chains.records import (
    Candidate,
    Header,
    ModelVerdict,
    Record,
    Usage,
    Verdict,
    candidate_key,
    classes_sha256,
    prompt_sha256,
)
from throughline.chains.rules import RULES
from throughline.core.errors import ThroughlineError
from throughline.teaching.checks.findings import Findings
from throughline.teaching.ledger import JUDGE
from throughline.teaching.printable import printable, quoted
from throughline.teaching.vetoes import request_of

_BOM = b"\xef\xbb\xbf"
_MOST_TOKENS = 1e15

_Place = tuple[Path, int]
"""A journal and a line of it, from 1."""


class JournalCheck:
    """The journals of one store. Texts, keys and ids are kept as hashes."""

    def __init__(self, findings: Findings, counts: Counter[str]) -> None:
        self._findings, self._counts = findings, counts
        counts.update(dict.fromkeys(("lines", "headers", "candidates", "verdicts", "refused", "unread"), 0))
        counts.update(dict.fromkeys(("images", "answers", "failed", "duplicates"), 0))
        self._told: set[tuple[str, str]] = set()
        """What headers tell: ("prompt" or "class list", SHA-256)."""
        self._asked: dict[tuple[str, str], _Place] = {}
        """What candidates refer to, and which one first."""
        self._texts: dict[int, int | None] = {}
        """Of each request on a sample the text, None for a failure."""
        self._of_key: dict[int, int] = {}
        """Of each key the first text."""
        self._images: dict[int, int] = {}
        """Of each sample the first image."""
        self._waiting: dict[int, _Place] = {}
        """Verdicts whose candidate was not read before them."""

    def check(self, store: Path, journals: Sequence[Path]) -> None:
        """Reads the journals of `store` (the folder, or the one journal); stops at a line of a newer schema."""
        whole = True
        for path in journals:
            if whole:
                whole = self._read(path)
            else:
                self._leave_unread(_lines(path))
        failed = sum(text is None for text in self._texts.values())
        self._counts.update(images=len(self._images), answers=len(self._texts) - failed, failed=failed)
        if whole:
            self._compare(store)
        else:
            what = "not looked for, since lines are unread: candidates without header, verdicts without candidate"
            self._findings.note("not_compared", what, store)

    def _compare(self, store: Path) -> None:
        """What had to wait for the last line."""
        for (kind, sha256), place in self._asked.items():
            if (kind, sha256) not in self._told:
                what = f"no header has the {kind} {quoted(sha256)}, to which this candidate is the first to refer"
                self._findings.problem("no_header", what, *place)
        for request, place in self._waiting.items():
            if request not in self._texts:
                self._findings.problem("no_candidate", "a verdict without its candidate", *place)
        if not any(self._counts[kind] for kind in ("headers", "candidates", "verdicts")):
            self._findings.problem("no_record", "no header, candidate or verdict in it", store)

    def _read(self, path: Path) -> bool:
        """False when a line ends the check."""
        if not path.is_file():  # a named pipe would block for ever
            self._findings.problem("unreadable_file", "not a regular file", path)
            return True
        lines, read_before = _lines(path), self._counts["lines"]
        try:
            for (_, number, record), (_, data) in zip(scan_journal(path), lines, strict=False):
                self._line((path, number), data, record)
        except ThroughlineError as error:
            stopped_at = next(lines, None)
            if stopped_at is None:
                self._findings.problem("unreadable_file", printable(error.what, 200), path)
                return True
            self._counts["lines"] += 1
            self._counts["refused"] += 1
            what = f"{printable(error.what, 200)}; the check ends here"
            self._findings.problem("newer_schema", what, path, stopped_at[0])
            self._leave_unread(lines)
            return False
        if self._counts["lines"] == read_before:
            self._findings.note("empty_file", "the file holds nothing", path)
        return True

    def _leave_unread(self, lines: Iterable[tuple[int, bytes]]) -> None:
        count = sum(1 for _ in lines)
        self._counts["lines"] += count
        self._counts["unread"] += count

    def _line(self, place: _Place, data: bytes, record: Record | Problem) -> None:
        note = self._findings.note
        self._counts["lines"] += 1
        if data.startswith(_BOM):
            note("byte_order_mark", "a byte order mark before the line", *place)
        if data.endswith(b"\r\n"):
            note("line_ends", "lines end in CR LF, as on Windows", *place)
        is_cut, twice = not data.endswith(b"\n"), _given_twice(data)
        if isinstance(record, Problem):
            self._counts["refused"] += 1
            if is_cut and twice is None:
                what = f"half a line of {len(data):,} bytes; the next build moves it to {place[0].name}.torn"
                note("torn_line", what, *place)
            else:
                self._findings.problem("refused_line", f"refused: {printable(record.what, 200)}", *place)
            return
        if is_cut:
            note("no_line_break", "the last line break is lost; the next build adds it", *place)
        for name in sorted(twice or ()):
            what = f"the field {quoted(name)} stands twice in the line; the last counts"
            self._findings.problem("field_twice", what, *place)
        self._record(place, record)

    def _record(self, place: _Place, record: Record) -> None:
        if record.schema_version < 1:
            what = f"there never was a schema {quoted(record.schema_version)}"
            self._findings.problem("unknown_schema", what, *place)
        for name in _unknown(record):
            what = f"unknown field {quoted(name)} of a {record.kind}; it is kept"
            self._findings.note("unknown_field", what, *place)
        if isinstance(record, Header):
            self._counts["headers"] += 1
            self._header(place, record)
        elif isinstance(record, Candidate):
            self._counts["candidates"] += 1
            self._candidate(place, record)
            self._answer(place, record)
        else:
            self._counts["verdicts"] += 1
            self._verdict(place, record)

    def _header(self, place: _Place, header: Header) -> None:
        problem = self._findings.problem
        self._told |= {("prompt", sha256) for sha256 in header.prompts} | {("class list", header.classes_sha256)}
        self._format(place, header.format)
        try:
            matcher_of(header.classes)
        except ThroughlineError as error:
            problem("bad_classes", f"a class list of no use: {printable(error.what, 200)}", *place)
        if not header.classes:
            problem("bad_classes", "a class list of no use: it is empty", *place)
        if header.classes_sha256 != classes_sha256(header.classes):
            problem("wrong_hash", "classes_sha256 is not the hash of the classes", *place)
        for sha256, prompt in header.prompts.items():
            if sha256 != prompt_sha256(prompt):
                problem("wrong_hash", f"prompt {quoted(sha256)} stands under the hash of another text", *place)

    def _format(self, place: _Place, name: str) -> None:
        if name not in FORMATS:
            what = f"unknown chain format {quoted(name)}; known are {', '.join(FORMATS)}"
            self._findings.problem("unknown_format", what, *place)

    def _candidate(self, place: _Place, candidate: Candidate) -> None:
        problem = self._findings.problem
        self._format(place, candidate.format)
        self._asked.setdefault(("prompt", candidate.prompt_sha256), place)
        self._asked.setdefault(("class list", candidate.classes_sha256), place)
        for name, number in (("candidate", candidate.candidate), ("round", candidate.round)):
            if number < 0:
                problem("negative_number", f"{name} is {quoted(number)}", *place)
        for name in Usage.model_fields:
            value = getattr(candidate.usage, name, None)
            if value is not None and not 0 <= value <= _MOST_TOKENS:
                problem("bad_usage", f"{name} is {quoted(value)}", *place)
        if candidate.key != candidate_key(
            candidate.image_sha256,
            candidate.prompt_sha256,
            candidate.model,
            candidate.params,
            candidate.seed,
            candidate.candidate,
        ):
            what = "the key is not the hash of image, prompt, model, parameters, seed and number"
            problem("wrong_key", what, *place)

    def _answer(self, place: _Place, candidate: Candidate) -> None:
        """The candidate beside those read before it."""
        note, request = self._findings.note, request_of(candidate)
        image, text = hash(candidate.image_sha256), None if candidate.failed else hash(candidate.text)
        if self._images.setdefault(hash(candidate.sample_id), image) != image:
            note("image_changed", "a sample that had another image before: its file was replaced", *place)
        self._counts["duplicates"] += request in self._texts
        before = self._texts.get(request)
        if before is None:  # the first, or asked again after a failure
            self._texts[request] = text
        elif text == before:
            note("repeated", "a candidate that was read before; the first stands", *place)
        elif text is not None:
            what = "another text for a request that was answered before; the first stands"
            self._findings.problem("another_text", what, *place)
        if text is not None and self._of_key.setdefault(hash(candidate.key), text) != text:
            what = "one request has other answers under other sample ids: images alike were asked about separately"
            note("answers_differ", what, *place)

    def _verdict(self, place: _Place, verdict: Verdict) -> None:
        request = request_of(verdict)
        if request not in self._texts:
            self._waiting.setdefault(request, place)
        if verdict.accepted and verdict.outcome != Outcome.OK:
            self._findings.problem("contradiction", f"accepted with outcome {verdict.outcome}", *place)
        if verdict.rule not in (*RULES, JUDGE):
            self._findings.note("unknown_rule", f"verdicts of an unknown rule {quoted(verdict.rule)}", *place)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that `scan_journal` reads, with their numbers, as they stand in the file.

    Of a file that cannot be read none: `scan_journal` says so.
    """
    with contextlib.suppress(OSError), path.open("rb") as file:
        for number, data in enumerate(file, start=1):
            if data.removeprefix(_BOM).strip():
                yield number, data


def _given_twice(data: bytes) -> set[str] | None:
    """The fields that stand twice in a line, at any depth; None when it is no JSON object."""
    twice: set[str] = set()

    def fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice.update(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        return found

    try:
        value = json.loads(data.removeprefix(_BOM).decode(), object_pairs_hook=fields)
    except (ValueError, RecursionError):
        return None
    return twice if isinstance(value, dict) else None


def _unknown(record: Record) -> list[str]:
    names = list(record.model_extra or ())
    if isinstance(record, Candidate) and record.usage is not None:
        names += [f"usage.{name}" for name in record.usage.model_extra or ()]
    of_judge = isinstance(record, Verdict) and record.rule == JUDGE
    return [name for name in names if not (of_judge and name in ModelVerdict.model_fields)]
