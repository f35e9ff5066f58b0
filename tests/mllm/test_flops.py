"""The closed form against torch's own counter, which looks at every matrix product that really runs."""

from typing import Any

import pytest
import torch
from tests.mllm.reference import Spoken, picture, tree_of
from torch.utils.flop_counter import FlopCounterMode
from transformers import InternVLConfig, InternVLForConditionalGeneration

from throughline.core.settings import LoraSettings
from throughline.mllm.attention import TreeLayout
from throughline.mllm.chat import user_turn
from throughline.mllm.flops import Flops, Row, image_flops, row_of, step_flops
from throughline.mllm.forward import score_trees
from throughline.mllm.load import Mllm
from throughline.mllm.lora import add_lora
from throughline.mllm.shapes import shape_of

IMAGE_TOKEN = 7

SHAPES = {
    "all heads alike": {
        "vision": {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 80},
        "decoder": {"hidden_size": 48, "num_attention_heads": 3, "num_key_value_heads": 3, "intermediate_size": 88},
    },
    "two query heads for a key-value head, wide MLP": {
        "vision": {"hidden_size": 48, "num_attention_heads": 3, "intermediate_size": 64},
        "decoder": {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 200},
    },
}


def model_of(shape: dict[str, Any], rank: int) -> Any:
    config = InternVLConfig(
        vision_config={"num_hidden_layers": 3, "image_size": [24, 24], "patch_size": [4, 4], **shape["vision"]},
        text_config={"model_type": "qwen2", "num_hidden_layers": 2, "vocab_size": 120, **shape["decoder"]},
        image_token_id=IMAGE_TOKEN,
        image_seq_length=9,
    )
    model = InternVLForConditionalGeneration(config).requires_grad_(False)
    return add_lora(model, LoraSettings(rank=rank, alpha=8, dropout=0.0), seed=0) if rank else model


def counted(model: Any, row: Row, dense_mask: bool, backward: bool = True) -> Flops:
    """One row through the model: `tiles` images first, then text; the last `marked` positions have logits."""
    ids = torch.full((1, row.tokens), 3)
    ids[0, : 9 * row.tiles] = IMAGE_TOKEN
    inputs: dict[str, Any] = {"input_ids": ids, "use_cache": False, "logits_to_keep": row.marked}
    if row.tiles:
        inputs["pixel_values"] = torch.randn(row.tiles, 3, 24, 24)
    if dense_mask:
        hidden = torch.triu(torch.full((row.tokens, row.tokens), torch.finfo(torch.float32).min), diagonal=1)
        inputs["attention_mask"] = hidden[None, None]
    with FlopCounterMode(display=False) as forward_count:
        loss = model(**inputs).logits.sum()
    with FlopCounterMode(display=False) as backward_count:
        if backward:
            loss.backward()
    return Flops(forward_count.get_total_flops(), backward_count.get_total_flops())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("row", [Row(50, 1, 12), Row(31, 2, 1), Row(23, 0, 23)], ids=str)
@pytest.mark.parametrize("dense_mask", [False, True], ids=["causal", "dense mask"])
def test_the_closed_form_is_what_torch_counts(shape: str, row: Row, dense_mask: bool) -> None:
    model = model_of(SHAPES[shape], rank=3)
    assert step_flops(model, [row]) == counted(model, row, dense_mask)


def test_trees_in_one_row_cost_their_trunks_and_crowns(mllms: dict[str, Mllm]) -> None:
    """Trees of two lengths through the pass itself: nothing is padded, and no tree attends to another."""
    mllm = mllms["internvl"]
    model = mllm.model
    answers = (["cat", "a dog and a cat"], ["cup", "a house"], ["a boat"])
    trees = [
        tree_of(mllm, [Spoken(user_turn("What is shown?"), [picture(seed)], answer) for answer in said])
        for seed, said in enumerate(answers)
    ]
    batch = mllm.collate([[tree] for tree in trees])
    assert isinstance(batch.attention, TreeLayout)
    assert batch.attention.pairs() == sum(row_of(tree).pairs or 0 for tree in trees)
    assert batch.attention.pairs() < sum(len(tree) ** 2 for tree in trees) < sum(map(len, trees)) ** 2 / 2
    with torch.no_grad(), FlopCounterMode(display=False) as count:
        score_trees(model, batch)
    assert count.get_total_flops() == step_flops(model, trees).forward


def test_without_adapters_the_forward_pass_is_what_torch_counts() -> None:
    model, row = model_of(SHAPES["all heads alike"], rank=0), Row(40, 1, 5)
    assert step_flops(model, [row]) == counted(model, row, dense_mask=False, backward=False)


def test_rows_add_up_and_a_second_image_costs_the_vision_tower_again() -> None:
    model = model_of(SHAPES["all heads alike"], rank=8)
    one, two = Row(40, 1, 5), Row(40, 2, 5)
    assert step_flops(model, [one, one]) == step_flops(model, [one]) * 2
    image = image_flops(shape_of(model)).total
    assert step_flops(model, [two]).total - step_flops(model, [one]).total == image


@pytest.mark.parametrize("part", ["vision", "decoder"])
def test_a_tower_without_adapters_has_gradients_only_above_what_is_trained(part: str) -> None:
    settings = LoraSettings(rank=3, dropout=0.0).model_copy(update={part: ()})
    model = add_lora(model_of(SHAPES["all heads alike"], rank=0), settings, seed=0)
    for row in (Row(40, 1, 5), Row(23, 0, 23)):
        if part == "decoder" and not row.tiles:
            continue  # nothing is trained on such a row
        assert step_flops(model, [row]) == counted(model, row, dense_mask=False), row
