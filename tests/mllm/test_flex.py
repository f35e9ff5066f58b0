"""The mask of FlexAttention against the visibility of the trees themselves."""

from __future__ import annotations

import torch
from tests.mllm.reference import Spoken, picture, tree_of
from torch.nn.attention.flex_attention import flex_attention

from throughline.mllm.chat import user_turn
from throughline.mllm.collating import collate_packed
from throughline.mllm.flex import FlexLayout
from throughline.mllm.load import Mllm


def test_every_pair_of_tokens_sees_what_it_sees_in_its_tree(mllms: dict[str, Mllm]) -> None:
    mllm = mllms["internvl"]
    question = user_turn("What is shown?")
    trees = [
        tree_of(mllm, [Spoken(question, [picture(seed)], answer) for answer in answers])
        for seed, answers in enumerate((["cat", "cat tower", "a dog"], ["cup"], ["a house", "a boat"]))
    ]
    batch = collate_packed([[tree] for tree in trees], flex=True)
    layout = batch.attention
    assert isinstance(layout, FlexLayout)
    query, key = torch.meshgrid(torch.arange(len(layout.node)), torch.arange(len(layout.node)), indexing="ij")
    seen = layout.mask.mask_mod(torch.tensor(0), torch.tensor(0), query, key)
    assert int(seen.sum()) == sum(int(tree.visible().sum()) for tree in trees)
    assert torch.equal(layout.dense[0, 0] == 0, seen)
    order = [(int(layout.node[i]), int(layout.place[i])) for i in range(len(layout.node))]
    first = 0
    for tree in trees:
        at = [order.index((first + int(tree.node[i]), i)) for i in range(len(tree))]
        assert torch.equal(seen[at][:, at], torch.from_numpy(tree.visible()))
        assert torch.equal(batch.input_ids[0, at], torch.from_numpy(tree.tokens))
        first += len(tree.parent)


def test_the_kernel_with_its_block_mask_gives_what_the_dense_mask_gives(mllms: dict[str, Mllm]) -> None:
    """Off a GPU the kernel runs forwards only; the mask that it skips blocks by is the one under test."""
    mllm = mllms["internvl"]
    trees = [
        tree_of(mllm, [Spoken(user_turn("What is shown?"), [picture(seed)], answer) for answer in ("cat", "a dog")])
        for seed in range(4)
    ]
    layout = collate_packed([[tree] for tree in trees], flex=True).attention
    assert isinstance(layout, FlexLayout) and len(layout.node) > 128  # more than one block
    draw = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, heads, len(layout.node), 16, generator=draw) for heads in (4, 2, 2))
    found = flex_attention(query, key, value, block_mask=layout.mask, scale=0.3, enable_gqa=True)
    torch.testing.assert_close(found.transpose(1, 2), layout.attend(0, query, key, value, 0.3, 0.0))
    assert 0 < layout.pairs() <= len(layout.node) ** 2 * 4
