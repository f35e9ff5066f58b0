"""Which answers of a chain store are exported, and the count of everything that stays behind. Called by `export`.

The first accepted candidate of a sample is the one of the lowest round and number; of equals, the first read. Only the
lines that are exported are read again, in the order of the images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from throughline.chains.journal import Problem, require_journals
from throughline.chains.records import classes_sha256
from throughline.chains.rules import RULES
from throughline.chains.store import ChainStore, read_store
from throughline.chains.verdicts import judged_answers
from throughline.domains.samples import Sample
from throughline.teaching.exports.records import ExportPlan, ExportSummary, LeftOut, Spent


@dataclass(frozen=True)
class Selection:
    """What comes along, as rows of the store, and what is known before it is written."""

    store: ChainStore
    chosen: Sequence[tuple[Sample, Sequence[int]]]
    """The samples in the image set's order, each with its answers."""
    summary: ExportSummary

    @property
    def exported(self) -> Any:
        """The chosen rows of the store's answers."""
        return self.store.answers.loc[[row for _, rows in self.chosen for row in rows]]


def select(path: Path, folder: Path, plan: ExportPlan) -> Selection:
    """Reads the store at `path`; ThroughlineError when it cannot be read or holds no journal."""
    store = read_store(require_journals(path))
    samples = {hash(sample.id): sample for sample in plan.images.samples}
    requests = store.requests
    missing = requests[~requests["sample"].isin(samples.keys())]
    there = requests[requests["sample"].isin(samples.keys())]
    is_same = [
        hash(samples[sample].image_sha256) == image
        for sample, image in zip(there["sample"], there["image"], strict=True)
    ]
    same, changed = there[is_same], there[[not same for same in is_same]]
    of_format = same["format"] == plan.format.name
    asked = same[of_format]
    answers = asked[~asked["failed"]]
    labels = [samples[sample].label for sample in answers["sample"]]
    verdicts = judged_answers(store, answers, labels, plan.images.classes, list(RULES))
    accepted = answers[verdicts[plan.rule]["accepted"]]
    vetoed = accepted.index.isin(store.vetoed)
    rows = accepted[~vetoed].sort_values(["round", "number"], kind="stable").groupby("sample").groups
    most = None if plan.every_accepted else 1
    chosen = [
        (sample, rows[hash(sample.id)].tolist()[:most]) for sample in plan.images.samples if hash(sample.id) in rows
    ]
    summary = ExportSummary(
        folder=folder,
        rule=plan.rule,
        images=len(chosen),
        asked=asked["sample"].nunique(),
        accepted={rule: answers["sample"][verdicts[rule]["accepted"]].nunique() for rule in RULES},
        spent=Spent.on(store.answers),
        failed=int(requests["failed"].sum()),
        duplicates=store.duplicates,
        other_format=int((~same["failed"] & ~of_format).sum()),
        other_classes=int((answers["classes_sha256"] != classes_sha256(plan.images.classes)).sum()),
        vetoed=int(vetoed.sum()),
        missing=LeftOut.of(candidate.sample_id for candidate in store.read(missing.drop_duplicates("sample").index)),
        changed=LeftOut.of(samples[sample].id for sample in changed["sample"]),
        problems=LeftOut.of(map(_named, store.problems)),
    )
    return Selection(store, chosen, summary)


def _named(problem: Problem) -> str:
    return f"{problem.path.name}:{problem.line}: {problem.what}"
