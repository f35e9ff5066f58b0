"""Self-labelling (SARR): the model writes chains for every source image, and keeps those that conclude in the truth.

One chain per sample and round, as Algorithm 1 has it, or several, for rounds of preference; the weights carry on from
round to round (`experiment`). Every chain and its verdict go into a journal, so that a round can be audited, and a
killed one goes on where it was. Who draws is a `Sampler`: this process, whose rounds are the same to the bit whenever
they are run, or a server, whose rounds are not (its numbers depend on what it computes together).
"""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from throughline.chains.journal import JournalWriter
from throughline.chains.outcomes import Outcome
from throughline.chains.records import Candidate, make_header
from throughline.chains.store import read_store
from throughline.chains.verdicts import verdicts_on
from throughline.core.settings import SamplingSettings
from throughline.domains.samples import Sample
from throughline.questions.prompt import ImageThenText
from throughline.questions.question_set import QuestionSet
from throughline.questions.sampler import Sampler, SamplingRequest
from throughline.teaching.teachers import Brief

RULE = "correct"
"""Algorithm 1 retains a chain when its conclusion is the true class."""


@dataclass(frozen=True)
class RoundPlan:
    """What a round asks, of whom, and how."""

    samples: tuple[Sample, ...]
    questions: QuestionSet
    sampling: SamplingSettings
    batch: int
    seed: int
    round: int
    candidates: int = 1
    """Chains of each image."""


@dataclass(frozen=True)
class SelfLabels:
    """The first accepted chain by sample id, and how the round went. `outcomes` counts `rejected_class` for well-formed
    chains that conclude in another class; `wrong` has the first of these by sample id."""

    accepted: Mapping[str, str]
    sampled: int
    outcomes: Mapping[str, int]
    wrong: Mapping[str, str] = field(default_factory=dict)


def self_label(
    sampler: Sampler,
    plan: RoundPlan,
    journal: Path,
    model_key: str,
    *,
    report_progress: Callable[[int, int], None] = lambda done, total: None,
) -> SelfLabels:
    """Has a chain drawn for each image and judges it. `model_key` names the weights' content in the candidates' keys.

    Batches are fixed by the plan: what is whole in the journal is not asked for again. Of a torn batch all is drawn
    again where the sampler says that its members' numbers depend on one another, else only what is missing.
    """
    known = {(c.sample_id, c.candidate): c for c in read_store(journal).candidates()} if journal.is_file() else {}
    numbers, total = range(plan.candidates), len(plan.samples) * plan.candidates
    batches = [plan.samples[start : start + plan.batch] for start in range(0, len(plan.samples), plan.batch)]
    header = make_header(plan.questions.classes, plan.questions.format, plan.questions.texts)
    params = plan.sampling.model_dump(mode="json") | dict(sampler.params)
    brief = Brief("self", model_key, plan.questions.reasoning, params, plan.seed)
    with JournalWriter(journal, flush_every=plan.batch) as writer:
        if not known:
            writer.write(header)
        missing = [[s for s in batch if any((s.id, number) not in known for number in numbers)] for batch in batches]
        torn = [batch if sampler.whole_batches else part for batch, part in zip(batches, missing, strict=True) if part]
        prompt = ImageThenText(plan.questions.reasoning)
        first = f"self-label round {plan.round}"
        purposes = tuple(f"{first}, candidate {number}" if number else first for number in numbers)
        request = SamplingRequest(prompt, plan.sampling, plan.seed, purposes)
        if known:
            report_progress(len(known), total)
        with contextlib.closing(sampler.draw(request, torn)) as pieces:
            for piece in pieces:
                for drawn in piece:
                    named = (drawn.sample, drawn.candidate)
                    if (key := (drawn.sample.id, drawn.candidate)) not in known:
                        known[key] = brief.candidate(header, *named, drawn.reply, round=plan.round)
                        writer.write(known[key])
                report_progress(len(known), total)
        return _judged(plan, known, writer)


def _judged(plan: RoundPlan, texts: Mapping[tuple[str, int], Candidate], writer: JournalWriter) -> SelfLabels:
    accepted: dict[str, str] = {}
    wrong: dict[str, str] = {}
    outcomes: Counter[str] = Counter()
    for sample, number in itertools.product(plan.samples, range(plan.candidates)):
        candidate = texts[sample.id, number]
        asked = plan.questions
        [verdict] = verdicts_on(candidate, [RULE], asked.format, asked.classes, sample.label, asked.names)
        writer.write(verdict)
        if verdict.accepted:
            accepted.setdefault(sample.id, candidate.text)
        elif verdict.outcome == Outcome.OK:
            wrong.setdefault(sample.id, candidate.text)
        outcomes[verdict.result] += 1
    return SelfLabels(accepted, len(texts), dict(sorted(outcomes.items())), wrong)
