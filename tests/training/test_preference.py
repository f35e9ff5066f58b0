"""A loss that is no sum of NLLs trains through the same trainer: a toy preference between two branches of one tree."""

import math
from functools import partial
from pathlib import Path

import pytest
import torch
from tests.training.my_method import LabelPreference
from tests.training.small import PROMPTS, STILL, samples_of, settings, train, with_lora

from throughline.core.settings import LoraSettings, TrainingSettings
from throughline.domains.samples import ImageSet
from throughline.mllm.forward import score_trees
from throughline.mllm.images import ImageReader
from throughline.mllm.load import Mllm
from throughline.training.paths import Example, PathRenderer
from throughline.training.stages.context import StageContext
from throughline.training.trainer import train_examples


def context_of(mllm: Mllm, samples: list, folder: Path, **stage: object) -> StageContext:
    return StageContext(
        mllm=mllm,
        reader=ImageReader(mllm.chat),
        questions=PROMPTS,
        samples=tuple(samples),
        chains={},
        settings=TrainingSettings(stage=settings(**stage)),
        lora=LoraSettings(),
        batch=4,
        seed=0,
        position=0,
        folder=folder,
        start=None,
        references=folder / "references",
    )


def margins(mllm: Mllm, model: object, samples: list) -> torch.Tensor:
    """`(samples,)`: how much more likely the right label is than the other one, in nats."""
    renderer, reader = PathRenderer(mllm.chat, PROMPTS), ImageReader(mllm.chat)
    examples = [Example((reader.encode(sample),), sample.label) for sample in samples]
    trees = [[LabelPreference().tree(renderer, example)] for example in examples]
    with torch.no_grad():
        chosen, rejected = score_trees(model, mllm.collate(trees)).branch_nll().view(-1, 2).T
    return rejected - chosen


def test_the_first_loss_is_log_two_and_the_right_label_gains(
    tiny_mllm: Mllm, tiny_images: ImageSet, tmp_path: Path
) -> None:
    model, samples = with_lora(tiny_mllm), samples_of(tiny_images, 6)
    before = margins(tiny_mllm, model, samples)
    context = context_of(tiny_mllm, samples, tmp_path, epochs=4, batch=6, micro_batch=3, lr=3e-3)
    examples = [lambda sample=sample: context.example(sample, None) for sample in samples]
    _, lines = train_examples(context, model, LabelPreference(), examples, folder=tmp_path)
    after = margins(tiny_mllm, model, samples)
    expected = -torch.nn.functional.logsigmoid(after - before).mean()
    assert lines[-1].loss < math.log(2)  # what it is while the weights are the reference's
    assert set(lines[-1].losses) == {"chosen", "rejected"}
    assert float(expected) < math.log(2)


def test_references_are_computed_in_the_precision_of_the_loss(
    tiny_mllm: Mllm, tiny_images: ImageSet, tmp_path: Path
) -> None:
    """A new adapter changes nothing: the first step's loss is log 2 whatever rounds."""
    samples = samples_of(tiny_images, 4)
    for autocast in (False, True):
        model = with_lora(tiny_mllm)
        context = context_of(tiny_mllm, samples, tmp_path, epochs=1, batch=4, micro_batch=1, autocast=autocast)
        examples = [partial(context.example, sample, None) for sample in samples]
        _, (line,) = train_examples(context, model, LabelPreference(beta=50), examples, folder=tmp_path / str(autocast))
        assert line.loss == pytest.approx(math.log(2), rel=1e-6)
        model.unload()
    assert len([*(tmp_path / "references").iterdir()]) == 2 * len(samples), "one precision is not taken for the other"


def test_the_loss_of_a_step_is_that_of_a_direct_computation(
    tiny_mllm: Mllm, tiny_images: ImageSet, tmp_path: Path
) -> None:
    """Without references the gain is log p itself."""
    model, samples = with_lora(tiny_mllm), samples_of(tiny_images, 4)
    expected = -torch.nn.functional.logsigmoid(0.3 * margins(tiny_mllm, model, samples)).mean()
    stage = settings(epochs=1, batch=4, micro_batch=2, **STILL)
    _, (line,) = train(tiny_mllm, model, samples, tmp_path, stage, objective=LabelPreference(beta=0.3))
    assert math.isclose(line.loss, float(expected), rel_tol=1e-5)
