"""A chain store as columns of numbers: a row for each request on a sample, with what `chains stats` counts of it.
Filled line by line by `statistics`; no text is kept.
"""

from __future__ import annotations

from array import array
from typing import Any

from throughline.chains.formats import FORMATS, tag_pattern
from throughline.chains.journal import Problem
from throughline.chains.outcomes import Outcome
from throughline.chains.parsing import parse_chain
from throughline.chains.records import Candidate, Record, Usage, Verdict
from throughline.chains.rules import RULES
from throughline.chains.verdicts import verdicts_on
from throughline.domains.samples import ImageSet
from throughline.teaching.vetoes import request_of

ABSENT, FAILED, ANSWERED = range(3)
"""States of a row; absent are candidates of which only verdicts were read."""
MEASURES = ("prompt_tokens", "completion_tokens", "cost")
OUTCOMES = tuple(Outcome)

_MOST = 1e15
"""No honest count of tokens is larger; beyond it sums would no longer be exact."""
_COLUMNS = ("state", "key", "text", "sample", "domain", "label", "number", "teacher", "words", "usage", "reports")


class _Names:
    """Values that repeat, by number; each is kept once."""

    def __init__(self) -> None:
        self._index: dict[Any, int] = {}

    def __call__(self, value: Any) -> int:
        return self._index.setdefault(value, len(self._index))

    @property
    def values(self) -> list[Any]:
        """The values, each at its number."""
        return list(self._index)


class Rows:
    """The store as columns: a row for each (key, sample_id), whichever of its lines is read first."""

    def __init__(self, images: ImageSet | None) -> None:
        self.images = images
        self.lines = self.duplicates = self.problems = self.unusable_usage = 0
        self.columns = {name: array("q" if name in ("key", "text") else "i") for name in _COLUMNS}
        """`key` and `text` are hashes; `label` is -1 where `images` does not tell; `usage` is 1 where there is one;
        `reports` has a bit for each of `MEASURES`; the others are states, counts and numbers of `_Names`."""
        self.samples, self.domains, self.labels = _Names(), _Names(), _Names()
        self.numbers, self.teachers = _Names(), _Names()
        self.verdicts: dict[str, bytearray] = {}
        """By rule and row: 0 where there is none, else 1 + 2 · outcome + accepted. The end may be missing."""
        self.stages: dict[str, tuple[array[int], array[int]]] = {}
        """By format: the rows of well-formed chains, and the words of their stages, chain after chain."""
        self.totals: dict[int, list[Any]] = {}
        """Sums of `MEASURES` by teacher."""
        self.judging: dict[int, tuple[int, list[Any]]] = {}
        """What a judge model took, by hash of the key and rule: the row, and `MEASURES`."""
        self.unknown: set[int] = set()
        """The samples that `images` does not hold."""
        self.changed: set[int] = set()
        """The samples that it holds with another image than the one that was asked about."""
        self.formats: set[str] = set()
        self.prompts: set[str] = set()
        self._index: dict[int, int] = {}
        """Request → row."""
        self._judged: set[int] = set()

    def add(self, record: Record | Problem) -> None:
        """Takes in the next line of the store."""
        self.lines += 1
        if isinstance(record, Problem):
            self.problems += 1
        elif isinstance(record, Verdict):
            self._note(self._row(record), record)
        elif isinstance(record, Candidate):
            self._add_candidate(record)

    def judge(self, record: Record | Problem) -> None:
        """Verdicts by all rules on an answer that stands: the second reading of a store that has no verdicts."""
        if self.images is None or not isinstance(record, Candidate) or record.failed or record.format not in FORMATS:
            return
        row = self._row(record)
        if row in self._judged or self.columns["state"][row] != ANSWERED or self.columns["label"][row] < 0:
            return
        self._judged.add(row)
        label = self.images.by_id[record.sample_id].label
        for verdict in verdicts_on(record, RULES, FORMATS[record.format], self.images.classes, label):
            self._note(row, verdict)

    def _row(self, record: Candidate | Verdict) -> int:
        row = self._index.setdefault(request_of(record), len(self._index))
        if row == len(self.columns["state"]):
            for column in self.columns.values():
                column.append(0)
        return row

    def _note(self, row: int, verdict: Verdict) -> None:
        noted = self.verdicts.setdefault(verdict.rule, bytearray())
        noted.extend(bytes(max(0, row + 1 - len(noted))))
        noted[row] = 1 + 2 * OUTCOMES.index(verdict.outcome) + verdict.accepted
        paid = (verdict.model_extra or {}).get("usage")
        if isinstance(paid, dict):  # of a judge model; a copy's verdict repeats what was paid once
            values = [paid.get(name) for name in MEASURES]
            self.judging.setdefault(hash((verdict.key, verdict.rule)), (row, [self._usable(one) for one in values]))

    def _add_candidate(self, candidate: Candidate) -> None:
        row = self._row(candidate)
        state = self.columns["state"][row]
        self.duplicates += state != ABSENT
        if state != ANSWERED:
            if state == FAILED and not candidate.failed:
                self._forget_failure(row)
            self._fill(row, candidate)
        elif not candidate.failed and self.columns["text"][row] != hash(candidate.text):
            self.problems += 1

    def _forget_failure(self, row: int) -> None:
        """What was said of the failed request is not said of the answer."""
        for noted in self.verdicts.values():
            if row < len(noted) and noted[row] == 1 + 2 * OUTCOMES.index(Outcome.ERROR):
                noted[row] = 0

    def _fill(self, row: int, candidate: Candidate) -> None:
        sample = self.samples(hash(candidate.sample_id))
        values = {
            "state": FAILED if candidate.failed else ANSWERED,
            "key": hash(candidate.key),
            "text": hash(candidate.text),
            "sample": sample,
            "domain": self.domains(candidate.domain),
            "label": self._label(candidate, sample),
            "number": self.numbers(candidate.candidate),
            "teacher": self.teachers((candidate.source, candidate.model, candidate.round)),
        }
        for name, value in values.items():
            self.columns[name][row] = value
        self.formats.add(candidate.format)
        self.prompts.add(candidate.prompt_sha256)
        if not candidate.failed:
            self._measure(row, candidate)
            self._spend(row, candidate.usage)

    def _label(self, candidate: Candidate, sample: int) -> int:
        found = None if self.images is None else self.images.by_id.get(candidate.sample_id)
        if found is None:
            self.unknown.add(sample)
        elif found.image_sha256 != candidate.image_sha256:
            self.changed.add(sample)
        elif found.task == "single":
            return self.labels(found.label)
        return -1

    def _measure(self, row: int, candidate: Candidate) -> None:
        format = FORMATS.get(candidate.format)
        text = candidate.text if format is None else tag_pattern(format).sub(" ", candidate.text)
        self.columns["words"][row] = len(text.split())
        if format is None:
            return
        # Without classes: where a chain's stages are does not depend on what its answer names.
        chain = parse_chain(candidate.text, format, (), candidate.finish_reason).chain
        if chain is not None:
            rows, words = self.stages.setdefault(format.name, (array("i"), array("i")))
            rows.append(row)
            words.extend(len(stage.split()) for stage in chain.stages)

    def _spend(self, row: int, usage: Usage | None) -> None:
        totals = self.totals.setdefault(self.columns["teacher"][row], [0, 0, 0.0])
        self.columns["usage"][row] = usage is not None
        for place, name in enumerate(MEASURES):
            value = self._usable(getattr(usage, name, None))
            if value is not None:
                totals[place] += value
                self.columns["reports"][row] |= 1 << place

    def _usable(self, value: Any) -> int | float | None:
        if value is None:
            return None
        usable = isinstance(value, int | float) and 0 <= value <= _MOST
        self.unusable_usage += not usable
        return value if usable else None
