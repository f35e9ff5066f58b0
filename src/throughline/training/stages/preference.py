"""Counterfactual preference: one stage on pairs of a preferred and a rejected side, against the weights it starts from.

The sides are two chains about one image (thinking), or one chain with two images (perception), after arXiv 2604.15705.
In TRL, CPO and APO are other methods.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial

from throughline.core.errors import ThroughlineError
from throughline.runs.folder import ADAPTER
from throughline.training.objectives import Preference
from throughline.training.stages.context import StageContext, StageResult, is_whole, mark_whole, save_stage


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
        """Trains from the stage before. ThroughlineError where no source image has a pair."""
        from throughline.mllm.lora import load_adapter
        from throughline.training.trainer import forget_checkpoints, train_examples

        settings = context.settings.preference
        settings = settings.model_copy(update={"symmetric": self.symmetric or settings.symmetric})
        pairs = [pair for pair in context.pairs if not self.sources or pair.source in self.sources]
        if not pairs:
            wanted = f" from {' or '.join(self.sources)}" if self.sources else ""
            raise ThroughlineError(f"no source image has a pair{wanted}", context.folder.name, "make pairs of these")
        if is_whole(context.folder):
            model = load_adapter(context.mllm.model, context.folder / ADAPTER)
        else:
            model = context.open_adapter()
            objective = replace(self.objective, settings=settings)
            weights = [settings.weights.get(pair.source, 1.0) for pair in pairs]
            examples = [partial(context.pair_example, *pair) for pair in zip(pairs, weights, strict=True)]
            steps, lines = train_examples(context, model, objective, examples, folder=context.folder)
            save_stage(context.folder, model, lines)
            mark_whole(context, context.folder, steps, [(pair.chosen.sample, pair.chosen.chain) for pair in pairs])
        forget_checkpoints(context.folder)
        return StageResult(model)
