"""What a build writes: candidates with their verdicts, at once and for every image alike, and the account of it.

`Recorder` holds the store open for one writer and knows what is there; `Progress` is what the user watches. `building`
and `batch_files` bring the answers; labels meet them here, at verdict time.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from throughline.chains.journal import JournalWriter
from throughline.chains.outcomes import Outcome
from throughline.chains.records import Candidate, Usage, Verdict, make_header
from throughline.chains.rules import RULES
from throughline.core.untrusted import printable
from throughline.questions.sampler import Reply
from throughline.teaching.completions import unwrapped
from throughline.teaching.in_flight import InFlight, lost_in
from throughline.teaching.ledger import Ledger
from throughline.teaching.plan import TRIAL, BuildPlan, Clock
from throughline.teaching.teachers import Brief, Request


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
    failed_trial: bool = False
    """Stopped since none of the first `plan.TRIAL` answers is accepted."""
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
    examples: dict[str, str] = field(default_factory=dict)
    """The first answer of each of these outcomes, as one short line."""
    only_thinking: int = 0
    """This build's answers that were thinking and nothing else."""


class Recorder:
    """The store, open for one writer: what it holds of the plan, and the way in for answers.

    Opening repairs what a kill tore and counts the requests that it lost. ThroughlineError when the store cannot be
    written or another writer holds the shard.
    """

    def __init__(self, plan: BuildPlan, brief: Brief, store: Path, clock: Clock, judge: str | None = None) -> None:
        self.plan, self.brief = plan, brief
        self._clock = clock
        self._under_way = 0
        """Requests that are out."""
        self._is_tried = plan.go_on
        """Some answer was accepted, or need not be."""
        self.ledger = Ledger(plan, brief, judge)
        self._header = make_header(
            plan.images.classes, plan.format, [brief.wording], images=plan.images_named, created=clock()
        )
        shard = plan.shard[0]
        self._writer = JournalWriter(store / f"journal-{shard}.jsonl", flush_every=256)
        try:
            self.flight = InFlight(store / f"in-flight-{shard}.txt")
            self.progress = self._open(store)
        except BaseException:
            self._writer.close()
            raise

    def _open(self, folder: Path) -> Progress:
        """Completes what the store lacks and counts what was lost."""
        store, lines = self.ledger.read(folder)
        # Every file explains its own candidates, wherever it is carried.
        created = {"created": self._header.created}
        known = [header.model_copy(update=created) for path, header in store.headers if path == self._writer.path]
        if self._header not in known:
            self._writer.write(self._header)
        for line in lines:
            self._writer.write(line)
        under_way = {hash(key): key for key in self.flight.under_way}
        answered = store.columns("key", "failed").query("not failed")["key"] if under_way else ()
        self.flight.settle(under_way[key] for key in answered if key in under_way)
        paid = self.ledger.paid
        judging = [usage[-1] for row, usage in store.judging.values() if row in paid.index]
        self._paid, self._cost = len(paid), float(np.nansum([*paid["cost"], *judging]))
        """The answers to this brief and their cost, a judge's included: others in the store tell no price."""
        return Progress(
            images=self.ledger.distinct,
            cached=self.ledger.candidates,
            **paid.drop(columns="cost").sum().astype(int).to_dict(),
            cost=store.cost,
            lost=lost_in(folder),
            problems=len(store.problems),
        )

    def close(self) -> None:
        """Lets the store go."""
        self._writer.close()
        self.flight.close()

    def request(self, lead: int, number: int) -> Request:
        """The request for the `number`-th candidate of an image; `record` has to follow where the store lacks it."""
        sample = self.ledger.samples[lead]
        self._under_way += not self.ledger.has(lead, number)
        proven = bool(self.progress.cached or self.progress.answers)
        key = self.ledger.key(lead, number)
        return Request(sample, self.brief.prompt_about(sample), number, key, self.flight, proven)

    def affordable(self) -> bool | None:
        """Whether one more request keeps the store below the plan's cost, those under way taken at the mean of this
        brief's paid ones.

        None: not known before one of those under way is answered.
        """
        most, cost = self.plan.max_cost, self.progress.cost
        if most is None or (self._paid and cost + (self._under_way + 1) * self._cost / self._paid <= most):
            return True
        return None if self._under_way else not self._paid and cost < most

    def fails_trial(self) -> bool:
        """Whether there are `TRIAL` answers, those of earlier builds counted, and none of all is accepted."""
        self._is_tried = self._is_tried or self.ledger.accepted > 0
        return not self._is_tried and self.progress.cached + self.progress.answers >= TRIAL

    def record(self, lead: int, request: Request, reply: Reply) -> None:
        """Writes the reply and every rule's verdict for all samples with this image.

        A candidate that the judge has to be asked about waits in `ledger.unjudged`: `record_judgement` has to follow.
        """
        text = unwrapped(_whole(reply.text), self.plan.format, self.plan.read_thinking)
        reason = None if reply.finish_reason is None else _whole(reply.finish_reason)
        own, named = replace(reply, text=text, finish_reason=reason), (request.sample, request.candidate)
        candidate = self.brief.candidate(self._header, *named, own, created=self._clock())
        lines = self.ledger.add(lead, candidate)
        self._writer.write(*lines)
        self.flight.returned(request.key)
        self._under_way -= 1
        if candidate.failed:
            _count(self.progress.reasons, candidate.text)
        else:
            self.progress.only_thinking += bool(reply.text.strip()) and not candidate.text
            self._count_answer(candidate.text, (line for line in lines if line.sample_id == candidate.sample_id))
        self._paid += reply.usage is not None
        self._pay(reply.usage)

    def record_judgement(self, lead: int, candidate: Candidate, verdict: Verdict) -> None:
        """Writes what the judge made of a candidate, for all samples with this image."""
        for place in self.ledger.alike(lead):
            sample = self.ledger.samples[place]
            paid = {} if place == lead else {"usage": None}  # a copy cost nothing
            self._writer.write(verdict.model_copy(update={"sample_id": sample.id, "created": self._clock(), **paid}))
        failed = verdict.outcome == Outcome.ERROR
        self.progress.judged += 1
        self.progress.judge_agreed += verdict.accepted
        self.progress.judge_failed += failed
        if not failed:
            self.ledger.take_judgement(lead, candidate.candidate, verdict.accepted)
        self._pay(verdict.usage)

    def _count_answer(self, text: str, lines: Iterable[Candidate | Verdict]) -> None:
        self.progress.answers += 1
        for verdict in lines:
            if isinstance(verdict, Verdict):
                self.progress.by_rule[verdict.rule] += verdict.accepted
                if verdict.rule == self.plan.rule:
                    result = str(verdict.result)
                    _count(self.progress.outcomes, result)
                    self.progress.examples.setdefault(result, printable(" ".join(text[:200].split())))

    def _pay(self, usage: Usage | None) -> None:
        if usage is not None:
            self._cost += usage.cost or 0.0
            self.progress.prompt_tokens += usage.prompt_tokens or 0
            self.progress.completion_tokens += usage.completion_tokens or 0
            self.progress.cost += usage.cost or 0.0
            self.progress.spent += usage.cost or 0.0


def _whole(text: str) -> str:
    """JSON can spell half a character; no file can hold it."""
    return text.encode(errors="replace").decode()


def _count(counts: dict[str, int], name: str) -> None:
    counts[name] = counts.get(name, 0) + 1
