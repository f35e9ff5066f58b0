"""The matrix FLOPs of a training step in closed form, for InternVL-like models: what a benchmark's ratio is held
against, and what a cost model multiplies. Plain arithmetic on a config; no tensor is made.

Counted: convolution, linear layers, attention, LM head; a multiply-add is 2 FLOPs. Not counted: norms, activations,
softmax, dropout, rotary angles, optimiser. Assumptions:
- The base is frozen and every linear layer of both towers has a LoRA of `rank`; projector and LM head have none.
- Backward means gradients of activations wherever something below them is trained, and gradients of LoRA factors. The
  first layer's query, key and value inputs need none in the vision tower (nothing below them is trained), nor in the
  decoder on rows without image.
- Attention is dense over what a kernel is handed, whatever its mask hides, as `torch.utils.flop_counter` counts it too:
  a whole row, or trunk and crown of each tree (`Row.pairs`). A kernel that skips the upper triangle of a causal
  sequence does less than is counted.
- The backward pass of attention computes the scores anew: five products to the forward pass's two.
- Logits at marked positions only.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


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
    query and key that the decoder's attention kernels are handed; None: every token with every token."""

    tokens: int
    tiles: int
    marked: int
    pairs: int | None = None


@dataclass(frozen=True)
class Tower:
    """A stack of equal transformer layers; `matrices` in an MLP is 2 (plain) or 3 (gated)."""

    layers: int
    width: int
    heads: int
    key_value_heads: int
    head_width: int
    mlp: int
    matrices: int

    def flops(self, tokens: int, rank: int, trained_below: bool, pairs: int | None = None) -> Flops:
        """All layers on a row of `tokens`; `trained_below` says whether its input needs a gradient."""
        pairs = tokens**2 if pairs is None else pairs
        first = self._layer(tokens, rank, trained_below, pairs)
        return first + self._layer(tokens, rank, True, pairs) * (self.layers - 1)

    def _layer(self, tokens: int, rank: int, trained_below: bool, pairs: int) -> Flops:
        inner = self.heads * self.head_width
        shared = self.key_value_heads * self.head_width
        gated = linear_flops(tokens, self.width, self.mlp, rank) * (self.matrices - 1)
        return (
            linear_flops(tokens, self.width, inner, rank, trained_below)
            + linear_flops(tokens, self.width, shared, rank, trained_below) * 2
            + attention_flops(pairs, self.heads, self.head_width)
            + linear_flops(tokens, inner, self.width, rank)
            + gated
            + linear_flops(tokens, self.mlp, self.width, rank)
        )


@dataclass(frozen=True)
class Shape:
    """What of a config the count needs. `joined` is how many vision tokens the projector joins into one."""

    vision: Tower
    patches: int
    patch_values: int
    joined: int
    decoder: Tower
    vocabulary: int

    def image_flops(self, rank: int) -> Flops:
        """Vision tower and projector on one tile."""
        convolution = Flops(2 * self.patches * self.patch_values * self.vision.width)
        tokens, joined_width = self.patches // self.joined, self.joined * self.vision.width
        return (
            convolution
            + self.vision.flops(self.patches + 1, rank, trained_below=False)  # + 1: the class token
            + linear_flops(tokens, joined_width, self.decoder.width)
            + linear_flops(tokens, self.decoder.width, self.decoder.width)
        )


def shape_of(config: Any) -> Shape:
    """Reads an `InternVLConfig` with a Qwen2- or Llama-like decoder."""
    vision, text = config.vision_config, config.text_config
    height, width = (size // patch for size, patch in zip(vision.image_size, vision.patch_size, strict=True))
    return Shape(
        vision=Tower(
            layers=vision.num_hidden_layers,
            width=vision.hidden_size,
            heads=vision.num_attention_heads,
            key_value_heads=vision.num_attention_heads,
            head_width=vision.hidden_size // vision.num_attention_heads,
            mlp=vision.intermediate_size,
            matrices=2,
        ),
        patches=height * width,
        patch_values=vision.num_channels * vision.patch_size[0] * vision.patch_size[1],
        joined=round(1 / config.downsample_ratio) ** 2,
        decoder=Tower(
            layers=text.num_hidden_layers,
            width=text.hidden_size,
            heads=text.num_attention_heads,
            key_value_heads=text.num_key_value_heads,
            head_width=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
            mlp=text.intermediate_size,
            matrices=3,
        ),
        vocabulary=text.vocab_size,
    )


def step_flops(shape: Shape, rows: Iterable[Row], rank: int) -> Flops:
    """Forward and backward of a training step over `rows`."""
    total = Flops()
    for row in rows:
        total += shape.image_flops(rank) * row.tiles
        total += shape.decoder.flops(row.tokens, rank, row.tiles > 0, row.pairs)
        total += linear_flops(row.marked, shape.decoder.width, shape.vocabulary)
    return total


def linear_flops(rows: int, inside: int, outside: int, rank: int = 0, trained_below: bool = True) -> Flops:
    """A frozen linear layer on `rows` vectors, with a trained LoRA beside it where `rank` is not 0."""
    base = 2 * rows * inside * outside
    first, second = 2 * rows * inside * rank, 2 * rows * rank * outside
    below = base + first if trained_below else 0  # gradient of the input
    return Flops(base + first + second, below + first + 2 * second)


def attention_flops(pairs: int, heads: int, head_width: int) -> Flops:
    """Scores and weighted sum of `pairs` of query and key; key-value heads are repeated, so only query heads count."""
    product = 2 * pairs * heads * head_width
    return Flops(2 * product, 5 * product)
