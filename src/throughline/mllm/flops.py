"""The matrix FLOPs of training and inference in closed form, from a model's shape. Benchmarks compare their ratios with
them, the forecast of a run multiplies them. Plain arithmetic; no tensor is made.

Counted: convolution, linear layers, attention, LM head; a multiply-add is 2 FLOPs. Not counted: norms, activations,
softmax, dropout, rotary angles, optimiser. Assumptions:
- The base is frozen. Backward means gradients of activations wherever something below them is trained, and gradients of
  LoRA factors. The first layer's query, key and value inputs need none in the vision tower (nothing below them is
  trained), nor in the decoder on rows without image or with a vision tower that is not adapted.
- Attention is dense over what a kernel computes, whatever its mask hides, as `torch.utils.flop_counter` counts it too:
  a whole row, or trunk and crown of each tree (`Row.pairs`). A kernel that skips the upper triangle of a causal
  sequence does less than is counted, and so do a vision tower's windows.
- The backward pass of attention computes the scores anew: five products to the forward pass's two.
- Logits at marked positions only.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from throughline.mllm.shapes import Linears, Shape, Tower, shape_of, tiles_of
from throughline.mllm.tree import Tree


@dataclass(frozen=True)
class Flops:
    """FLOPs of the forward and of the backward pass."""

    forward: int = 0
    backward: int = 0

    def __add__(self, other: Flops) -> Flops:
        return Flops(self.forward + other.forward, self.backward + other.backward)

    def __mul__(self, times: int) -> Flops:
        return Flops(self.forward * times, self.backward * times)

    @property
    def total(self) -> int:
        """Forward and backward together."""
        return self.forward + self.backward


@dataclass(frozen=True)
class Row:
    """One row of a model call: its tokens with padding, its images' tiles, its positions with logits, and the pairs of
    query and key that the decoder's attention kernels compute; None: every token with every token."""

    tokens: int
    tiles: int
    marked: int
    pairs: int | None = None


def row_of(tree: Tree) -> Row:
    """A tree as its packed row computes it: the trunk with itself, the crown with the whole tree."""
    tokens, trunk = len(tree), tree.trunk_tokens
    predictors = np.unique(np.concatenate([branch.predictors for branch in tree.branches]))
    tiles = sum(tiles_of(image) for image in tree.images)
    return Row(tokens, tiles, len(predictors), trunk**2 + (tokens - trunk) * tokens)


def appended(context: int, tokens: int, marked: int = 1) -> Row:
    """`tokens` in one pass behind `context` cached ones, dense among themselves; logits at `marked` of them."""
    return Row(tokens, 0, marked, tokens * (context + tokens))


def decoded(context: int, steps: int) -> Row:
    """`steps` tokens one by one behind `context` cached ones, logits at each: step t sees context + t + 1 tokens."""
    return Row(steps, 0, steps, steps * (context + 1) + steps * (steps - 1) // 2)


def step_flops(model: Any, rows: Iterable[Row | Tree]) -> Flops:
    """Forward and backward of a training step of this model, wherever its weights are, over rows or trees."""
    rows = list(rows)
    images = [image for row in rows if isinstance(row, Tree) for image in row.images]
    shape = shape_of(model, images[0] if images else None)
    counted = [row_flops(shape, row_of(row) if isinstance(row, Tree) else row) for row in rows]
    return sum(counted, Flops())


def row_flops(shape: Shape, row: Row) -> Flops:
    """Forward and backward of one row."""
    below = row.tiles > 0 and (shape.vision.linears + shape.connector).adapter > 0
    trained = below or shape.decoder.linears.adapter > 0
    return (
        image_flops(shape) * row.tiles
        + tower_flops(shape.decoder, row.tokens, row.pairs, below)
        + linear_flops(shape.head, row.marked, trained)
    )


def image_flops(shape: Shape) -> Flops:
    """Convolution, vision tower and what connects it to the decoder, on one tile."""
    return (
        Flops(2 * shape.patches * shape.patch_weights)
        + tower_flops(shape.vision, shape.sequence)
        + linear_flops(shape.connector, shape.image_tokens, shape.vision.linears.adapter > 0)
    )


def tower_flops(tower: Tower, tokens: int, pairs: int | None = None, below: bool = False) -> Flops:
    """All layers on a row of `tokens`; `below` says whether what enters them needs a gradient."""
    if tower.measured is not None:
        return Flops(*tower.measured) * tokens
    trained = below or tower.linears.adapter > 0
    # Scores and weighted sums; key heads are repeated, so only query heads count.
    product = 2 * (tokens**2 if pairs is None else pairs) * tower.query_width * tower.layers
    attention = Flops(2 * product, 5 * product if trained else 0)
    return attention + linear_flops(tower.opening, tokens, below) + linear_flops(tower.rest, tokens, trained)


def linear_flops(linears: Linears, rows: int, below: bool) -> Flops:
    """Linear layers on `rows` vectors each; `below` says whether these need a gradient."""
    base = 2 * rows * linears.weights
    first, second = 2 * rows * linears.first_factors, 2 * rows * linears.second_factors
    return Flops(base + first + second, (base + first if below else 0) + first + 2 * second)
