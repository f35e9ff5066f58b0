"""What a store already holds of a build, and what is still wanted: a few bits for a candidate, not its text.

Images with the same bytes are one image here: one of them leads, the others get copies of its lines. A request is
known by its key, so lines of other prompts, models or seeds in the same store count for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import ValidationError

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
    """A candidate whose verdict lines have not all been met yet; they mostly stand right behind it."""

    candidate: Candidate
    place: int
    missing: dict[str, Verdict]
    """By rule: what the journal has to say, and does not yet."""


class Ledger:
    """Recorded and accepted candidates of `samples`, by place. `rule` decides, and with a judge its verdict too."""

    def __init__(
        self,
        samples: Sequence[Sample],
        brief: Brief,
        format: str,
        rule: str,
        verdicts_on: VerdictsOn,
        judge: str | None = None,
    ) -> None:
        self.samples, self.brief, self.format, self.rule, self.judge = samples, brief, format, rule, judge
        self.problems = 0
        """Lines of the store that could not be read."""
        self.met: set[str] = set()
        """Those of the watched keys that the store holds an answer to."""
        self.cost = 0.0
        """US dollars behind all lines of the store, whatever was asked."""
        self.paid_answers, self.prompt_tokens, self.completion_tokens = 0, 0, 0
        """Recorded candidates of this brief that report their usage, and their tokens."""
        self.unjudged: dict[int, list[Candidate]] = {}
        """Candidates that wait for the judge, by leading place. Whole, since the judge has to read them: few, unless a
        judge is called to a store that was built without one."""
        self._judged: dict[str, bool] = {}
        self._verdicts_on = verdicts_on
        self._recorded, self._passed, self._accepted = (np.zeros(len(samples), np.uint64) for _ in range(3))
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
        return all(self._has(place, number) for place in self.alike(lead))

    def accepted_before(self, place: int, number: int) -> int:
        """How many of the sample's candidates below `number` are accepted."""
        return (int(self._accepted[place]) & ((1 << number) - 1)).bit_count()

    def take(self, place: int, candidate: Candidate, verdicts: Sequence[Verdict]) -> bool:
        """The candidate is in the journal. Gives whether it waits for the judge."""
        number, lead = candidate.candidate, self._lead_of[candidate.image_sha256]
        by_rule = {verdict.rule: verdict.accepted for verdict in verdicts}
        self._recorded[place] |= _bit(number)
        if by_rule[self.rule]:
            self._passed[place] |= _bit(number)
        if self.judge is None:
            if by_rule[self.rule]:
                self._accepted[place] |= _bit(number)
            return False
        if not by_rule[JUDGEABLE]:
            return False
        waiting = self.unjudged.setdefault(lead, [])
        if all(one.key != candidate.key for one in waiting):
            waiting.append(candidate)
        return True

    def judged(self, lead: int, candidate: Candidate, accepted: bool) -> None:
        """The judge has spoken: the samples whose rule accepts the candidate accept it, if the judge does."""
        for place in self.alike(lead):
            if accepted and int(self._passed[place]) >> candidate.candidate & 1:
                self._accepted[place] |= _bit(candidate.candidate)

    def read(self, store: Path, watched: Iterable[str] = ()) -> tuple[list[tuple[Path, Header]], list[Record]]:
        """Takes in what the store's journals hold, in one pass; a store that is not there holds nothing.

        Candidates are judged anew: rules and labels may have changed since. Gives the headers with their files, and the
        lines that the journals lack: verdicts that are other now or that a kill left out, copies for images alike.
        """
        watching = frozenset(watched)
        headers: list[tuple[Path, Header]] = []
        pending: dict[tuple[str, str], _Pending] = {}
        early: dict[tuple[str, str, str], bool] = {}
        uncopied: dict[tuple[int, int], Candidate] = {}
        for path, _, record in scan_journal(store) if store.is_dir() else ():
            if isinstance(record, Problem):
                self.problems += 1
            elif isinstance(record, Header):
                headers.append((path, record))
            elif isinstance(record, Verdict):
                self._hear(record, pending, early)
            else:
                self._pay(record.usage)
                if record.key in watching and not record.failed:
                    self.met.add(record.key)
                self._take(record, pending, uncopied)
        mended: list[Record] = []
        for (key, sample_id), one in pending.items():
            said = {
                rule for rule, verdict in one.missing.items() if early.get((key, sample_id, rule)) == verdict.accepted
            }
            mended += [verdict for rule, verdict in one.missing.items() if rule not in said]
        for (lead, number), candidate in uncopied.items():
            for place in self.alike(lead):
                if not self._has(place, number):
                    sample = self.samples[place]
                    copy = candidate.copied_for(sample.id, sample.domain)
                    mended += [copy, *self._noted(copy, place)]
        self._await_judge()
        return headers, mended

    def _hear(
        self,
        verdict: Verdict,
        pending: dict[tuple[str, str], _Pending],
        early: dict[tuple[str, str, str], bool],
    ) -> None:
        if verdict.rule == JUDGE:
            self._pay(_usage_of(verdict))
            if verdict.outcome != Outcome.ERROR and (verdict.model_extra or {}).get("model") == self.judge:
                self._judged[verdict.key] = verdict.accepted
            return
        one = pending.get((verdict.key, verdict.sample_id))
        if one is None:
            if verdict.rule == self.rule:
                early[verdict.key, verdict.sample_id, verdict.rule] = verdict.accepted
            return
        known = one.missing.get(verdict.rule)
        if known is not None and known.accepted == verdict.accepted:
            del one.missing[verdict.rule]
        if not one.missing:
            del pending[verdict.key, verdict.sample_id]

    def _take(
        self,
        candidate: Candidate,
        pending: dict[tuple[str, str], _Pending],
        uncopied: dict[tuple[int, int], Candidate],
    ) -> None:
        lead, number = self._lead_of.get(candidate.image_sha256), candidate.candidate
        if lead is None or not 0 <= number < MOST_CANDIDATES or candidate.failed:
            return
        if candidate.key != self.brief.key(candidate.image_sha256, number) or candidate.format != self.format:
            return
        if candidate.usage is not None:
            self.paid_answers += 1
            self.prompt_tokens += candidate.usage.prompt_tokens or 0
            self.completion_tokens += candidate.usage.completion_tokens or 0
        alike = self.alike(lead)
        place = next((one for one in alike if self.samples[one].id == candidate.sample_id), None)
        if place is not None and not self._has(place, number):
            verdicts = self._noted(candidate, place)
            pending[candidate.key, candidate.sample_id] = _Pending(candidate, place, {v.rule: v for v in verdicts})
        if len(alike) > 1 or place is None:
            uncopied.setdefault((lead, number), candidate)

    def _noted(self, candidate: Candidate, place: int) -> tuple[Verdict, ...]:
        verdicts = self._verdicts_on(candidate, self.samples[place])
        self.take(place, candidate, verdicts)
        return verdicts

    def _await_judge(self) -> None:
        """What the judge has said of the candidates that wait for it; the others go on waiting."""
        for lead, candidates in list(self.unjudged.items()):
            waiting = []
            for candidate in candidates:
                if candidate.key in self._judged:
                    self.judged(lead, candidate, self._judged[candidate.key])
                else:
                    waiting.append(candidate)
            if waiting:
                self.unjudged[lead] = waiting
            else:
                del self.unjudged[lead]

    def _has(self, place: int, number: int) -> bool:
        return bool(int(self._recorded[place]) >> number & 1)

    def _pay(self, usage: Usage | None) -> None:
        self.cost += usage.cost or 0.0 if usage is not None else 0.0


def _usage_of(verdict: Verdict) -> Usage | None:
    """Of a verdict that a judge model gave: a field beyond those of other verdicts."""
    try:
        return Usage.model_validate((verdict.model_extra or {}).get("usage"))
    except ValidationError:
        return None


def _bit(number: int) -> np.uint64:
    return np.uint64(1 << number)
