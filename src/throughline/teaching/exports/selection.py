"""Which answers of a chain store are exported, and the count of everything that is left out. Called by `export`."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from throughline.chains.formats import ChainFormat
from throughline.chains.journal import require_journals
from throughline.chains.records import classes_sha256
from throughline.chains.rules import RULES
from throughline.chains.store import ChainStore, read_store
from throughline.chains.verdicts import judged_answers, with_samples
from throughline.core.errors import ThroughlineError
from throughline.core.untrusted import printable
from throughline.domains.samples import ImageSet

NAMED = 10
"""How many of the things left out are named; all are counted."""
MARKED = "in the Parquet only, for control tokens in the text"
"""Samples with a chain that is in no file for trainers: see `trainer_formats.control_mark`."""


@dataclass(frozen=True)
class ExportPlan:
    """Which chains are exported, and what goes with them. None that a judge model did not agree with."""

    images: ImageSet
    format: ChainFormat
    rule: str = "correct"
    """Which verdicts count."""
    every_accepted: bool = False
    """All accepted chains of an image, not only the first (lowest round and candidate number, then the first read)."""
    with_labels: bool = False
    """The label question goes into the JSONL as well."""
    licence: str | None = None
    """As the Hub names it (`cc-by-4.0`)."""
    measured: str | None = None
    """A section of the card, in Markdown."""


@dataclass(frozen=True)
class ExportSummary:
    """What an export holds and what it does not."""

    folder: Path
    rule: str
    images: int
    """Samples with a chain in the export."""
    asked: int
    """Samples of the image folder that the store has a request for."""
    accepted: dict[str, int]
    """Rule → asked samples of which it accepts at least one candidate, whatever a judge said."""
    answers: int
    """Of the store."""
    spent: str
    """Tokens and cost of all answers of the store."""
    spent_on_exported: str
    left_out: dict[str, int | list[str]]
    """What is not in the export, in words, and how often; or the names of all of it, sorted."""
    chains: int
    """Rows of the Parquet."""
    shards: tuple[str, ...] = ()
    """The Parquet files, relative to the folder."""
    jsonl_rows: int = 0
    """Rows of each JSONL file."""

    def lines(self) -> list[str]:
        """The summary in sentences: what is exported, then everything that is not."""
        shares = ", ".join(f"{rule} {count / self.asked:.1%}" for rule, count in self.accepted.items())
        return [
            f"{self.chains:,} chains on {self.images:,} of {self.asked:,} asked images, accepted by rule {self.rule}",
            f"asked images with an accepted chain, by rule: {shares}",
            f"all {self.answers:,} answers of the store: {self.spent}",
            *(f"{what}: {_counted(those)}" for what, those in self.left_out.items() if those),
        ]


def _counted(left_out: int | list[str]) -> str:
    if isinstance(left_out, int):
        return f"{left_out:,}"
    names = ", ".join(printable(name, 200) for name in left_out[:NAMED])
    return f"{len(left_out):,} ({names}{', …' if len(left_out) > NAMED else ''})"


def select(path: Path, folder: Path, plan: ExportPlan) -> tuple[ChainStore, Any, ExportSummary]:
    """The store at `path`; the rows of its answers that are exported, as a frame in the order of the images with each
    sample's `place` among them; and what is known before anything is written to `folder`.

    The first accepted candidate of a sample is the one of the lowest round and number; of equals, the first read.
    ThroughlineError when the store cannot be read, holds no journal, or nothing is accepted.
    """
    chains = read_store(require_journals(path))
    requests = with_samples(chains.requests, plan.images)
    asked = requests[requests["is_same"] & (requests["format"] == plan.format.name)]
    answers = asked[~asked["failed"]]
    verdicts = judged_answers(chains, answers, plan.images, RULES)
    accepted = answers[verdicts[plan.rule]["accepted"]]
    is_vetoed = accepted.index.isin(chains.vetoed)
    chosen = accepted[~is_vetoed].sort_values(["place", "round", "number"], kind="stable")
    if chosen.empty:
        judge = " and by the judge" if is_vetoed.any() else ""
        raise ThroughlineError(
            f"none of {len(chains.answers):,} answers is accepted by rule {plan.rule} in format "
            f"{plan.format.name}{judge}",
            path,
            "name a store about these images, or another rule or format",
        )
    if not plan.every_accepted:
        chosen = chosen.drop_duplicates("place")
    summary = ExportSummary(
        folder=folder,
        rule=plan.rule,
        images=chosen["place"].nunique(),
        asked=asked["sample"].nunique(),
        accepted={rule: answers["sample"][verdicts[rule]["accepted"]].nunique() for rule in RULES},
        answers=len(chains.answers),
        spent=_spent(chains.answers),
        spent_on_exported=_spent(chosen),
        left_out=_left_out(chains, plan, requests, answers, int(is_vetoed.sum())),
        chains=len(chosen),
    )
    return chains, chosen, summary


def _left_out(
    chains: ChainStore, plan: ExportPlan, requests: Any, answers: Any, vetoed: int
) -> dict[str, int | list[str]]:
    """`requests` of the store with their samples, `answers` those that were judged."""
    missing = requests[requests["place"] < 0].drop_duplicates("sample")
    changed = requests["place"][(requests["place"] >= 0) & ~requests["is_same"]]
    is_other_format = requests["is_same"] & ~requests["failed"] & (requests["format"] != plan.format.name)
    is_other_list = answers["classes_sha256"] != classes_sha256(plan.images.classes)
    problems = {f"{problem.path.name}:{problem.line}: {problem.what}" for problem in chains.problems}
    return {
        "left out, as the image folder does not have them": sorted(
            {candidate.sample_id for candidate in chains.read(missing.index)}
        ),
        "left out, as the image is another than the one asked about": sorted(
            {plan.images.samples[place].id for place in changed}
        ),
        "left out, in another chain format": int(is_other_format.sum()),
        "left out, as the judge did not agree": vetoed,
        "left out, lines that cannot be used": sorted(problems),
        "requests that never got an answer": int(requests["failed"].sum()),
        "lines of a request beyond the one that stands": chains.duplicates,
        "answers to another class list, judged by this one": int(is_other_list.sum()),
    }


def _spent(answers: Any) -> str:
    """What answers took, in sum, as far as they report it; cost in US dollars."""
    tokens, costs = answers[["prompt_tokens", "completion_tokens"]].dropna(how="all"), answers["cost"].dropna()
    prompt, completion = (int(count) for count in tokens.sum())
    spent = f"{prompt:,} prompt and {completion:,} completion tokens (reported by {len(tokens):,})"
    cost = f"${math.fsum(costs):,.4f} (reported by {len(costs):,})"
    return f"{spent if len(tokens) else 'tokens not reported'}, {cost if len(costs) else 'cost not reported'}"
