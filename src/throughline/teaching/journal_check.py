"""The check of a store's journals: each line by itself, and what lines say of each other. Called by `check`.

A fault is a kind and its words; small functions yield those of a line, of a record, and of the store as a whole.
"""

import json
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from heapq import merge
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

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
from throughline.chains.store import MOST_USAGE, ChainStore, read_records
from throughline.chains.verdicts import basis_of, verdicts_on
from throughline.core.errors import ThroughlineError
from throughline.core.untrusted import printable, quoted

Fault = tuple[str, str]
"""Kind and words."""
PlacedFault = tuple[str, Problem]
"""Kind, and the words with the file and the line or row of it."""


def check_journals(path: Path, journals: Sequence[Path], counts: Counter[str]) -> Iterator[PlacedFault]:
    """Reads the journals of the store at `path` (the folder, or the one journal) and fills `counts`. From a line of a
    newer schema on, lines are only counted."""
    counts.update(dict.fromkeys(("lines", "headers", "candidates", "verdicts", "refused", "unread"), 0))
    store, is_whole = ChainStore(), True
    for journal in journals:
        try:
            is_whole = yield from _journal_faults(journal, store, counts, is_whole)
        except ThroughlineError as error:
            yield "unreadable_file", Problem(journal, None, printable(error.what, 200))
    requests, failed = store.requests, int(store.requests["failed"].sum())
    counts.update(images=requests["sample"].nunique(), answers=len(requests) - failed)
    counts.update(failed=failed, duplicates=store.duplicates)
    yield from _contradictions(store)
    if not is_whole:
        what = "not looked for, since lines are unread: candidates without header, verdicts without candidate"
        yield "not_compared", Problem(path, None, what)
        return
    yield from _unmatched(store)
    yield from _edited_verdicts(store, journals)
    if not any(counts[kind] for kind in ("headers", "candidates", "verdicts")):
        yield "no_record", Problem(path, None, "no header, candidate or verdict in it")


def _journal_faults(
    path: Path, store: ChainStore, counts: Counter[str], is_whole: bool
) -> Generator[PlacedFault, None, bool]:
    """Folds one journal into the store, or only counts its lines where lines before it are unread (`is_whole` false).
    Gives whether all lines so far are read."""
    if not path.is_file():  # a named pipe would block for ever
        raise ThroughlineError("not a regular file", path)
    lines_before = counts["lines"]
    for line in read_lines(path):
        counts["lines"] += 1
        if not is_whole:
            counts["unread"] += 1
            continue
        try:
            record = parse_line(path, line)
        except ThroughlineError as error:
            is_whole = False
            counts["refused"] += 1
            what = f"{printable(error.what, 200)}; the check ends here"
            yield "newer_schema", Problem(path, line.number, what)
            continue
        counts["refused" if isinstance(record, Problem) else f"{record.kind}s"] += 1
        is_repeated = store.add(path, line, record)
        for kind, what in _line_faults(path, line, record, is_repeated):
            yield kind, Problem(path, line.number, what)
    if counts["lines"] == lines_before:
        yield "empty_file", Problem(path, None, "the file holds nothing")
    return is_whole


def _contradictions(store: ChainStore) -> Iterator[PlacedFault]:
    """What requests say of each other."""
    yield from (("another_text", problem) for problem in store.contradictions)
    replaced = "a sample that had another image before: its file was replaced"
    apart = "one request has other answers under other sample ids: images alike were asked about separately"
    for kind, frame, by, column, what in (
        ("image_changed", store.requests, "sample", "image", replaced),
        ("answers_differ", store.answers, "key", "text", apart),
    ):
        is_other = frame.groupby(by)[column].transform("first") != frame[column]
        yield from ((kind, store.place_of(row, what)) for row in frame.index[is_other])


def _unmatched(store: ChainStore) -> Iterator[PlacedFault]:
    """Candidates without a header and verdicts without a candidate, known after the last line."""
    classes = [header.classes_sha256 for _, header in store.headers]
    for kind, column, known in (("prompt", "prompt_sha256", store.prompts), ("class list", "classes_sha256", classes)):
        unknown = store.requests[column].drop_duplicates()
        for row, sha256 in unknown[~unknown.isin(known)].items():
            what = f"no header has the {kind} {quoted(sha256)}, to which this candidate is the first to refer"
            yield "no_header", store.place_of(row, what)
    yield from (("no_candidate", orphan) for orphan in store.orphans())


def _edited_verdicts(store: ChainStore, journals: Sequence[Path]) -> Iterator[PlacedFault]:
    """Verdicts that are not what the same version of the rule makes of the recorded text: what stands last for each
    answer and rule. A verdict's basis tells under which class list and label it was made."""
    lists = {(header.format, header.classes) for _, header in store.headers if not [*_header_faults(header)]}
    known = [(FORMATS[name], classes, label) for name, classes in lists if name in FORMATS for label in classes]
    cases = {basis_of(*case): case for case in known}
    frames = [store.verdicts(rule).assign(rule=rule) for rule in RULES]
    frames = [frame[frame["basis"].isin(cases) & frame.index.isin(store.requests.index)] for frame in frames]
    rows = np.unique(np.concatenate([frame.index for frame in frames]))
    recorded = merge(*(frame.itertuples() for frame in frames), key=attrgetter("Index"))
    edited: dict[tuple[str, str, str], str] = {}
    for candidate, (_, verdicts) in zip(store.read(rows), groupby(recorded, attrgetter("Index")), strict=True):
        anew: dict[str, dict[str, Verdict]] = {}
        for said in verdicts:
            if said.basis not in anew:
                anew[said.basis] = {made.rule: made for made in verdicts_on(candidate, RULES, *cases[said.basis])}
            made = anew[said.basis][said.rule]
            if (made.outcome, made.accepted) != (said.outcome, said.accepted):
                words = (f"{v.outcome}, {'' if v.accepted else 'not '}accepted" for v in (said, made))
                edited[made.key, made.sample_id, made.rule] = f": but {made.rule} makes of the text ".join(words)
    places: dict[tuple[str, str, str], Problem] = {}
    for path, line, record in read_records(journals) if edited else ():
        if isinstance(record, Verdict) and (named := (record.key, record.sample_id, record.rule)) in edited:
            places[named] = Problem(path, line.number, edited[named])
    yield from (("edited_verdict", place) for place in places.values())


def _line_faults(path: Path, line: Line, record: Record | Problem, is_repeated: bool) -> Iterator[Fault]:
    if line.data.startswith(BYTE_ORDER_MARK):
        yield "byte_order_mark", "a byte order mark before the line"
    if line.data.endswith(b"\r\n"):
        yield "line_ends", "lines end in CR LF, as on Windows"
    is_cut, twice = not line.data.endswith(b"\n"), _fields_twice(line.data)
    if isinstance(record, Problem):
        if is_cut and twice is None:
            yield "torn_line", f"half a line of {len(line.data):,} bytes; the next build moves it to {path.name}.torn"
        else:
            yield "refused_line", f"refused: {printable(record.what, 200)}"
        return
    if is_cut:
        yield "no_line_break", "the last line break is lost; the next build adds it"
    for name in sorted(twice or ()):
        yield "field_twice", f"the field {quoted(name)} stands twice in the line; the last counts"
    if is_repeated:
        yield "repeated", "a candidate that was read before; the first stands"
    yield from _record_faults(record)


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


def _record_faults(record: Record) -> Iterator[Fault]:
    """What a record says wrong, whatever its kind; then what only its kind can."""
    if record.schema_version < 1:
        yield "unknown_schema", f"there never was a schema {quoted(record.schema_version)}"
    usage = None if isinstance(record, Header) else record.usage
    for name in (*(record.model_extra or ()), *(f"usage.{name}" for name in (usage and usage.model_extra) or ())):
        yield "unknown_field", f"unknown field {quoted(name)} of a {record.kind}; it is kept"
    if not isinstance(record, Verdict) and record.format not in FORMATS:
        yield "unknown_format", unknown_format(record.format)
    if isinstance(record, Header):
        yield from _header_faults(record)
    elif isinstance(record, Candidate):
        yield from _candidate_faults(record)
    else:
        yield from _verdict_faults(record)


def unknown_format(name: str) -> str:
    """The words for a chain format that there is not."""
    return f"unknown chain format {quoted(name)}; known are {', '.join(FORMATS)}"


def _header_faults(header: Header) -> Iterator[Fault]:
    try:
        matcher_of(header.classes)
    except ThroughlineError as error:
        yield "bad_classes", f"a class list of no use: {printable(error.what, 200)}"
    if not header.classes:
        yield "bad_classes", "a class list of no use: it is empty"
    if header.classes_sha256 != classes_sha256(header.classes):
        yield "wrong_hash", "classes_sha256 is not the hash of the classes"
    for sha256, prompt in header.prompts.items():
        if sha256 != prompt_sha256(prompt):
            yield "wrong_hash", f"prompt {quoted(sha256)} stands under the hash of another text"


def _candidate_faults(candidate: Candidate) -> Iterator[Fault]:
    for name, number in (("candidate", candidate.candidate), ("round", candidate.round)):
        if number < 0:
            yield "negative_number", f"{name} is {quoted(number)}"
    for name in Usage.model_fields:
        value = getattr(candidate.usage, name, None)
        if value is not None and not 0 <= value <= MOST_USAGE:
            yield "bad_usage", f"{name} is {quoted(value)}"
    named = ("image_sha256", "prompt_sha256", "model", "params", "seed", "candidate")
    if candidate.key != candidate_key(*(getattr(candidate, name) for name in named)):
        yield "wrong_key", "the key is not the hash of image, prompt, model, parameters, seed and number"


def _verdict_faults(verdict: Verdict) -> Iterator[Fault]:
    if verdict.accepted and verdict.outcome != Outcome.OK:
        yield "contradiction", f"accepted with outcome {verdict.outcome}"
    if verdict.rule not in (*RULES, JUDGE):
        yield "unknown_rule", f"verdicts of an unknown rule {quoted(verdict.rule)}"
