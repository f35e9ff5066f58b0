"""Whether a journal, a store or an export is what it should be, wherever it comes from. `throughline chains check`
prints what is found here; nothing on disk is changed.

Every line and row that holds anything is counted: read, refused with its place and a reason, or left unread with one.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from throughline.chains.journal import Problem, journal_files
from throughline.core.errors import ThroughlineError
from throughline.core.untrusted import printable, shown_path
from throughline.teaching.export_check import check_export
from throughline.teaching.exports.export import DATA, MARKER
from throughline.teaching.journal_check import PlacedFault, check_journals

NOTES = frozenset(
    (
        *("byte_order_mark", "line_ends", "torn_line", "no_line_break", "repeated", "unknown_field", "unknown_rule"),
        *("image_changed", "answers_differ", "not_compared", "empty_file", "not_a_journal", "no_marker"),
    )
)
"""Kinds that are worth knowing. All others are problems: what a build, an export or a training run could not use or
would misread."""


class Finding(BaseModel):
    """One thing that was found, or the first of several alike."""

    kind: str
    what: str
    """What it repeats of a file is shortened and printable."""
    path: str
    place: int | None = None
    """The line of a journal or the row of a Parquet file, from 1; None where it is about the whole."""
    count: int = 1

    def __str__(self) -> str:
        where = printable(self.path, 1_000) + ("" if self.place is None else f":{self.place}")
        return f"{where}: {self.what}" + (f" (the first of {self.count:,})" if self.count > 1 else "")


class CheckResult(BaseModel):
    """What a check found."""

    path: str
    ok: bool
    """There is no problem."""
    counts: dict[str, int]
    """Of journals: lines = headers + candidates + verdicts + refused + unread. Of exports: rows = read + refused +
    unread. Then what is in them."""
    found: dict[str, int]
    """How often each kind of problem and note was found, those beyond the limit included."""
    problems: tuple[Finding, ...]
    notes: tuple[Finding, ...]

    def lines(self) -> list[str]:
        """The result for the terminal: the counts, problems, notes, and whether all is sound."""
        lines = [", ".join(f"{kind} {count:,}" for kind, count in self.counts.items())] if self.counts else []
        for word, findings in (("problem", self.problems), ("note", self.notes)):
            lines += [f"{word}: {finding}" for finding in findings]
            left = Counter({finding.kind: self.found[finding.kind] for finding in findings})
            for finding in findings:
                left[finding.kind] -= finding.count
            lines += [f"{word}: {kind}, {count:,} more" for kind, count in left.items() if count]
        problems = sum(count for kind, count in self.found.items() if kind not in NOTES)
        return [*lines, "sound" if self.ok else f"not sound, problems: {problems:,}"]


def check_chains(path: Path, *, limit: int = 20) -> CheckResult:
    """Checks a journal file, a store (a folder of journals), an export folder or one of its Parquet files.

    At most `limit` (from 1) findings of a kind are listed, all are counted; notes in the same words are listed as one.
    A line of a newer schema ends the check, and what follows is unread. Memory holds a line or a row, and grows by
    about 300 bytes a candidate. ThroughlineError only when there is nothing at `path`.
    """
    if not path.exists():
        raise ThroughlineError("no such file or folder", path, "name a journal, a store or an export")
    counts, found, listed = Counter[str](), Counter[str](), Counter[str]()
    findings: dict[tuple[str, str | int], Finding] = {}
    for kind, problem in _faults(path, counts):
        found[kind] += 1
        key = kind, problem.what if kind in NOTES else found[kind]
        if key in findings:
            findings[key].count += 1
        elif listed[kind] < limit:
            listed[kind] += 1
            findings[key] = Finding(kind=kind, what=problem.what, path=shown_path(problem.path), place=problem.line)
    return CheckResult(
        path=shown_path(path),
        ok=found.keys() <= NOTES,
        counts=dict(counts),
        found=dict(found),
        problems=tuple(finding for finding in findings.values() if finding.kind not in NOTES),
        notes=tuple(finding for finding in findings.values() if finding.kind in NOTES),
    )


def _faults(path: Path, counts: Counter[str]) -> Iterator[PlacedFault]:
    """Everything that is found at `path`, as it is read."""
    folder = path if path.is_dir() else None
    journals, shards = journal_files(path), sorted((path / DATA).glob("*.parquet"))
    if path.suffix == ".parquet" and folder is None:
        journals, shards = [], [path]
    if journals:
        yield from check_journals(path, journals, counts)
    if shards or (path / MARKER).exists():
        yield from check_export(folder, shards, counts)
    elif not journals:
        yield "nothing_here", Problem(path, None, f"no journal-<shard>.jsonl and no {DATA}/*.parquet in this folder")
    for other in sorted(set(folder.glob("*.jsonl*")) - set(journals)) if folder is not None else ():
        yield "not_a_journal", Problem(other, None, "no part of the store, which is journal-<shard>.jsonl")
