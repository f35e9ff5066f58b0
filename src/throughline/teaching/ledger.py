"""What a store already holds of a build, and what is still wanted: a few bytes an image, never a text.

Images with the same bytes are one image here: one of them leads, the others get copies of its lines. A request is
known by its key, so lines of other prompts, models or seeds in the same store count for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from throughline.chains.journal import Problem, scan_journal
from throughline.chains.outcomes import Outcome
from throughline.chains.records import Candidate, Header, Record, Usage, Verdict
from throughline.domains.samples import Sample
from throughline.teaching.teachers import Brief

MOST_CANDIDATES = 64
"""Candidates an image; one bit each."""

JUDGE = "judge"
"""The rule of verdicts that a judge model gave."""
JUDGEABLE = "consistent"
"""A judge is asked about chains that this rule accepts, right or wrong: so being asked says nothing of the label."""

VerdictsOn = Callable[[Candidate, Sample], tuple[Verdict, ...]]
"""The verdicts of all rules that need no model."""


@dataclass
class _Pending:
    """A candidate on its way through the journal: its verdicts stand in later lines."""

    candidate: Candidate
    place: int
    accepted: dict[str, bool] = field(default_factory=dict)


class Ledger:
    """Recorded and accepted candidates of `samples`, by place. `rule` decides, and with a judge its verdict too."""

    def __init__(
        self, samples: Sequence[Sample], brief: Brief, rule: str, verdicts_on: VerdictsOn, with_judge: bool = False
    ) -> None:
        self.samples, self.brief, self.rule, self.with_judge = samples, brief, rule, with_judge
        self.problems = 0
        """Lines of the store that could not be read."""
        self.met: set[str] = set()
        """Those of the watched keys that the store holds an answer to."""
        self.prompt_tokens, self.completion_tokens, self.cost = 0, 0, 0.0
        """Of the recorded candidates, as far as they were reported."""
        self.unjudged: dict[int, list[Candidate]] = {}
        """Candidates that wait for the judge, by leading place."""
        self._verdicts_on = verdicts_on
        self._recorded, self._accepted = (np.zeros(len(samples), np.uint64) for _ in range(2))
        self._lead_of: dict[str, int] = {}
        self._alike: dict[int, list[int]] = {}
        for place, sample in enumerate(samples):
            lead = self._lead_of.setdefault(sample.image_sha256, place)
            if lead != place:
                self._alike.setdefault(lead, [lead]).append(place)

    @property
    def leads(self) -> Iterator[int]:
        """One place for each distinct image, in the samples' order."""
        return iter(self._lead_of.values())

    @property
    def distinct(self) -> int:
        """How many distinct images there are."""
        return len(self._lead_of)

    @property
    def candidates(self) -> int:
        """How many candidates are recorded, copies included."""
        return int(np.bitwise_count(self._recorded).sum())

    @property
    def accepted(self) -> int:
        """How many candidates are accepted, copies included."""
        return int(np.bitwise_count(self._accepted).sum())

    def alike(self, lead: int) -> Sequence[int]:
        """All places with the image of `lead`, itself first."""
        return self._alike.get(lead, (lead,))

    def has(self, lead: int, number: int) -> bool:
        """Whether the candidate is recorded, for every sample of the image."""
        return all(int(self._recorded[place]) >> number & 1 for place in self.alike(lead))

    def accepted_before(self, place: int, number: int) -> int:
        """How many of the sample's candidates below `number` are accepted."""
        return (int(self._accepted[place]) & ((1 << number) - 1)).bit_count()

    def note(self, place: int, number: int, accepted: bool) -> None:
        """The candidate is in the journal with its verdicts, the judge's too where there is one."""
        bit = np.uint64(1 << number)
        self._recorded[place] |= bit
        if accepted:
            self._accepted[place] |= bit

    def waits_for_judge(self, verdicts: Iterable[Verdict]) -> bool:
        """Whether a candidate with these verdicts of the rules is shown to the judge."""
        return self.with_judge and any(one.accepted for one in verdicts if one.rule == JUDGEABLE)

    def read(self, store: Path, watched: Iterable[str] = ()) -> tuple[list[Header], list[Record]]:
        """Takes in what the store's journals hold, in one pass; a store that is not there holds nothing.

        Gives the headers, and the lines that a kill left out and that belong into the journal now: verdicts of
        candidates that have none, copies for images alike.
        """
        watching = frozenset(watched)
        headers: list[Header] = []
        pending: dict[tuple[str, str], _Pending] = {}
        uncopied: dict[tuple[int, int], Candidate] = {}
        for _, _, record in scan_journal(store) if store.is_dir() else ():
            if isinstance(record, Problem):
                self.problems += 1
            elif isinstance(record, Header):
                headers.append(record)
            elif isinstance(record, Verdict):
                self._pay(_usage_of(record))
                one = pending.get((record.key, record.sample_id))
                unanswered = record.rule == JUDGE and record.outcome == Outcome.ERROR
                if one is not None and not unanswered:
                    one.accepted[record.rule] = record.accepted
                    if self._settled(one):
                        del pending[record.key, record.sample_id]
            else:
                if record.key in watching and not record.failed:
                    self.met.add(record.key)
                self._take(record, pending, uncopied)
        mended: list[Record] = []
        for one in pending.values():
            mended += self._mended(one)
        for (lead, number), candidate in uncopied.items():
            for place in self.alike(lead):
                if not int(self._recorded[place]) >> number & 1:
                    sample = self.samples[place]
                    copy = candidate.copied_for(sample.id, sample.domain)
                    mended += [copy, *self._mended(_Pending(copy, place))]
        return headers, mended

    def _take(
        self,
        candidate: Candidate,
        pending: dict[tuple[str, str], _Pending],
        uncopied: dict[tuple[int, int], Candidate],
    ) -> None:
        lead, number = self._lead_of.get(candidate.image_sha256), candidate.candidate
        if lead is None or not 0 <= number < MOST_CANDIDATES or candidate.failed:
            return
        if candidate.key != self.brief.key(candidate.image_sha256, number):
            return
        self._pay(candidate.usage)
        alike = self.alike(lead)
        place = next((one for one in alike if self.samples[one].id == candidate.sample_id), None)
        if place is not None and not int(self._recorded[place]) >> number & 1:
            pending.setdefault((candidate.key, candidate.sample_id), _Pending(candidate, place))
        if len(alike) > 1 or place is None:
            uncopied.setdefault((lead, number), candidate)

    def _pay(self, usage: Usage | None) -> None:
        if usage is not None:
            self.prompt_tokens += usage.prompt_tokens or 0
            self.completion_tokens += usage.completion_tokens or 0
            self.cost += usage.cost or 0.0

    def _settled(self, one: _Pending) -> bool:
        """Notes the candidate once all verdicts that decide have been read."""
        said = one.accepted
        if self.rule not in said or (self.with_judge and JUDGEABLE not in said):
            return False
        if self.with_judge and said[JUDGEABLE] and JUDGE not in said:
            return False
        self.note(
            one.place, one.candidate.candidate, said[self.rule] and (not self.with_judge or said.get(JUDGE, False))
        )
        return True

    def _mended(self, one: _Pending) -> tuple[Verdict, ...]:
        """The verdicts that a candidate lacks at the end of the journal, or its place before the judge."""
        verdicts: tuple[Verdict, ...] = ()
        if self.rule not in one.accepted or (self.with_judge and JUDGEABLE not in one.accepted):
            verdicts = self._verdicts_on(one.candidate, self.samples[one.place])
            one.accepted |= {verdict.rule: verdict.accepted for verdict in verdicts}
        if not self._settled(one):
            self.note(one.place, one.candidate.candidate, False)
            lead = self._lead_of[one.candidate.image_sha256]
            waiting = self.unjudged.setdefault(lead, [])
            if all(other.key != one.candidate.key for other in waiting):
                waiting.append(one.candidate)
        return verdicts


def _usage_of(verdict: Verdict) -> Usage | None:
    """Of a verdict that a judge model gave: a field beyond those of other verdicts."""
    usage = (verdict.model_extra or {}).get("usage")
    return Usage.model_validate(usage) if isinstance(usage, dict) else None
