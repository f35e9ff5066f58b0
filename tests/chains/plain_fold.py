"""A store folded as plainly as can be, every record in memory: what `read_store` is compared with."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from throughline.chains.journal import Problem, journal_files, parse_line, read_lines
from throughline.chains.records import Candidate, Header, Verdict


@dataclass(frozen=True)
class Journal:
    headers: tuple[Header, ...]
    candidates: tuple[Candidate, ...]
    verdicts: tuple[Verdict, ...]
    problems: tuple[Problem, ...]
    contradictions: int
    duplicates: int

    def accepted(self, rule: str) -> tuple[Candidate, ...]:
        kept = {(v.key, v.sample_id) for v in self.verdicts if v.rule == rule and v.accepted}
        return tuple(candidate for candidate in self.candidates if (candidate.key, candidate.sample_id) in kept)


def read_journal(paths: Path | Iterable[Path]) -> Journal:
    headers: dict[str, Header] = {}
    candidates: dict[tuple[str, str], Candidate] = {}
    verdicts: dict[tuple[str, str, str], Verdict] = {}
    problems, contradictions, duplicates = [], 0, 0
    for path in (file for given in ([paths] if isinstance(paths, Path) else paths) for file in journal_files(given)):
        for line in read_lines(path):
            record = parse_line(path, line)
            if isinstance(record, Problem):
                problems.append(record)
            elif isinstance(record, Header):
                headers.setdefault(record.line(), record)
            elif isinstance(record, Verdict):
                identity = (record.key, record.sample_id, record.rule)
                verdicts.pop(identity, None)
                verdicts[identity] = record
            else:
                first = candidates.setdefault((record.key, record.sample_id), record)
                duplicates += first is not record
                if first.failed:
                    candidates[record.key, record.sample_id] = record
                else:
                    contradictions += first.text != record.text and not record.failed
    return Journal(
        tuple(headers.values()),
        tuple(candidates.values()),
        tuple(verdicts.values()),
        tuple(problems),
        contradictions,
        duplicates,
    )
