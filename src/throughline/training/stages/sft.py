"""Supervised fine-tuning: one stage on the labels of the source domains, a teacher's chains, or both."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from throughline.core.errors import ThroughlineError
from throughline.runs.folder import ADAPTER
from throughline.training.objectives import Objective
from throughline.training.stages.context import (
    StageContext,
    StageResult,
    is_whole,
    mark_whole,
    save_stage,
)

if TYPE_CHECKING:
    from throughline.domains.samples import Sample

EPOCHS = "epochs"
"""In the stage's folder: the adapter after each epoch, where one of them is selected."""


@dataclass(frozen=True)
class Sft:
    """Minimises the objective over the samples; `steps_like` names the method whose optimiser steps it takes."""

    objective: Objective
    steps_like: str | None = None

    @property
    def needs_chains(self) -> bool:
        """Whether it learns from a teacher's chains."""
        return self.objective.needs_chain

    def run(self, context: StageContext) -> StageResult:
        """Trains from the stage before, or from the checkpoint. ThroughlineError where no sample has a chain."""
        from throughline.mllm.lora import load_adapter, save_adapter
        from throughline.training.trainer import forget_checkpoints, train_examples

        pairs = self._pairs(context)
        if not pairs:
            raise ThroughlineError("no source image has an accepted chain", context.folder.name, "build more chains")
        if is_whole(context.folder):
            model = load_adapter(context.mllm.model, context.folder / ADAPTER)
        else:
            model = context.open_adapter()
            epochs = context.folder / EPOCHS
            steps, lines = train_examples(
                context,
                model,
                self.objective,
                [partial(context.example, sample, chain) for sample, chain in pairs],
                folder=context.folder,
                after_epoch=(lambda epoch: save_adapter(model, epochs / str(epoch))) if context.select else None,
            )
            if context.select is not None:
                saved = sorted(epochs.iterdir(), key=lambda path: int(path.name))
                context.select(model, {f"epoch {path.name}": path for path in saved})
            save_stage(context.folder, model, lines)
            mark_whole(context, context.folder, steps, pairs)
        forget_checkpoints(context.folder)
        return StageResult(model)

    def _pairs(self, context: StageContext) -> list[tuple[Sample, str | None]]:
        """Every sample, once for each of its chains where the objective learns from them; without one where it has none
        and its label is learnt from."""
        alone = (None,) if self.objective.learns_labels else ()
        chains = context.chains if self.needs_chains else {}
        return [(sample, chain) for sample in context.samples for chain in chains.get(sample.id, alone)]
