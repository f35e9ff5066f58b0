"""The loss of a step is Eq. 1: by torch's own cross-entropy on the plain transformers model, each path alone."""

from pathlib import Path

import pytest
import torch
from tests.mllm.reference import Spoken, nll_alone, picture
from tests.training.small import PROMPTS, STILL, chain_of, samples_of, settings, train, with_lora

from throughline.domains.samples import ImageSet
from throughline.mllm.chat import user_turn
from throughline.mllm.images import ImageReader
from throughline.mllm.load import Mllm
from throughline.training.methods import BOTH, CHAINS, METHODS
from throughline.training.paths import Example, PathRenderer

FIRST_STAGES = ("cls", "reasoning", "mtct")


@torch.no_grad()
def nll_of(mllm: Mllm, seed: int, question: str, answer: str) -> torch.Tensor:
    spoken = Spoken(user_turn(question), [picture(seed)], answer)
    return nll_alone(mllm.model, mllm.chat.processor, "internvl", spoken)


@pytest.mark.slow
@pytest.mark.parametrize("reduce", ["sum", "mean"])
@pytest.mark.parametrize("method", FIRST_STAGES)
def test_the_loss_of_a_step_is_the_mean_over_samples_of_label_and_chain(
    tiny_mllm: Mllm, tiny_images: ImageSet, tmp_path: Path, method: str, reduce: str
) -> None:
    model = with_lora(tiny_mllm)
    samples = samples_of(tiny_images, 6)
    seeds = [tiny_images.samples.index(one) for one in samples]
    label = [nll_of(tiny_mllm, s, PROMPTS.label, one.label) for s, one in zip(seeds, samples, strict=True)]
    chain = [
        nll_of(tiny_mllm, s, PROMPTS.reasoning, chain_of(one.label, i))
        for i, (s, one) in enumerate(zip(seeds, samples, strict=True))
    ]
    assert len({len(nll) for nll in chain}) > 1, "chains of one length would hide how they are reduced"
    labels = torch.stack([nll.sum() if reduce == "sum" else nll.mean() for nll in label])
    chains = torch.stack([nll.mean() for nll in chain])
    expected = {
        "cls": float(labels.mean()),
        "reasoning": float(chains.mean()),
        "mtct": float((labels + chains).mean()),
    }[method]

    stage = settings(epochs=1, label_reduce=reduce, micro_batch=3, **STILL)
    trained, (line,) = train(tiny_mllm, model, samples, tmp_path, stage, objective=METHODS[method].stages[0].objective)
    assert trained.optimiser_steps == 1
    assert trained.parameters == sum(own.numel() for own in model.parameters() if own.requires_grad)
    assert line.loss == pytest.approx(expected, rel=1e-5)
    parts = {"label": float(labels.mean()), "chain": float(chains.mean())}
    assert line.losses == pytest.approx({name: parts[name] for name in METHODS[method].paths}, rel=1e-5)


def test_question_and_image_stand_in_the_tree_once(tiny_mllm: Mllm, tiny_images: ImageSet) -> None:
    image = ImageReader(tiny_mllm.chat).encode(tiny_images.samples[0])
    tree = BOTH.tree(PathRenderer(tiny_mllm.chat, PROMPTS), Example((image,), "cat", chain_of("cat")))
    apart = [
        len(tiny_mllm.chat.answered(user_turn(question), [image], answer).tokens)
        for question, answer in ((PROMPTS.label, "cat"), (PROMPTS.reasoning, chain_of("cat")))
    ]
    shared = len(tiny_mllm.chat.prompt(user_turn(PROMPTS.label), [image]).tokens)
    assert len(tree.images) == 1
    # what closes the question's turn is not shared: in the reasoning question the instruction stands there
    assert sum(apart) - shared <= len(tree) <= sum(apart) - shared + 12


def test_a_chain_that_is_marked_and_missing_is_a_bug(tiny_mllm: Mllm, tiny_images: ImageSet) -> None:
    image = ImageReader(tiny_mllm.chat).encode(tiny_images.samples[0])
    with pytest.raises(ValueError, match="the example has none"):
        CHAINS.tree(PathRenderer(tiny_mllm.chat, PROMPTS), Example((image,), "cat"))
