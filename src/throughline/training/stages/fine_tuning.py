"""One stage of training on examples that are known beforehand, whatever they are: from the adapter before it to its
own, with a choice among its epochs where the config asks for one. `Sft` and `PreferenceStage` run it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from throughline.runs.folder import ADAPTER
from throughline.training.stages.context import StageContext, StageResult, is_whole, mark_whole, save_stage

if TYPE_CHECKING:
    from throughline.domains.samples import Sample
    from throughline.training.objectives import Objective
    from throughline.training.paths import Example

EPOCHS = "epochs"
"""In the stage's folder: the adapter after each epoch, where one of them is selected."""


def fine_tune(
    context: StageContext,
    objective: Objective,
    examples: Sequence[Callable[[], Example]],
    seen: Sequence[tuple[Sample, str | None]],
) -> StageResult:
    """Minimises the objective over the examples, which are built when they are needed; `seen` are their images with
    their chains. A stage that is whole is not trained again."""
    from throughline.mllm.lora import load_adapter, save_adapter
    from throughline.training.trainer import forget_checkpoints, train_examples

    if is_whole(context.folder):
        model = load_adapter(context.mllm.model, context.folder / ADAPTER)
    else:
        model = context.open_adapter()
        epochs = context.folder / EPOCHS
        trained, lines = train_examples(
            context,
            model,
            objective,
            examples,
            folder=context.folder,
            after_epoch=(lambda epoch: save_adapter(model, epochs / str(epoch))) if context.select else None,
        )
        if context.select is not None:
            saved = sorted(epochs.iterdir(), key=lambda path: int(path.name))
            context.select(model, {f"epoch {path.name}": path for path in saved})
        save_stage(context.folder, model, lines)
        mark_whole(context.start, context.folder, trained, seen)
    forget_checkpoints(context.folder)
    return StageResult(model)
