"""Token trees in one row by FlexAttention: one kernel for the whole row, which skips every block that nobody sees.

The same row, the same numbers as `attention.TreeLayout`. On a GPU kernel and mask are compiled, once for all lengths;
off it, where FlexAttention has no backward pass, the same mask goes to SDPA whole, which serves the tests. Whether it
is faster than trunks and crowns depends on card and model: `throughline bench gpu` tells, `model.attention` chooses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from throughline.mllm.attention import grouped_sdpa
from throughline.mllm.tree import Tree


@dataclass(frozen=True, eq=False)
class FlexLayout:
    """For each token of the row its node and its place in depth-first order `(tokens,)`, both over all trees; and
    `(nodes, nodes)` whether the first node's tokens see the second's."""

    node: Tensor
    place: Tensor
    sees: Tensor

    def to(self, device: torch.device | str) -> FlexLayout:
        """The same on `device`."""
        return replace(self, node=self.node.to(device), place=self.place.to(device), sees=self.sees.to(device))

    def pairs(self) -> int:
        """Pairs of query and key in the blocks that are computed."""
        rows, columns = self.mask.BLOCK_SIZE
        return int(self.mask.kv_num_blocks.sum() + self._full_blocks()) * rows * columns

    @cached_property
    def mask(self) -> BlockMask:
        """Made once, for all layers."""
        node, place, sees = self.node, self.place, self.sees

        def visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return sees[node[query], node[key]] & (place[key] <= place[query])

        make = _compiled(create_block_mask) if self.node.device.type == "cuda" else create_block_mask
        length = len(self.node)
        mask: BlockMask = make(visible, None, None, length, length, device=str(self.node.device))
        return mask

    @cached_property
    def dense(self) -> Tensor:
        """`(1, 1, tokens, tokens)`, 0 or -inf."""
        seen = self.sees[self.node][:, self.node] & (self.place <= self.place[:, None])
        return torch.zeros(seen.shape, device=seen.device).masked_fill(~seen, -torch.inf)[None, None]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, dropout: float) -> Tensor:
        """See `attention.Layout`."""
        if dropout:
            raise NotImplementedError("FlexAttention drops nothing out")
        if query.device.type != "cuda":
            return grouped_sdpa(query, key, value, self.dense.to(query.dtype), scaling).transpose(1, 2)
        kernel = _compiled(flex_attention)
        out = kernel(query, key, value, block_mask=self.mask, scale=scaling, enable_gqa=True)
        return torch.as_tensor(out).transpose(1, 2)

    def _full_blocks(self) -> int:
        full = self.mask.full_kv_num_blocks
        return 0 if full is None else int(full.sum())


def flex_layout(trees: Sequence[tuple[NDArray[np.int64], Tree]], tokens: int) -> FlexLayout:
    """Of trees, each with the places of its tokens in the row."""
    node, place = np.empty(tokens, dtype=np.int64), np.empty(tokens, dtype=np.int64)
    first = 0
    for at, tree in trees:
        node[at], place[at] = tree.node + first, np.arange(len(at))
        first += len(tree.parent)
    sees = torch.block_diag(*(torch.from_numpy(tree.ancestry()) for _, tree in trees))
    return FlexLayout(torch.from_numpy(node), torch.from_numpy(place), sees.bool())


@lru_cache(maxsize=2)
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    compiled: Callable[..., Any] = torch.compile(function, dynamic=True)
    return compiled
