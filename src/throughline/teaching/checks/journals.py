"""The check of a store's journals: each line by itself, and what lines say of each other. Called by `check`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from throughline.chains.formats import FORMATS
from throughline.chains.journal import BYTE_ORDER_MARK, Line, Problem, parse_line, read_lines
from throughline.chains.names import matcher_of
from throughline.chains.outcomes import Outcome
from throughline.chains.records import (
    JUDGE,
    Candidate,
    Header,
    Record,
    Usage,
    Verdict,
    candidate_key,
    classes_sha256,
    prompt_sha256,
)
from throughline.chains.rules import RULES
from throughline.chains.store import MOST_USAGE, ChainStore
from throughline.core.errors import ThroughlineError
from throughline.teaching.checks.findings import Findings
from throughline.teaching.printable import printable, quoted

_Place = tuple[Path, int]
"""A journal and a line of it, from 1."""


class JournalCheck:
    """The journals of one store, folded as they are checked."""

    def __init__(self, findings: Findings, counts: Counter[str]) -> None:
        self._findings, self._counts = findings, counts
        counts.update(dict.fromkeys(("lines", "headers", "candidates", "verdicts", "refused", "unread"), 0))
        counts.update(dict.fromkeys(("images", "answers", "failed", "duplicates"), 0))
        self._store = ChainStore()
        self._needed: dict[tuple[str, str], _Place] = {}
        """What candidates refer to, ("prompt" or "class list", SHA-256), and which one first."""

    def check(self, path: Path, journals: Sequence[Path]) -> None:
        """Reads the journals of the store at `path` (the folder, or the one journal); stops at a line of a newer
        schema."""
        whole = True
        for journal in journals:
            if whole:
                whole = self._read(journal)
            else:
                self._leave_unread(read_lines(journal))
        store = self._store
        answers, requests = store.answers, store.requests
        self._counts.update(images=requests["sample"].nunique(), answers=len(answers), duplicates=store.duplicates)
        self._counts.update(failed=len(requests) - len(answers))
        self._compare_images(requests, answers)
        if whole:
            self._compare_records(path)
        else:
            what = "not looked for, since lines are unread: candidates without header, verdicts without candidate"
            self._findings.note("not_compared", what, path)

    def _compare_images(self, requests: Any, answers: Any) -> None:
        """What requests say of each other."""
        note = self._findings.note
        other_image = requests.groupby("sample")["image"].transform("first") != requests["image"]
        for row in requests.index[other_image]:
            place = self._store.place_of(row, "a sample that had another image before: its file was replaced")
            note("image_changed", place.what, place.path, place.line)
        other_text = answers.groupby("key")["text"].transform("first") != answers["text"]
        for row in answers.index[other_text]:
            what = "one request has other answers under other sample ids: images alike were asked about separately"
            place = self._store.place_of(row, what)
            note("answers_differ", place.what, place.path, place.line)

    def _compare_records(self, path: Path) -> None:
        """What had to wait for the last line."""
        problem, headers = self._findings.problem, [header for _, header in self._store.headers]
        there = {("prompt", sha256) for sha256 in self._store.prompts}
        there |= {("class list", header.classes_sha256) for header in headers}
        for (kind, sha256), place in self._needed.items():
            if (kind, sha256) not in there:
                what = f"no header has the {kind} {quoted(sha256)}, to which this candidate is the first to refer"
                problem("no_header", what, *place)
        for orphan in self._store.orphans():
            problem("no_candidate", orphan.what, orphan.path, orphan.line)
        if not any(self._counts[kind] for kind in ("headers", "candidates", "verdicts")):
            problem("no_record", "no header, candidate or verdict in it", path)

    def _read(self, path: Path) -> bool:
        """False when a line ends the check."""
        if not path.is_file():  # a named pipe would block for ever
            self._findings.problem("unreadable_file", "not a regular file", path)
            return True
        lines, read_before = read_lines(path), self._counts["lines"]
        try:
            for line in lines:
                self._counts["lines"] += 1
                try:
                    record = parse_line(path, line)
                except ThroughlineError as error:
                    self._counts["refused"] += 1
                    what = f"{printable(error.what, 200)}; the check ends here"
                    self._findings.problem("newer_schema", what, path, line.number)
                    self._leave_unread(lines)
                    return False
                self._line(path, line, record)
        except ThroughlineError as error:
            self._findings.problem("unreadable_file", printable(error.what, 200), path)
            return True
        if self._counts["lines"] == read_before:
            self._findings.note("empty_file", "the file holds nothing", path)
        return True

    def _leave_unread(self, lines: Iterator[Line]) -> None:
        count = sum(1 for _ in lines)
        self._counts["lines"] += count
        self._counts["unread"] += count

    def _line(self, path: Path, line: Line, record: Record | Problem) -> None:
        note, place = self._findings.note, (path, line.number)
        standing = self._store.add(path, line, record)
        if line.data.startswith(BYTE_ORDER_MARK):
            note("byte_order_mark", "a byte order mark before the line", *place)
        if line.data.endswith(b"\r\n"):
            note("line_ends", "lines end in CR LF, as on Windows", *place)
        is_cut, twice = not line.data.endswith(b"\n"), _fields_twice(line.data)
        if isinstance(record, Problem):
            self._counts["refused"] += 1
            if is_cut and twice is None:
                what = f"half a line of {len(line.data):,} bytes; the next build moves it to {path.name}.torn"
                note("torn_line", what, *place)
            else:
                self._findings.problem("refused_line", f"refused: {printable(record.what, 200)}", *place)
            return
        if is_cut:
            note("no_line_break", "the last line break is lost; the next build adds it", *place)
        for name in sorted(twice or ()):
            what = f"the field {quoted(name)} stands twice in the line; the last counts"
            self._findings.problem("field_twice", what, *place)
        if standing == "repeated":
            note("repeated", "a candidate that was read before; the first stands", *place)
        if standing == "contradiction":
            self._findings.problem("another_text", self._store.contradictions[-1].what, *place)
        self._record(place, record)

    def _record(self, place: _Place, record: Record) -> None:
        self._counts[f"{record.kind}s"] += 1
        if record.schema_version < 1:
            what = f"there never was a schema {quoted(record.schema_version)}"
            self._findings.problem("unknown_schema", what, *place)
        for name in _unknown_fields(record):
            what = f"unknown field {quoted(name)} of a {record.kind}; it is kept"
            self._findings.note("unknown_field", what, *place)
        if isinstance(record, Header):
            self._header(place, record)
        elif isinstance(record, Candidate):
            self._candidate(place, record)
        else:
            self._verdict(place, record)

    def _header(self, place: _Place, header: Header) -> None:
        problem = self._findings.problem
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
        self._needed.setdefault(("prompt", candidate.prompt_sha256), place)
        self._needed.setdefault(("class list", candidate.classes_sha256), place)
        for name, number in (("candidate", candidate.candidate), ("round", candidate.round)):
            if number < 0:
                problem("negative_number", f"{name} is {quoted(number)}", *place)
        usage = candidate.usage or Usage()
        for name in Usage.model_fields:
            value = usage.get(name)
            if value is not None and not 0 <= value <= MOST_USAGE:
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

    def _verdict(self, place: _Place, verdict: Verdict) -> None:
        if verdict.accepted and verdict.outcome != Outcome.OK:
            self._findings.problem("contradiction", f"accepted with outcome {verdict.outcome}", *place)
        if verdict.rule not in (*RULES, JUDGE):
            self._findings.note("unknown_rule", f"verdicts of an unknown rule {quoted(verdict.rule)}", *place)


def _fields_twice(data: bytes) -> set[str] | None:
    """The fields that stand twice in a line, at any depth; None when it is no JSON object."""
    twice: set[str] = set()

    def fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        twice.update(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        return dict(pairs)

    try:
        value = json.loads(data.removeprefix(BYTE_ORDER_MARK).decode(), object_pairs_hook=fields)
    except (ValueError, RecursionError):
        return None
    return twice if isinstance(value, dict) else None


def _unknown_fields(record: Record) -> list[str]:
    usage = None if isinstance(record, Header) else record.usage
    return [*(record.model_extra or ()), *(f"usage.{name}" for name in (usage and usage.model_extra) or ())]
