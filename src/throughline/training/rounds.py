"""Self-labelling (SARR): the model writes a chain for every source image, and keeps those that conclude in the truth.

One chain per sample and round, as Algorithm 1 has it; the weights carry on from round to round (`experiment`). Every
chain and its verdict go into a journal, so that a round can be audited, and a killed one goes on by whole batches.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from throughline.chains.formats import ChainFormat
from throughline.chains.journal import JournalWriter, read_journal
from throughline.chains.outcomes import Outcome
from throughline.chains.prompts import Prompts, prompt_sha256
from throughline.chains.records import Candidate, Usage, candidate_key, classes_sha256, make_header
from throughline.chains.verdicts import verdict_on
from throughline.domains.samples import Sample
from throughline.mllm.chat import user_turn
from throughline.mllm.images import ImageReader
from throughline.mllm.load import Mllm
from throughline.mllm.sampling import sample
from throughline.seeding import generator
from throughline.settings import SamplingSettings

RULE = "correct"
"""Algorithm 1 retains a chain when its conclusion is the true class."""

VERSION = 2
"""Raised when the same weights would write other chains."""


@dataclass(frozen=True)
class RoundPlan:
    """What a round asks, of whom, and how."""

    samples: tuple[Sample, ...]
    prompts: Prompts
    classes: tuple[str, ...]
    format: ChainFormat
    sampling: SamplingSettings
    batch: int
    seed: int
    round: int


@dataclass(frozen=True)
class RoundResult:
    """Accepted chains by sample id, and how the round went."""

    accepted: Mapping[str, str]
    sampled: int
    outcomes: Mapping[str, int]

    def line(self, round: int) -> dict[str, Any]:
        """The line of rounds.jsonl; `outcomes` counts `rejected_class` for well-formed chains with another class."""
        return {
            "round": round,
            "sampled": self.sampled,
            "accepted": len(self.accepted),
            "outcomes": dict(sorted(self.outcomes.items())),
        }


def self_label(
    mllm: Mllm,
    plan: RoundPlan,
    journal: Path,
    model_key: str,
    *,
    reader: ImageReader | None = None,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> RoundResult:
    """Samples a chain per image and judges it. `model_key` names the weights' content in the candidates' keys.

    Batches are fixed by the plan: a batch that is whole in the journal is not sampled again, a torn one is.
    """
    reader = reader or ImageReader(mllm.chat)
    asked = prompt_sha256(plan.prompts.reasoning)
    params = plan.sampling.model_dump(mode="json")
    known = {c.sample_id: c for c in read_journal(journal).candidates} if journal.is_file() else {}
    texts: dict[str, Candidate] = {}
    with JournalWriter(journal, flush_every=plan.batch) as writer:
        if not known:
            writer.write(make_header(plan.classes, plan.format, plan.prompts))
        for start in range(0, len(plan.samples), plan.batch):
            batch = plan.samples[start : start + plan.batch]
            if not all(one.id in known for one in batch):
                reader.expect(plan.samples[start : start + 2 * plan.batch])  # the next batch too, meanwhile
                for candidate in _sampled(mllm, plan, batch, asked, params, model_key, reader):
                    known[candidate.sample_id] = candidate
                    writer.write(candidate)
            texts |= {one.id: known[one.id] for one in batch}
            told(min(start + plan.batch, len(plan.samples)), len(plan.samples))
        return _judged(plan, texts, writer)


def _sampled(
    mllm: Mllm,
    plan: RoundPlan,
    batch: Sequence[Sample],
    asked: str,
    params: dict[str, Any],
    model_key: str,
    reader: ImageReader,
) -> list[Candidate]:
    question = user_turn(plan.prompts.reasoning)
    prompts = [mllm.chat.prompt(question, [reader.encode(one)]) for one in batch]
    draws = [[generator(plan.seed, f"self-label round {plan.round}", one.id)] for one in batch]
    candidates = []
    for one, prompt, (said,) in zip(batch, prompts, sample(mllm, prompts, plan.sampling, draws), strict=True):
        candidates.append(
            Candidate(
                key=candidate_key(one.image_sha256, asked, model_key, params, plan.seed, 0),
                sample_id=one.id,
                image_sha256=one.image_sha256,
                domain=one.domain,
                classes_sha256=classes_sha256(plan.classes),
                format=plan.format.name,
                source="self",
                model=model_key,
                round=plan.round,
                prompt_sha256=asked,
                params=params,
                seed=plan.seed,
                text=said.text,
                finish_reason=said.finish_reason,
                usage=Usage(prompt_tokens=len(prompt.tokens), completion_tokens=len(said.tokens)),
            )
        )
    return candidates


def _judged(plan: RoundPlan, texts: Mapping[str, Candidate], writer: JournalWriter) -> RoundResult:
    accepted: dict[str, str] = {}
    outcomes: Counter[str] = Counter()
    for one in plan.samples:
        candidate = texts[one.id]
        verdict = verdict_on(candidate, RULE, plan.format, plan.classes, one.label)
        writer.write(verdict)
        if verdict.accepted:
            accepted[one.id] = candidate.text
        reason = "rejected_class" if verdict.outcome == Outcome.OK else verdict.outcome
        outcomes["accepted" if verdict.accepted else reason] += 1
    return RoundResult(accepted, len(plan.samples), outcomes)
