"""Counterfactual preference: one stage on pairs of a preferred and a rejected side, against the weights it starts from.

The sides are two chains about one image (thinking), or one chain with two images (perception), after arXiv 2604.15705.
In TRL, CPO and APO are other methods.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial

from throughline.core.errors import ThroughlineError
from throughline.core.nearest import did_you_mean
from throughline.training.objectives import Preference
from throughline.training.stages.context import StageContext, StageResult
from throughline.training.stages.fine_tuning import fine_tune


@dataclass(frozen=True)
class PreferenceStage:
    """Learns from the pairs of these sources; all of them where none is named."""

    sources: tuple[str, ...] = ()
    symmetric: bool = False
    """Whatever the config says: for either of two images its own chain is preferred."""
    objective: Preference = field(default_factory=Preference)
    needs_chains = False
    steps_like = None

    def run(self, context: StageContext) -> StageResult:
        """Trains from the stage before. ThroughlineError where no source image has a pair, for a weight of a source
        that no pair has, and where the symmetric form lacks a chain."""
        settings = context.settings.preference
        settings = settings.model_copy(update={"symmetric": self.symmetric or settings.symmetric})
        pairs = [pair for pair in context.pairs if not self.sources or pair.source in self.sources]
        known = {pair.source for pair in context.pairs}
        for source in settings.weights.keys() - known:
            remedy = did_you_mean(source, sorted(known), "the sources")
            raise ThroughlineError(f"no pair is of the source {source}", "training.preference.weights", remedy)
        if not pairs:
            wanted = f" from {' or '.join(self.sources)}" if self.sources else ""
            raise ThroughlineError(f"no source image has a pair{wanted}", context.folder.name, "make pairs of these")
        if settings.symmetric and any(pair.rejected.chain is None for pair in pairs):
            what = "the symmetric form needs a chain about the other image, and a pair has none"
            raise ThroughlineError(what, context.folder.name, "give every pair a `rejected` chain")
        examples = [partial(context.pair_example, pair) for pair in pairs]
        seen = [(pair.chosen.sample, pair.chosen.chain) for pair in pairs]
        return fine_tune(context, replace(self.objective, settings=settings), examples, seen)
