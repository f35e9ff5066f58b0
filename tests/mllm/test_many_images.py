"""A prompt of three images between texts, and one of none: generation, likelihood and the tree give what a plain
forward pass of transformers over the whole conversation gives."""

from dataclasses import replace
from pathlib import Path as FilePath

import pytest
import torch
from tests.mllm.reference import Spoken, nll_alone, picture
from tests.mllm.test_sampling import generated
from tests.mllm.tiny import image_of

from throughline.core.settings import SamplingSettings
from throughline.domains.samples import Sample
from throughline.mllm.chat import EncodedPrompt
from throughline.mllm.forward import score_trees
from throughline.mllm.images import ImageReader
from throughline.mllm.likelihood import label_log_likelihood
from throughline.mllm.load import Mllm
from throughline.mllm.plan import Plan
from throughline.mllm.sampling import sample
from throughline.mllm.tree import Leaf, common_path, merge_paths
from throughline.questions.prompt import Prompt, user_prompt

PICTURES = [picture(0), picture(1, 24, 48), picture(2, 64, 32)]
LABELS = ["cat", "cat tower", "dog", "house", "cat"]
WAYS = ["packed", "masked", "paths"]


@pytest.fixture
def images(tmp_path: FilePath) -> list[Sample]:
    """The pictures as files."""
    found = []
    for seed, width, height in PICTURES:
        image_of(seed, width, height).save(tmp_path / f"{seed}.png")
        found.append(Sample(f"{seed}.png", tmp_path, "d", ("cat",), f"content of {seed}"))
    return found


@pytest.fixture
def prompts(images: list[Sample]) -> dict[str, Prompt]:
    first, second, third = images
    example = user_prompt("What is shown?", first)
    answer = {"role": "assistant", "content": [{"type": "text", "text": "dog"}]}
    question = user_prompt("Look: ", second, "and", third, "What is shown? Choose from: cat, dog.")
    return {
        "three": Prompt((*example.messages, answer, *question.messages), (*example.images, *question.images)),
        "none": user_prompt("Think step by step. What has a handle?"),
        "one": user_prompt(third, "What is shown?"),
    }


def spoken(prompt: Prompt, answer: str = "") -> Spoken:
    """The same for the reference, which knows nothing of prompts."""
    return Spoken(prompt.messages, [PICTURES[int(image.id[0])] for image in prompt.images], answer)


@pytest.fixture
def encoded(mllm: Mllm, prompts: dict[str, Prompt]) -> list[EncodedPrompt]:
    reader = ImageReader(mllm.chat)
    return [prompt.encode(reader) for prompt in prompts.values()]


@pytest.mark.parametrize("way", WAYS)
def test_greedy_generation_is_transformers_own(
    mllm: Mllm, family: str, prompts: dict[str, Prompt], encoded: list[EncodedPrompt], way: str
) -> None:
    mllm = replace(mllm, plan=Plan(way))
    replies = sample(mllm, [prompt.path(mllm.chat) for prompt in encoded], SamplingSettings(max_new_tokens=10))
    for prompt, (reply,) in zip(prompts.values(), replies, strict=True):
        expected = generated(mllm, family, spoken(prompt), 10)
        assert list(reply.tokens) == expected[: len(reply.tokens)]
        assert len(reply.tokens) == 10 or reply.finish_reason == "stop"


@pytest.mark.parametrize("way", WAYS)
@torch.no_grad()
def test_likelihoods_are_those_of_a_forward_pass_each(
    mllm: Mllm, family: str, prompts: dict[str, Prompt], encoded: list[EncodedPrompt], way: str
) -> None:
    found = label_log_likelihood(replace(mllm, plan=Plan(way)), encoded, LABELS)
    for prompt, row in zip(prompts.values(), found, strict=True):
        alone = [nll_alone(mllm.model, mllm.chat.processor, family, spoken(prompt, label)).sum() for label in LABELS]
        torch.testing.assert_close(row, -torch.stack(alone), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("way", WAYS)
@torch.no_grad()
def test_a_tree_of_such_prompts_scores_as_each_path_alone(
    mllm: Mllm, family: str, prompts: dict[str, Prompt], encoded: list[EncodedPrompt], way: str
) -> None:
    mllm = replace(mllm, plan=Plan(way))
    answers = ["cat", "The picture has two wheels."]
    trees = [
        merge_paths(
            [Leaf(prompt.answered(mllm.chat, answer), answer, 1.0, "sum") for answer in answers],
            mllm.chat.image_token_id,
        )
        for prompt in encoded
    ]
    assert [len(tree.images) for tree in trees] == [3, 0, 1]
    scores = score_trees(mllm.model, mllm.collate([trees]))
    alone = [
        nll_alone(mllm.model, mllm.chat.processor, family, spoken(prompt, answer))
        for prompt in prompts.values()
        for answer in answers
    ]
    torch.testing.assert_close(scores.token_nll, torch.cat(alone), atol=1e-5, rtol=1e-5)


def test_prompts_share_no_more_than_the_images_they_have_in_common(mllm: Mllm, images: list[Sample]) -> None:
    """Placeholders are the same tokens whatever image stands behind them."""
    reader = ImageReader(mllm.chat)

    def path(*shown: Sample) -> EncodedPrompt:
        parts = [part for image in shown for part in (image, "and")]
        return user_prompt(*parts, "What is shown?").encode(reader)

    first, second, third = images
    token = mllm.chat.image_token_id
    both, other = (
        path(first, second).path(mllm.chat),
        path(first, replace(second, image_sha256="other")).path(mllm.chat),
    )
    shared = common_path([both, other], token)
    assert [image.key for image in shared.images] == [first.image_sha256]
    assert (shared.tokens == token).sum() == shared.images[0].placeholder_tokens
    assert common_path([both, path(third, second).path(mllm.chat)], token).images == ()
    assert common_path([both, both], token).images == both.images
