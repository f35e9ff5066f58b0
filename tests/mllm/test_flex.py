"""The mask of FlexAttention against the visibility of the trees themselves."""

from __future__ import annotations

import torch
from tests.mllm.reference import Spoken, picture, tree_of

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
    order = [(int(layout.node[i]), int(layout.place[i])) for i in range(len(layout.node))]
    first = 0
    for tree in trees:
        at = [order.index((first + int(tree.node[i]), i)) for i in range(len(tree))]
        assert torch.equal(seen[at][:, at], torch.from_numpy(tree.visible()))
        assert torch.equal(batch.input_ids[0, at], torch.from_numpy(tree.tokens))
        first += len(tree.parent)
