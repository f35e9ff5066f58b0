"""Whether a journal, a store or an export is what it should be, wherever it comes from. `throughline chains check`
prints what is found here; nothing on disk is changed.

Problems are what a build, an export or a training run could not use or would misread; notes are worth knowing. Every
line and row that holds anything is counted: read, refused with its place and a reason, or left unread with one.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from throughline.chains.journal import journal_files
from throughline.core.errors import ThroughlineError
from throughline.teaching.checks.exports import ExportCheck
from throughline.teaching.checks.findings import Finding, Findings, named
from throughline.teaching.checks.journals import JournalCheck
from throughline.teaching.exports.export import DATA, MARKER


class CheckResult(BaseModel):
    """What a check found."""

    model_config = ConfigDict(frozen=True)

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
            listed = Counter[str]()
            for finding in findings:
                lines.append(f"{word}: {finding}")
                listed[finding.kind] += finding.count
            more = {kind: self.found[kind] - count for kind, count in listed.items()}
            lines += [f"{word}: {kind}, {count:,} more" for kind, count in more.items() if count]
        problems = sum(self.found[kind] for kind in {finding.kind for finding in self.problems})
        return [*lines, "sound" if self.ok else f"not sound, problems: {problems:,}"]


def check_chains(path: Path, *, limit: int = 20) -> CheckResult:
    """Checks a journal file, a store (a folder of journals), an export folder or one of its Parquet files.

    At most `limit` (from 1) findings of a kind are listed, all are counted. A line of a newer schema ends the check,
    and what follows is unread. Memory holds a line or a batch of rows, and grows by about 300 bytes a candidate.
    ThroughlineError only when there is nothing at `path`.
    """
    if not path.exists():
        raise ThroughlineError("no such file or folder", path, "name a journal, a store or an export")
    findings, counts = Findings(limit), Counter[str]()
    folder = path if path.is_dir() else None
    if folder is not None:
        journals, shards = journal_files(folder), sorted((folder / DATA).glob("*.parquet"))
    else:
        journals, shards = ([], [path]) if path.suffix == ".parquet" else ([path], [])
    if journals:
        JournalCheck(findings, counts).check(path, journals)
    if shards or (path / MARKER).exists():
        ExportCheck(findings, counts, folder).check(shards)
    elif not journals:
        findings.problem("nothing_here", f"no journal-<shard>.jsonl and no {DATA}/*.parquet in this folder", path)
    for other in sorted(set(folder.glob("*.jsonl*")) - set(journals)) if folder is not None else ():
        findings.note("not_a_journal", "no part of the store, which is journal-<shard>.jsonl", other)
    return CheckResult(
        path=named(path),
        ok=findings.ok,
        counts=dict(counts),
        found=dict(findings.counts),
        problems=tuple(findings.problems),
        notes=tuple(findings.notes),
    )
