"""A stage of training so small that a test can run several: the tiny checkpoint, eleven images, a chain for each."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from throughline.chains.formats import FIVE_STAGE, Chain, render_chain
from throughline.core.settings import LoraSettings, StageSettings
from throughline.domains.samples import ImageSet, Sample
from throughline.mllm.images import ImageReader
from throughline.mllm.load import Mllm
from throughline.mllm.lora import add_lora
from throughline.questions.question_set import QuestionSet, make_question_set
from throughline.questions.wording import class_name
from throughline.runs.records import TrainingLine
from throughline.training.methods import BOTH
from throughline.training.objectives import Objective
from throughline.training.paths import Example, PathRenderer
from throughline.training.stages.context import Trained
from throughline.training.trainer import TreeDataset, train_stage

PROMPTS: QuestionSet = make_question_set(("cat", "cup", "dog"), FIVE_STAGE)
STILL = {"lr": 1e-30, "weight_decay": 0.0}
"""A stage that measures its loss and moves nothing."""


def chain_of(label: str, number: int = 0) -> str:
    """A well-formed chain that concludes `label`; its length varies with `number`."""
    texts = ("The picture has a handle." * (1 + number % 3), "It stands on grass.", "Two wheels.", "No doubt.", label)
    return render_chain(Chain(FIVE_STAGE, texts))


def settings(**changes: Any) -> StageSettings:
    """Two epochs at a constant learning rate, small batches."""
    values = {"epochs": 2, "batch": 8, "micro_batch": 8, "lr": 1e-3, "warmup": 0.0, "schedule": "constant"}
    return StageSettings(**{**values, **changes})


def with_lora(mllm: Mllm, dropout: float = 0.0) -> Any:
    """Both towers adapted, both factors drawn, so that the adapter matters from the first step on."""
    model = add_lora(mllm.model, LoraSettings(rank=2, dropout=dropout), seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.1)
    return model


def weights(model: Any) -> dict[str, Tensor]:
    """A copy of everything that is trained."""
    return {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}


def same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    """Bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def samples_of(images: ImageSet, count: int = 11) -> list[Sample]:
    """Every fourth image: all domains and classes."""
    return [images.samples[(4 * number) % len(images.samples)] for number in range(count)]


def train(
    mllm: Mllm,
    model: Any,
    samples: Sequence[Sample],
    folder: Path,
    stage: StageSettings,
    *,
    objective: Objective = BOTH,
    seen: Callable[[int], None] = lambda index: None,
    collate: Any = None,
    **options: Any,
) -> tuple[Trained, list[TrainingLine]]:
    """`train_stage` on these samples; `seen` hears which sample is about to be used."""
    reader = ImageReader(mllm.chat)

    def tree(index: int) -> Any:
        seen(index)
        one = samples[index]
        example = Example((reader.encode(one),), class_name(one.label), chain_of(one.label, index))
        return objective.tree(PathRenderer(mllm.chat, PROMPTS, label_reduce=stage.label_reduce), example)

    return train_stage(
        model,
        TreeDataset(len(samples), tree),
        collate or mllm.collate,
        stage,
        objective=objective,
        **{"seed": 5, "folder": folder, "log_steps": 1, **options},
    )
