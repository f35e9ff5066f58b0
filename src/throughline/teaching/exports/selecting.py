"""Which lines of a chain store are exported. Called by `exporting`.

Chains are judged anew, from their texts and the images' labels: a rule's verdict lines are not believed, a judge
model's are. The store is read twice: first to see which lines to keep (memory grows with the number of requests, not
with the texts), then only those lines, in the order of the images, so that the export does not depend on the order in
which answers came in.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from throughline.chains.journal import Problem, journal_files, scan_journal
from throughline.chains.records import Candidate, Header, Verdict, classes_sha256
from throughline.chains.rules import RULES
from throughline.chains.verdicts import verdicts_on
from throughline.core.errors import ThroughlineError
from throughline.domains.samples import Sample
from throughline.teaching.exports.records import NAMED, ExportPlan, Spent
from throughline.teaching.vetoes import Vetoes, request_of

_BITS = {rule: 1 << place for place, rule in enumerate(RULES)}


class Place(NamedTuple):
    """Where an accepted chain stands; places sort in the order in which the candidates of a sample come."""

    round: int
    candidate: int
    file: int
    """Counted in reading order."""
    line: int
    """From 1."""
    request: int
    """See `vetoes.request_of`."""


Chosen = Sequence[tuple[Sample, Sequence[Place]]]
"""The samples to export, each with its chains' places."""


@dataclass(slots=True)
class _Asked:
    """What is kept of an asked sample."""

    accepted_by: int = 0
    """A bit for each rule that accepts one of its candidates."""
    places: list[Place] = field(default_factory=list)
    """The candidates that the plan's rule accepts."""


class Survey:
    """The first reading of a store: the lines to keep, and the counts of everything else."""

    def __init__(self, plan: ExportPlan) -> None:
        self.prompts: dict[str, str] = {}
        """SHA-256 → text, as far as headers tell."""
        self.spent = Spent()
        """By all answers."""
        self.asked: dict[str, _Asked] = {}
        """By sample id: those that the image folder has and the store has a request for."""
        self.failed: set[int] = set()
        """Requests that never got an answer."""
        self.missing: set[str] = set()
        """Samples that the image folder does not have."""
        self.changed: set[str] = set()
        """Samples whose image is another now."""
        self.problems: list[str] = []
        """The first lines that cannot be used; `problem_count` counts them all."""
        self.problem_count = self.duplicates = self.other_format = self.other_classes = 0
        self._plan, self._classes_sha256 = plan, classes_sha256(plan.images.classes)
        self._vetoes = Vetoes()
        self._answered: set[int] = set()
        self._files: dict[Path, int] = {}

    def read(self, store: Path) -> None:
        """Reads the whole store; ThroughlineError when it cannot be read or holds no journal."""
        if store.is_dir() and not journal_files(store):
            raise ThroughlineError("no journal in this folder", store, "name a folder of journal-<shard>.jsonl")
        for path, line, record in scan_journal(store):
            if isinstance(record, Problem):
                self.problem_count += 1
                if len(self.problems) < NAMED:
                    self.problems.append(f"{path.name}:{line}: {record.what}")
            elif isinstance(record, Header):
                self.prompts.update(record.prompts)
            elif isinstance(record, Verdict):
                self._vetoes.note(record)
            else:
                self._take(record, self._files.setdefault(path, len(self._files)), line)
        self._answered.clear()  # a good part of the memory, and of no further use

    def _take(self, candidate: Candidate, file: int, line: int) -> None:
        request = request_of(candidate)
        if request in self._answered:  # the first line that is no failure stands, as in `read_journal`
            self.duplicates += 1
            return
        if candidate.failed:
            self.failed.add(request)
        else:
            self._answered.add(request)
            self.failed.discard(request)
            self.spent.add(candidate)
        sample = self._plan.images.by_id.get(candidate.sample_id)
        if sample is None:
            self.missing.add(candidate.sample_id)
        elif sample.image_sha256 != candidate.image_sha256:
            self.changed.add(sample.id)
        elif candidate.format != self._plan.format.name:
            self.other_format += not candidate.failed
        else:
            asked = self.asked.setdefault(sample.id, _Asked())
            if not candidate.failed:
                self.other_classes += candidate.classes_sha256 != self._classes_sha256
                accepted_by = self._accepted_by(candidate, sample)
                asked.accepted_by |= accepted_by
                if accepted_by & _BITS[self._plan.rule]:
                    asked.places.append(Place(candidate.round, candidate.candidate, file, line, request))

    def _accepted_by(self, candidate: Candidate, sample: Sample) -> int:
        verdicts = verdicts_on(candidate, RULES, self._plan.format, self._plan.images.classes, sample.label)
        return sum(_BITS[verdict.rule] for verdict in verdicts if verdict.accepted)

    @property
    def vetoed(self) -> int:
        """Answers that the rule accepts and the judge does not."""
        return sum(self._vetoes.on(place.request) for asked in self.asked.values() for place in asked.places)

    def accepted(self) -> dict[str, int]:
        """Rule → asked samples of which it accepts a candidate, whatever the judge said."""
        return {rule: sum(asked.accepted_by & bit > 0 for asked in self.asked.values()) for rule, bit in _BITS.items()}

    def chosen(self) -> Chosen:
        """The samples to export in the image set's order: the first accepted chain of each, or all."""
        most = None if self._plan.every_accepted else 1
        chosen = []
        for sample in self._plan.images.samples:
            accepted = self.asked[sample.id].places if sample.id in self.asked else []
            places = sorted(place for place in accepted if not self._vetoes.on(place.request))
            if places:
                chosen.append((sample, places[:most]))
        return chosen

    def read_again(self, chosen: Chosen) -> Iterator[tuple[Sample, list[Candidate]]]:
        """The chosen lines of each sample, one sample in memory at a time.

        ThroughlineError when they are no longer what was read before; a store that only grew is no trouble.
        """
        files = list(self._files)
        wanted: list[set[int]] = [set() for _ in files]
        for place in (place for _, places in chosen for place in places):
            wanted[place.file].add(place.line)
        offsets = [
            {line: offset for line, offset in _offsets(path) if line in lines}
            for path, lines in zip(files, wanted, strict=True)
        ]
        for sample, places in chosen:
            yield (
                sample,
                [_candidate_at(files[one.file], offsets[one.file].get(one.line), one.request) for one in places],
            )


def _offsets(path: Path) -> Iterator[tuple[int, int]]:
    """(line number from 1, where in the file it starts)"""
    offset = 0
    with _store_unchanged(path), path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            yield number, offset
            offset += len(line)


def _candidate_at(path: Path, offset: int | None, request: int) -> Candidate:
    with _store_unchanged(path), path.open("rb") as file:
        if offset is None:
            raise ValueError("the file ends before the line")
        file.seek(offset)
        candidate = Candidate.model_validate(json.loads(file.readline().decode("utf-8-sig")))
        if request_of(candidate) != request:
            raise ValueError("another line stands here")
    return candidate


@contextlib.contextmanager
def _store_unchanged(path: Path) -> Iterator[None]:
    """What could be read once and now cannot is no bug of ours."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise ThroughlineError("the store changed while it was exported", path, "export again") from error
