"""Rounds of self-labelling (SARR): the model writes chains, keeps those that conclude in the truth, trains on them.

Algorithm 1 of RD-MLDG (arXiv 2602.23777). The weights carry on from round to round. With a preference as the objective
(ours), the model writes several chains about each image and learns to prefer a right one to a wrong one; the reference
are the weights at the start of the round.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, astuple, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from throughline.chains.pairs import Pair, Side
from throughline.chains.parsing import parse_chain
from throughline.core.errors import ThroughlineError
from throughline.core.files import read_json_lines, write_json, write_json_lines
from throughline.domains.samples import Sample
from throughline.runs.folder import ACCEPTED, ADAPTER, JOURNAL, ROUND, ROUNDS, TRAINING, round_folder
from throughline.runs.records import RoundLine, TrainingLine, read_record
from throughline.training.objectives import Objective, Preference
from throughline.training.stages.context import (
    StageContext,
    StageResult,
    Trained,
    is_whole,
    mark_whole,
    own_training,
    save_stage,
)

if TYPE_CHECKING:
    from throughline.training.paths import Example

ON_POLICY = "on_policy"
"""The source of pairs of the model's own chains."""


@dataclass(frozen=True)
class Rounds:
    """`settings.rounds` rounds, each of which minimises the objective over the samples with an accepted chain; of a
    preference over those with a right and a wrong one."""

    objective: Objective
    needs_chains = False
    steps_like = None

    def run(self, context: StageContext) -> StageResult:
        """Trains from the stage before. Every round leaves its folder `round-<r>`; whole ones are not run again."""
        from throughline.mllm.lora import load_adapter
        from throughline.training.trainer import forget_checkpoints

        assert context.start is not None, "rounds go on from a stage that has learnt to write chains"
        folders = [round_folder(context.folder, number) for number in range(1, context.settings.rounds + 1)]
        whole = [folder for folder in folders if is_whole(folder)]
        start = whole[-1] if whole else context.start
        model = load_adapter(context.mllm.model, start / ADAPTER, trainable=True)
        keeps = context.settings.rejected == "keep_last"
        chains = {name: texts[0] for name, texts in context.chains.items()} if keeps else {}
        seen = dict[str, str]()
        for number, folder in enumerate(folders, start=1):
            chains = read_accepted(folder) if folder in whole else self._round(context, model, number, folder, chains)
            forget_checkpoints(folder)
            seen |= chains
        last = self._select(context, model, folders)
        save_stage(context.folder, model, _training_lines(folders))
        write_json_lines(context.folder / ROUNDS, [json.loads((folder / ROUND).read_text()) for folder in folders])
        steps, parameters, samples, seconds = zip(*(astuple(own_training(folder)) for folder in folders), strict=True)
        trained = Trained(sum(steps), max(parameters), sum(samples), sum(seconds))
        mark_whole(context.start, context.folder, trained, self._pairs(context, seen))
        return StageResult(model, last)

    def _round(
        self, context: StageContext, model: Any, number: int, folder: Path, chains: Mapping[str, str]
    ) -> dict[str, str]:
        """Samples, keeps what concludes in the truth, trains on it, checks that the output changed.

        Returns the chains that the round trained on, by sample id.
        """
        from throughline.mllm.lora import adapter_fingerprint
        from throughline.training.output_probe import probe_output
        from throughline.training.self_labelling import RoundPlan, self_label
        from throughline.training.trainer import train_examples

        assert context.sampler is not None
        objective, settings = self.objective, context.settings
        prefers = False
        if isinstance(objective, Preference):
            objective, prefers = replace(objective, settings=settings.preference), True
        asked = context.samples, context.questions, settings.self_labelling, context.batch, context.seed, number
        plan = RoundPlan(*asked, candidates=settings.candidates if prefers else 1)
        report = context.counter(f"round {number}", "chains")
        labelled = self_label(
            context.sampler(folder), plan, folder / JOURNAL, adapter_fingerprint(model), report_progress=report
        )
        if prefers:
            chains = {name: text for name, text in labelled.accepted.items() if name in labelled.wrong}
        else:
            chains = {**(chains if settings.rejected == "keep_last" else {}), **labelled.accepted}
        pairs = self._pairs(context, chains)
        before = probe_output(context)
        trained, lines = Trained(), list[TrainingLine]()
        if pairs:
            examples: list[Callable[[], Example]] = [partial(context.example, *pair) for pair in pairs]
            if prefers:
                wrong = labelled.wrong
                examples = [_preference(context, sample, chains[sample.id], wrong[sample.id]) for sample, _ in pairs]
            trained, lines = train_examples(context, model, objective, examples, folder=folder, number=number)
        changed = bool((probe_output(context) != before).any())
        if pairs and not changed:
            raise ThroughlineError(f"round {number} was trained, but the output did not change", context.folder.name)
        accepted = labelled.outcomes.get("accepted", 0)
        unpaired = len(context.samples) - len(pairs) if prefers else None
        line = RoundLine(number, labelled.sampled, accepted, labelled.outcomes, changed, len(pairs), unpaired)
        write_json(folder / ROUND, asdict(line))
        write_json_lines(folder / ACCEPTED, [{"sample_id": name, "text": chains[name]} for name in sorted(chains)])
        save_stage(folder, model, lines)
        context.after_round(number, folder)
        mark_whole(context.start, folder, trained, pairs)
        return chains

    def _pairs(self, context: StageContext, chains: Mapping[str, str]) -> list[tuple[Sample, str | None]]:
        """The samples that are trained on, each with its chain; without one where its label is learnt alone."""
        alone = context.settings.rejected == "label_only" and self.objective.learns_labels
        return [(one, chains.get(one.id)) for one in context.samples if alone or one.id in chains]

    def _select(self, context: StageContext, model: Any, folders: list[Path]) -> int | None:
        """The number of the last round, where its weights stand; None where a selection chose among all rounds."""
        if context.select is None:
            return len(folders)
        assert context.start is not None
        rounds = {f"round {number}": folder / ADAPTER for number, folder in enumerate(folders, start=1)}
        context.select(model, {"start": context.start / ADAPTER, **rounds})
        return None


def _preference(context: StageContext, sample: Sample, right: str, wrong: str) -> Callable[[], Example]:
    """The example of a chain about a sample that is preferred to one that concludes in another class."""
    asked = context.questions
    label = parse_chain(wrong, asked.format, asked.classes, aliases=asked.names).label
    pair = Pair(ON_POLICY, Side(sample, sample.label, right), Side(sample, str(label), wrong))
    return partial(context.pair_example, pair)


def read_accepted(folder: Path) -> dict[str, str]:
    """The chains that a round trained on, by sample id."""
    return {row["sample_id"]: row["text"] for row in read_json_lines(folder / ACCEPTED)}


def _training_lines(folders: list[Path]) -> list[TrainingLine]:
    return [read_record(TrainingLine, row) for folder in folders for row in read_json_lines(folder / TRAINING)]
