"""What a build writes: candidates with their verdicts, at once and for every image alike, and the account of it.

`BuildPlan` says what is wanted, `Recorder` holds the store open for one writer and knows what is there, `Progress` is
what the user watches. `building` and `batch_files` bring the answers; labels meet them here, at verdict time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

from throughline.chains.formats import ChainFormat
from throughline.chains.journal import JournalWriter
from throughline.chains.outcomes import Outcome
from throughline.chains.records import Candidate, Header, Usage, Verdict, classes_sha256
from throughline.chains.rules import RULES
from throughline.chains.verdicts import verdicts_on
from throughline.core.errors import ThroughlineError
from throughline.domains.samples import ImageSet, Sample
from throughline.teaching.in_flight import InFlight, lost_in
from throughline.teaching.ledger import MOST_CANDIDATES, Ledger
from throughline.teaching.teachers import Ask, Brief, Written

Clock = Callable[[], str | None]
"""The time of a line, ISO 8601 in UTC; None where results must not depend on the date."""


@dataclass(frozen=True)
class BuildPlan:
    """Which images get chains, and when an image has enough."""

    images: ImageSet
    format: ChainFormat
    rule: str = "correct"
    """The rule that decides; the verdicts of all rules are written."""
    candidates: int = 4
    """Chains asked for per image at most."""
    enough: int | None = 1
    """Accepted chains at which an image is done; None asks for all candidates whatever comes."""
    shard: tuple[int, int] = (0, 1)
    """This writer's number, from 0, and how many there are; an image belongs to one by its bytes."""
    images_named: str | None = None
    """The image folder as the user named it, for the header."""
    max_cost: float | None = None
    """US dollars that the store may have cost, whatever was asked; requests that would lead beyond are not made."""

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ThroughlineError("unknown verdict rule", repr(self.rule), f"name one of {', '.join(RULES)}")
        if not 1 <= self.candidates <= MOST_CANDIDATES:
            raise ThroughlineError("candidates per image", self.candidates, f"ask for 1 to {MOST_CANDIDATES}")
        number, count = self.shard
        if not 0 <= number < count:
            raise ThroughlineError("no such shard", f"{number}/{count}", "number them from 0, e.g. 0/4 to 3/4")

    @cached_property
    def samples(self) -> tuple[Sample, ...]:
        """The images of this writer."""
        number, count = self.shard
        if count == 1:
            return self.images.samples
        return tuple(sample for sample in self.images.samples if int(sample.image_sha256[:8], 16) % count == number)


@dataclass
class Progress:
    """How far a build is; the same object all the time, changed in place."""

    images: int = 0
    """Distinct images of this writer."""
    done: int = 0
    accepted: int = 0
    """Images with enough accepted chains."""
    failed: int = 0
    """Images whose last request failed for good; the next build asks again."""
    cached: int = 0
    """Candidates that the store held already."""
    answers: int = 0
    """Candidates written by this build."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    """US dollars in the store, earlier builds included."""
    spent: float = 0.0
    """US dollars of this build."""
    lost: int = 0
    """Requests under way at earlier kills whose answers were never recorded, over the store's life."""
    problems: int = 0
    """Lines of the store that could not be read."""
    stopped_at_cost: bool = False
    interrupted: bool = False
    judged: int = 0
    """Chains that the judge was shown in this build."""
    judge_agreed: int = 0
    judge_failed: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    """Why requests failed, in this build."""
    by_rule: dict[str, int] = field(default_factory=lambda: dict.fromkeys(RULES, 0))
    """How many of this build's answers each rule accepts."""
    outcomes: dict[str, int] = field(default_factory=dict)
    """Of this build's answers, under the deciding rule; `rejected_class` concludes well-formed in another class."""


class Recorder:
    """The store, open for one writer: what it holds of the plan, and the way in for answers.

    Opening repairs what a kill tore and counts the requests that it lost. ThroughlineError when the store cannot be
    written or another writer holds the shard.
    """

    def __init__(self, plan: BuildPlan, brief: Brief, store: Path, clock: Clock, judge: str | None = None) -> None:
        self.plan, self.brief = plan, brief
        self.progress = Progress()
        self._clock = clock
        self._classes_sha256 = classes_sha256(plan.images.classes)
        self._asked = 0
        """Requests that are out."""
        self._paid = 0
        """Answers behind the store's cost."""
        self.ledger = Ledger(plan.samples, plan.images.classes, plan.format, brief, plan.rule, judge)
        shard = plan.shard[0]
        self._writer = JournalWriter(store / f"journal-{shard}.jsonl", flush_every=256)
        try:
            self.flight = InFlight(store / f"in-flight-{shard}.txt")
            self._open(store)
        except BaseException:
            self._writer.close()
            raise

    def _open(self, store: Path) -> None:
        held, lines = self.ledger.read(store)
        header = self._header()
        # Every file explains its own candidates, wherever it is carried.
        if not any(path == self._writer.path and _same(header, known) for path, known in held.headers):
            self._writer.write(header)
        for record in lines:
            self._writer.write(record)
        under_way = {hash(key): key for key in self.flight.under_way}
        answered = held.columns("key", "failed").query("not failed")["key"] if under_way else ()
        self.flight.settle(under_way[key] for key in answered if key in under_way)
        ledger, progress = self.ledger, self.progress
        progress.images, progress.lost, progress.problems = ledger.distinct, lost_in(store), ledger.problems
        progress.cached = ledger.candidates
        progress.prompt_tokens, progress.completion_tokens = ledger.prompt_tokens, ledger.completion_tokens
        progress.cost, self._paid = ledger.cost, ledger.paid_answers

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()
        self.flight.close()

    def ask(self, lead: int, number: int) -> Ask:
        """The request for the `number`-th candidate of an image; `record` has to follow where the store lacks it."""
        sample = self.ledger.samples[lead]
        self._asked += not self.ledger.has(lead, number)
        proven = bool(self.progress.cached or self.progress.answers)
        return Ask(sample, number, self.brief.key(sample.image_sha256, number), self.flight, proven)

    def enough(self, lead: int, number: int) -> bool:
        """No further candidate is wanted after those below `number`."""
        return self.plan.enough is not None and self.ledger.accepted_before(lead, number) >= self.plan.enough

    def affordable(self) -> bool | None:
        """Whether one more request stays below the plan's cost, those under way taken at the mean of the paid ones.

        None: not known before one of those under way is answered.
        """
        most, progress = self.plan.max_cost, self.progress
        if most is None:
            return True
        if not self._paid:
            return True if not self._asked else None
        mean = progress.cost / self._paid
        if progress.cost + (self._asked + 1) * mean <= most:
            return True
        return None if self._asked else False

    def record(self, lead: int, ask: Ask, written: Written) -> None:
        """Writes the answer and every rule's verdict for all samples with this image.

        An answer that the judge has to be asked about waits in `ledger.unjudged`: `record_judgement` has to follow.
        """
        progress = self.progress
        candidate = self._candidate(ask, written)
        for place in self.ledger.alike(lead):
            sample = self.ledger.samples[place]
            line = candidate if place == lead else candidate.copied_for(sample.id, sample.domain)
            verdicts = self._verdicts(line, sample)
            self._writer.write(line, *verdicts)
            if not candidate.failed:
                accepted = {verdict.rule: verdict.accepted for verdict in verdicts}
                if self.ledger.take(place, candidate.candidate, accepted):
                    self.ledger.await_judge(lead, candidate)
                if place == lead:
                    _count(progress.outcomes, next(verdict for verdict in verdicts if verdict.rule == self.plan.rule))
                    for rule in RULES:
                        progress.by_rule[rule] += accepted[rule]
        self.flight.returned(ask.key)
        self._asked -= 1
        progress.answers += not candidate.failed
        if candidate.failed:
            progress.reasons[candidate.text] = progress.reasons.get(candidate.text, 0) + 1
        self._pay(written.usage)

    def record_judgement(self, lead: int, candidate: Candidate, verdict: Verdict) -> None:
        """Writes what the judge made of a candidate, for all samples with this image."""
        for place in self.ledger.alike(lead):
            sample = self.ledger.samples[place]
            paid = {} if place == lead else {"usage": None}  # a copy cost nothing
            self._writer.write(verdict.model_copy(update={"sample_id": sample.id, "created": self._clock(), **paid}))
        self.progress.judged += 1
        self.progress.judge_agreed += verdict.accepted
        self.progress.judge_failed += verdict.outcome == Outcome.ERROR
        if verdict.outcome != Outcome.ERROR:
            self.ledger.take_judgement(lead, candidate.candidate, verdict.accepted)
        self._pay(verdict.usage)

    def _candidate(self, ask: Ask, written: Written) -> Candidate:
        sample = ask.sample
        return Candidate(
            key=ask.key,
            sample_id=sample.id,
            image_sha256=sample.image_sha256,
            domain=sample.domain,
            classes_sha256=self._classes_sha256,
            format=self.plan.format.name,
            source=self.brief.source,
            model=self.brief.model,
            prompt_sha256=self.brief.prompt_sha256,
            params=dict(self.brief.params),
            seed=self.brief.seed,
            candidate=ask.candidate,
            text=_whole(written.text),
            finish_reason=None if written.finish_reason is None else _whole(written.finish_reason),
            usage=written.usage,
            created=self._clock(),
        )

    def _pay(self, usage: Usage | None) -> None:
        if usage is None:
            return
        self._paid += 1
        progress = self.progress
        progress.prompt_tokens += usage.prompt_tokens or 0
        progress.completion_tokens += usage.completion_tokens or 0
        progress.cost += usage.cost or 0.0
        progress.spent += usage.cost or 0.0

    def _verdicts(self, candidate: Candidate, sample: Sample) -> tuple[Verdict, ...]:
        return verdicts_on(candidate, RULES, self.plan.format, self.plan.images.classes, sample.label)

    def _header(self) -> Header:
        return Header(
            classes=self.plan.images.classes,
            classes_sha256=self._classes_sha256,
            format=self.plan.format.name,
            prompts={self.brief.prompt_sha256: self.brief.prompt},
            images=self.plan.images_named,
            created=self._clock(),
        )


def _whole(text: str) -> str:
    """JSON can spell half a character; no file can hold it."""
    return text.encode(errors="replace").decode()


def _same(header: Header, known: Header) -> bool:
    return header.model_dump(exclude={"created"}) == known.model_dump(exclude={"created"})


def _count(outcomes: dict[str, int], verdict: Verdict) -> None:
    name = "accepted" if verdict.accepted else "rejected_class" if verdict.outcome == Outcome.OK else verdict.outcome
    outcomes[name] = outcomes.get(name, 0) + 1
