"""What a chain store holds, in numbers: how much was asked, what each rule kept, how long the chains are, what they
took. `throughline chains stats` prints it as tables or as JSON.

A store may hold several teachers, models and rounds: every number is given for the whole store and for each (source,
model, round) by itself.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from throughline.chains.formats import FORMATS, tag_pattern
from throughline.chains.journal import require_journals
from throughline.chains.outcomes import Outcome
from throughline.chains.parsing import parse_chain
from throughline.chains.rules import RULES
from throughline.chains.store import MEASURES, ChainStore, read_store
from throughline.chains.verdicts import judged_answers
from throughline.domains.samples import ImageSet
from throughline.teaching.statistics.records import (
    Acceptance,
    ChainStatistics,
    Group,
    Lengths,
    NumberShare,
    Part,
    Quantiles,
    Share,
    Spending,
    TeacherPart,
)

_TEACHER = ["source", "model", "round"]


def summarise_chains(store: Path, images: ImageSet | None = None) -> ChainStatistics:
    """Counts a journal, or a folder of journals.

    `images` brings the classes, and verdicts by every rule of `RULES` when the store has none of its own. Memory
    grows by about 600 bytes a candidate, whatever the length of its text. ThroughlineError for a store that
    cannot be read or holds no journal, and for a newer schema.
    """
    chains = read_store(require_journals(store))
    requests, unknown, changed = _labelled(chains.requests, images)
    judged_anew = images is not None and not chains.rules
    count = _Count(chains, requests, _verdicts(chains, requests, images if judged_anew else None), images is not None)
    teachers = requests.groupby(_TEACHER)
    return ChainStatistics(
        lines=chains.lines,
        duplicates=chains.duplicates,
        problems=len(chains.problems) + len(chains.contradictions),
        unusable_usage=chains.unusable_usage,
        verdicts_without_candidate=sum(
            int((~chains.verdicts(rule).index.isin(requests.index)).sum()) for rule in chains.rules
        ),
        formats=tuple(sorted(requests["format"].unique())),
        prompts=requests["prompt_sha256"].nunique(),
        judged_anew=judged_anew,
        images_given=None if images is None else len(images.samples),
        images_unknown=None if images is None else unknown,
        images_changed=None if images is None else changed,
        whole=count.part(requests),
        teachers=tuple(
            TeacherPart(source=source, model=model, round=round, part=count.part(own))
            for (source, model, round), own in teachers
        ),
    )


def _labelled(requests: Any, images: ImageSet | None) -> tuple[Any, int, int]:
    """The requests with the `label` of their sample, None where `images` does not tell; and how many samples the images
    do not have, or have with other bytes."""
    samples = {hash(sample.id): sample for sample in images.samples} if images is not None else {}
    found = [samples.get(sample) for sample in requests["sample"]]
    same = [
        sample is not None and hash(sample.image_sha256) == image
        for sample, image in zip(found, requests["image"], strict=True)
    ]
    labels = [
        sample.label if is_same and sample is not None and sample.task == "single" else None
        for sample, is_same in zip(found, same, strict=True)
    ]
    unknown = np.array([sample is None for sample in found], bool)
    changed = ~unknown & ~np.array(same, bool)
    ids = requests["sample"]
    return requests.assign(label=np.array(labels, object)), ids[unknown].nunique(), ids[changed].nunique()


def _verdicts(chains: ChainStore, requests: Any, images: ImageSet | None) -> dict[str, Any]:
    """By rule, our own first: the verdicts of the store, or those made now with the labels of `images`."""
    if images is None:
        return {rule: chains.verdicts(rule) for rule in sorted(chains.rules, key=lambda rule: (_rank(rule), rule))}
    known = requests[~requests["failed"] & requests["label"].notna() & requests["format"].isin(FORMATS)]
    return judged_answers(chains, known, known["label"], images.classes, list(RULES))


def _rank(rule: str) -> int:
    return list(RULES).index(rule) if rule in RULES else len(RULES)


class _Count:
    """Everything that is counted of some of a store's requests. Frames are indexed by the store's rows."""

    def __init__(self, chains: ChainStore, requests: Any, verdicts: Mapping[str, Any], has_labels: bool) -> None:
        answers = requests[~requests["failed"]]
        self._verdicts, self._has_labels, self._judging = verdicts, has_labels, list(chains.judging.values())
        self._words, self._stage_words = _count_words(chains, answers)
        paid_keys = answers["key"][answers["reported"]]
        asked = answers["reported"] | ~(answers["key"].isin(paid_keys) | answers.duplicated("key"))
        self._copies = answers.index[~asked]

    def part(self, own: Any) -> Part:
        """The numbers of these requests."""
        answers, failed = own[~own["failed"]], int(own["failed"].sum())
        judged = {rule: answers.join(verdicts, how="inner") for rule, verdicts in self._verdicts.items()}
        judged = {rule: rows for rule, rows in judged.items() if len(rows)}
        kept = {rule: rows[rows["accepted"]] for rule, rows in judged.items()}
        spendings = {name: self._spending(name, answers, kept) for name in MEASURES}
        return Part(
            images=own["sample"].nunique(),
            candidates=len(answers),
            copies=int(answers.index.isin(self._copies).sum()),
            failed=failed,
            acceptance=tuple(self._acceptance(rule, rows, failed) for rule, rows in judged.items()),
            lengths=self._lengths(answers.index),
            accepted_lengths={rule: self._lengths(rows.index) for rule, rows in kept.items()},
            **spendings,
        )

    def _acceptance(self, rule: str, judged: Any, failed: int) -> Acceptance:
        outcomes = Counter(judged["outcome"])
        outcomes[Outcome.ERROR] += failed
        return Acceptance(
            rule=rule,
            overall=_group(judged),
            by_domain={name: _group(rows) for name, rows in judged.groupby("domain")},
            by_class={name: _group(rows) for name, rows in judged.groupby("label")} if self._has_labels else None,
            by_number=_by_number(judged),
            outcomes={outcome.value: outcomes[outcome] for outcome in Outcome if outcomes[outcome]},
        )

    def _lengths(self, rows: Any) -> Lengths:
        stages = {name: words[words.index.isin(rows)] for name, words in sorted(self._stage_words.items())}
        return Lengths(
            chain=_quantiles(self._words[rows]) if len(rows) else None,
            stages={
                name: {stage: _quantiles(words[stage]) for stage in words.columns}
                for name, words in stages.items()
                if len(words)
            },
        )

    def _spending(self, name: str, answers: Any, kept: Mapping[str, Any]) -> Spending:
        values = answers[name].dropna()
        paid = (used[MEASURES.index(name)] for row, used in self._judging if row in answers.index)
        total, judging = _sum(name, values), [value for value in paid if not math.isnan(value)]
        whole = (total or 0) + (_sum(name, judging) or 0)
        # A local teacher may report nothing and have a judge that does.
        of = values.index if len(values) else answers.index.difference(self._copies)
        chains = {rule: int(rows.index.isin(of).sum()) for rule, rows in kept.items()}
        known = bool(len(values) or judging)
        return Spending(
            reporting=len(values),
            total=total,
            per_candidate=None if total is None else total / len(values),
            judging=_sum(name, judging),
            per_accepted={rule: whole / count if known and count else None for rule, count in chains.items()},
        )


def _count_words(chains: ChainStore, answers: Any) -> tuple[Any, dict[str, Any]]:
    """Words of each answer without its tags; and by format, of each stage of well-formed chains."""
    words: list[int] = []
    stages: dict[str, dict[int, list[int]]] = {}
    for row, candidate in zip(answers.index, chains.read(answers.index), strict=True):
        format = FORMATS.get(candidate.format)
        text = candidate.text if format is None else tag_pattern(format).sub(" ", candidate.text)
        words.append(len(text.split()))
        # Without classes: where a chain's stages are does not depend on what its answer names.
        chain = parse_chain(candidate.text, format, (), candidate.finish_reason).chain if format else None
        if chain is not None:
            stages.setdefault(chain.format.name, {})[row] = [len(stage.split()) for stage in chain.stages]
    frames = {
        name: pd.DataFrame.from_dict(rows, orient="index", columns=list(FORMATS[name].stages))
        for name, rows in stages.items()
    }
    return pd.Series(words, index=answers.index, dtype=int), frames


def _by_number(judged: Any) -> tuple[NumberShare, ...]:
    kept = judged[judged["accepted"]].sort_values("number", kind="stable")
    gained = Counter(kept.drop_duplicates("sample")["number"])
    return tuple(
        NumberShare(number=number, candidates=_group(rows).candidates, images_gained=gained[number])
        for number, rows in judged.groupby("number")
    )


def _group(judged: Any) -> Group:
    kept = judged[judged["accepted"]]
    return Group(
        images=_share(judged["sample"].nunique(), kept["sample"].nunique()), candidates=_share(len(judged), len(kept))
    )


def _share(judged: int, accepted: int) -> Share:
    return Share(judged=judged, accepted=accepted, share=accepted / judged if judged else None)


def _sum(name: str, values: Any) -> float | int | None:
    """Exact, whatever the order; tokens are whole numbers."""
    total = math.fsum(values)
    return None if not len(values) else total if name == "cost" else int(total)


def _quantiles(words: Any) -> Quantiles:
    low, median, high = np.quantile(words, (0.05, 0.5, 0.95)).tolist()
    return Quantiles(count=len(words), median=median, low=low, high=high, longest=int(words.max()))
