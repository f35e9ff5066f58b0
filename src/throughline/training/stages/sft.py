"""Supervised fine-tuning: one stage on the labels of the source domains, a teacher's chains, or both."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from throughline.core.errors import ThroughlineError
from throughline.training.objectives import Objective
from throughline.training.stages.context import StageContext, StageResult
from throughline.training.stages.fine_tuning import fine_tune

if TYPE_CHECKING:
    from throughline.domains.samples import Sample


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
        pairs = self._pairs(context)
        if not pairs:
            raise ThroughlineError("no source image has an accepted chain", context.folder.name, "build more chains")
        examples = [partial(context.example, sample, chain) for sample, chain in pairs]
        return fine_tune(context, self.objective, examples, pairs)

    def _pairs(self, context: StageContext) -> list[tuple[Sample, str | None]]:
        """Every sample, once for each of its chains where the objective learns from them; without one where it has none
        and its label is learnt from."""
        alone = (None,) if self.objective.learns_labels else ()
        chains = context.chains if self.needs_chains else {}
        return [(sample, chain) for sample in context.samples for chain in chains.get(sample.id, alone)]
