"""The tree pass equals its paths alone, in log-likelihoods, losses and gradients, for three families and both plans."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.mllm.reference import (
    Spoken,
    assert_same_gradients,
    gradients,
    loss_alone,
    nll_alone,
    picture,
    tree_of,
)
from tests.mllm.tiny import image_of

from throughline.core.settings import LoraSettings
from throughline.mllm.batch import TreeBatch, collate_masked, collate_packed, collate_paths
from throughline.mllm.chat import user_turn
from throughline.mllm.forward import score_trees
from throughline.mllm.load import Mllm, load_mllm
from throughline.mllm.lora import add_lora
from throughline.mllm.tree import Tree

QUESTION = "What is shown? Choose from: cat, cat tower, dog."
REASONED = QUESTION + " Think step by step."
CHAIN = (
    "The picture has a handle, no sail, and two wheels; it stands on grass. "
    "The picture has two wheels, no handle; it stands. <CONCLUSION>cat tower</CONCLUSION>"
)


def two_paths(seed: int = 0, weight: float = 1.0) -> list[Spoken]:
    """The main use: image and question shared, a label of few tokens and a chain of many behind other instructions."""
    return [
        Spoken(user_turn(QUESTION), [picture(seed)], "cat", weight, "sum"),
        Spoken(user_turn(REASONED), [picture(seed)], CHAIN, 0.5),
    ]


def continuing(depth: int) -> list[Spoken]:
    """Answers that each go on where the last one stopped, with a fork at the end: a tree of that depth."""
    words = ["dog", "house", "boat", "horse", "bell"][: depth + 1]
    answers = [" ".join(words[:n]) for n in range(1, depth + 2)] + [" ".join([*words[:-1], "coin"])]
    return [
        Spoken(user_turn(QUESTION), [picture(1)], answer, 0.3 + i, "mean" if i % 2 else "sum")
        for i, answer in enumerate(answers)
    ]


def images_below_the_root() -> list[Spoken]:
    """In-context learning: an example image with its answer shared, then another query image in each branch."""
    example = [*user_turn(QUESTION), {"role": "assistant", "content": [{"type": "text", "text": "dog"}]}]
    return [
        Spoken([*example, *user_turn(REASONED)], [picture(2), picture(seed, *size)], answer)
        for seed, size, answer in [(3, (40, 32), "cat"), (4, (24, 48), "cat tower"), (3, (40, 32), "dog")]
    ]


def two_images_in_a_question() -> list[Spoken]:
    """Branches fork at the second image; one shows the same image twice."""
    return [
        Spoken(user_turn(QUESTION, images=2), [picture(2), picture(seed)], answer)
        for seed, answer in [(3, "cat"), (2, "dog"), (3, "dog house")]
    ]


SETS: dict[str, list[list[list[Spoken]]]] = {
    "label and chain": [[two_paths()]],
    "a path by itself": [[two_paths()[1:]]],
    "depth 1": [[continuing(1)]],
    "depth 2": [[continuing(2)]],
    "depth 3": [[continuing(3)]],
    "depth 4": [[continuing(4)]],
    "several trees in a row": [[two_paths(5), continuing(3), two_paths(6, 2.0)]],
    "rows of different length": [[two_paths(5), continuing(2)], [two_paths(5)], [continuing(1)]],
    "images below the root": [[images_below_the_root(), two_paths(3)]],
    "two images in a question": [[two_images_in_a_question()], [two_paths(2)]],
    "no image": [[[Spoken(user_turn(QUESTION, images=0), [], "cat"), Spoken(user_turn("?", images=0), [], CHAIN)]]],
}
"""Rows of trees of paths."""

Plan = Callable[[Sequence[Sequence[Tree]], int], TreeBatch]
PLANS: dict[str, Plan] = {
    "packed": lambda rows, pad: collate_packed(rows),
    "masked": collate_masked,
    "paths": lambda rows, pad: collate_paths([tree for row in rows for tree in row], pad),
}


@pytest.fixture(scope="module")
def trainable(checkpoints: dict[str, Path]) -> dict[str, Mllm]:
    """Loaded anew, every parameter with a gradient."""
    loaded = {family: load_mllm(str(folder)) for family, folder in checkpoints.items()}
    for mllm in loaded.values():
        mllm.model.requires_grad_(True)
    return loaded


@pytest.fixture(scope="module")
def alone(trainable: dict[str, Mllm]) -> Callable[[str, str], tuple[list[torch.Tensor], torch.Tensor, dict[str, Any]]]:
    """NLLs, loss and gradients of a set's paths run one by one, computed once for both plans."""
    known: dict[tuple[str, str], Any] = {}

    def compute(family: str, name: str) -> Any:
        if (family, name) not in known:
            mllm = trainable[family]
            paths = [path for row in SETS[name] for tree in row for path in tree]
            nlls = [nll_alone(mllm.model, mllm.chat.processor, family, path) for path in paths]
            loss = loss_alone(nlls, paths)
            found = gradients(mllm.model, loss)
            known[family, name] = [nll.detach() for nll in nlls], loss.detach(), found
        return known[family, name]

    return compute


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("name", SETS)
def test_a_tree_gives_the_numbers_of_its_paths_alone(
    trainable: dict[str, Mllm], alone: Any, family: str, name: str, plan: str
) -> None:
    mllm = trainable[family]
    paths = [path for row in SETS[name] for tree in row for path in tree]
    rows = [[tree_of(mllm, tree) for tree in row] for row in SETS[name]]
    scores = score_trees(mllm.model, PLANS[plan](rows, mllm.chat.pad_id))
    nlls, loss, found = alone(family, name)

    branches = list(scores.per_branch())
    assert [sample for sample, _, _ in branches] == [
        i for i, tree in enumerate(tree for row in SETS[name] for tree in row) for _ in tree
    ]
    for (_, _, ours), theirs in zip(branches, nlls, strict=True):
        torch.testing.assert_close(ours.detach(), theirs, atol=1e-5, rtol=1e-5)
    reduced = torch.stack([n.mean() if p.reduce == "mean" else n.sum() for n, p in zip(nlls, paths, strict=True)])
    torch.testing.assert_close(scores.branch_nll().detach(), reduced, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(scores.loss_sum().detach(), loss, atol=1e-5, rtol=1e-5)
    assert_same_gradients(gradients(mllm.model, scores.loss_sum()), found)


def test_the_numbers_depend_on_image_prompt_and_branch(mllm: Mllm, family: str) -> None:
    """Guards the guards: the tiny models are not so small that nothing matters."""
    base = Spoken(user_turn(QUESTION), [picture(0)], "cat tower")
    others = [
        Spoken(user_turn(QUESTION), [picture(1)], "cat tower"),
        Spoken(user_turn(REASONED), [picture(0)], "cat tower"),
        Spoken(user_turn(QUESTION), [picture(0)], "dog tower"),
    ]
    with torch.no_grad():
        first, *rest = (
            nll_alone(mllm.model, mllm.chat.processor, family, s)[-2] for s in [base, *others]
        )  # the last word's NLL; in the third only the word before it differs
    assert all(abs(float(first - other)) > 1e-2 for other in rest)


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_continuing_answers_make_a_tree_of_that_depth(mllm: Mllm, depth: int) -> None:
    tree = tree_of(mllm, continuing(depth))
    depths = np.zeros(len(tree.parent), dtype=int)
    for node in range(1, len(tree.parent)):
        depths[node] = depths[tree.parent[node]] + 1
    assert depths.max() == depth


def test_shared_tokens_are_in_the_batch_once(mllm: Mllm) -> None:
    tree = tree_of(mllm, two_paths())
    batch = collate_masked([[tree]], mllm.chat.pad_id)
    separate = collate_paths([tree], mllm.chat.pad_id)
    assert batch.input_ids.numel() < separate.input_ids.numel()
    placeholders = int((batch.input_ids == mllm.chat.image_token_id).sum())
    assert int((separate.input_ids == mllm.chat.image_token_id).sum()) == 2 * placeholders


def test_the_slower_plan_encodes_each_image_once(mllm: Mllm) -> None:
    trees = [tree_of(mllm, two_paths()), tree_of(mllm, images_below_the_root())]
    batch = collate_paths(trees, mllm.chat.pad_id)
    one = mllm.chat.encode_image(image_of(0), "0").inputs["pixel_values"]
    taller = mllm.chat.encode_image(image_of(4, 24, 48), "4").inputs["pixel_values"]
    assert len(batch.image_inputs["pixel_values"]) == 3 * len(one) + len(taller)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("size", [(96, 32), (32, 96), (40, 40)])
def test_images_of_several_tiles(checkpoints: dict[str, Path], plan: str, size: tuple[int, int]) -> None:
    mllm = load_mllm(str(checkpoints["internvl"]), tiles=4)
    paths = [
        [
            Spoken(user_turn(QUESTION, images=2), [picture(1, *size), picture(2)], "cat"),
            Spoken(user_turn(QUESTION, images=2), [picture(1, *size), picture(3, *size)], CHAIN),
        ],
        [Spoken(user_turn(QUESTION), [picture(3, *size)], "dog")],
    ]
    rows = [[tree_of(mllm, tree) for tree in paths]]
    if size == (96, 32):
        assert len(rows[0][0].images[0].inputs["pixel_values"]) == 4  # three tiles and the thumbnail
    with torch.no_grad():
        ours = score_trees(mllm.model, PLANS[plan](rows, mllm.chat.pad_id)).token_nll
        theirs = torch.cat(
            [nll_alone(mllm.model, mllm.chat.processor, "internvl", p, tiles=4) for tree in paths for p in tree]
        )
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "gradient checkpointing"])
def test_lora_in_both_towers_has_the_gradients_of_separate_paths(
    checkpoints: dict[str, Path], family: str, plan: str, checkpointing: bool
) -> None:
    mllm = load_mllm(str(checkpoints[family]))
    model = add_lora(mllm.model, LoraSettings(rank=2, alpha=4, dropout=0.0), seed=3)
    _fill_second_factors(model)
    sets = [two_paths(5), images_below_the_root()]
    paths = [path for tree in sets for path in tree]
    theirs = loss_alone([nll_alone(model, mllm.chat.processor, family, p) for p in paths], paths)
    expected = gradients(model, theirs)
    assert any("lora_A" in n and _in_vision(n) for n in expected)
    assert any("lora_A" in n and not _in_vision(n) for n in expected)

    rows = [[tree_of(mllm, tree) for tree in sets]]
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
        model.train()
    scores = score_trees(model, PLANS[plan](rows, mllm.chat.pad_id))
    torch.testing.assert_close(scores.loss_sum(), theirs, atol=1e-5, rtol=1e-5)
    assert_same_gradients(gradients(model, scores.loss_sum()), expected)


def _fill_second_factors(model: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))


def _in_vision(name: str) -> bool:
    return "vision_tower" in name or "visual" in name


@pytest.mark.parametrize("plan", PLANS)
def test_bf16_strays_no_further_than_separate_paths_in_bf16_do(
    checkpoints: dict[str, Path], mllms: dict[str, Mllm], family: str, plan: str
) -> None:
    rough = load_mllm(str(checkpoints[family]), dtype="bfloat16")
    exact = mllms[family]
    sets = [two_paths(7), continuing(3)]
    paths = [path for tree in sets for path in tree]
    rows = [[tree_of(rough, tree) for tree in sets]]
    with torch.no_grad():
        truth = torch.cat([nll_alone(exact.model, exact.chat.processor, family, p) for p in paths])
        separate = torch.cat([nll_alone(rough.model, rough.chat.processor, family, p) for p in paths])
        ours = score_trees(rough.model, PLANS[plan](rows, rough.chat.pad_id)).token_nll
    assert ours.dtype == torch.float32
    assert (ours - truth).square().mean() < 1.5 * (separate - truth).square().mean()
    assert (ours - truth).abs().max() < 2 * (separate - truth).abs().max()


@pytest.mark.parametrize("plan", PLANS)
def test_autocast_gives_the_numbers_of_separate_paths_under_autocast(
    mllms: dict[str, Mllm], family: str, plan: str
) -> None:
    """fp32 weights, bf16 products: how LoRA on an fp32 base is trained in bf16."""
    mllm = mllms[family]
    paths = two_paths(7)
    batch = PLANS[plan]([[tree_of(mllm, paths)]], mllm.chat.pad_id)
    with torch.no_grad():
        truth = torch.cat([nll_alone(mllm.model, mllm.chat.processor, family, p) for p in paths])
        with torch.autocast("cpu", torch.bfloat16):
            separate = torch.cat([nll_alone(mllm.model, mllm.chat.processor, family, p) for p in paths])
            ours = score_trees(mllm.model, batch).token_nll
    assert (ours - truth).square().mean() < 2 * (separate - truth).square().mean()


def test_eager_attention_takes_the_same_mask(checkpoints: dict[str, Path], family: str) -> None:
    mllm = load_mllm(str(checkpoints[family]))
    mllm.model.set_attn_implementation("eager")
    paths = two_paths(7)
    with torch.no_grad():
        theirs = torch.cat([nll_alone(mllm.model, mllm.chat.processor, family, p) for p in paths])
        ours = score_trees(mllm.model, collate_masked([[tree_of(mllm, paths)]], mllm.chat.pad_id)).token_nll
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
