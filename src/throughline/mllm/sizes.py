"""How large things of a shape are: parameters, adapters, caches, and what a backward pass keeps. Closed forms.

Norms, biases and position tables are left out: less than 1 % of any model here but the smallest.
"""

from __future__ import annotations

from throughline.mllm.flops import Shape, Tower

LOGITS_AT_ONCE = 1 << 24
"""That the head computes: 64 MiB of float32; a hundred positions of a vocabulary of 150,000."""


def linear_parameters(tower: Tower) -> int:
    """Weights of the tower's linear layers."""
    return tower.layers * sum(inside * outside for inside, outside in _linears(tower))


def decoder_parameters(shape: Shape) -> int:
    """What every decoding step reads: the decoder's linear layers and the LM head."""
    return linear_parameters(shape.decoder) + shape.decoder.width * shape.vocabulary


def parameters(shape: Shape, tied: bool) -> int:
    """The whole model; `tied` says that embedding and LM head are one matrix."""
    joined = shape.joined * shape.vision.width
    projector = joined * shape.decoder.width + shape.decoder.width**2
    embedding = 0 if tied else shape.decoder.width * shape.vocabulary
    convolution = shape.patch_values * shape.vision.width
    return linear_parameters(shape.vision) + convolution + projector + embedding + decoder_parameters(shape)


def adapter_parameters(tower: Tower, rank: int) -> int:
    """LoRA of `rank` beside every linear layer of the tower."""
    return tower.layers * rank * sum(inside + outside for inside, outside in _linears(tower))


def cache_bytes(shape: Shape, value_bytes: int) -> int:
    """Keys and values of one token in all layers."""
    decoder = shape.decoder
    return 2 * decoder.layers * decoder.key_value_heads * decoder.head_width * value_bytes


def kept_bytes(tower: Tower, value_bytes: int, dropout: bool) -> int:
    """What one token leaves in one layer for the backward pass, adapters on every linear layer, base frozen.

    The inputs of the linear layers (adapters need them), queries, keys, values and their outcome; around the activation
    three values where the MLP is gated, one where it is not; the residual stream before both norms, which decoders' RMS
    norms keep in float32. Dropout keeps a thinned copy of each linear layer's input and a byte for each value's fate.
    """
    inner, shared = tower.heads * tower.head_width, tower.key_value_heads * tower.head_width
    residual = 4 if tower.matrices == 3 else value_bytes
    inputs = 2 * tower.width + inner + tower.mlp
    attention = inner + 2 * shared
    activation = (3 if tower.matrices == 3 else 1) * tower.mlp
    thinned = sum(inside for inside, _ in _linears(tower)) * (value_bytes + 1) if dropout else 0
    return 2 * tower.width * residual + (inputs + attention + activation) * value_bytes + thinned


def _linears(tower: Tower) -> tuple[tuple[int, int], ...]:
    """`(inside, outside)` of the linear layers in one layer of the tower."""
    inner, shared = tower.heads * tower.head_width, tower.key_value_heads * tower.head_width
    return (
        (tower.width, inner),
        (tower.width, shared),
        (tower.width, shared),
        (inner, tower.width),
        *(((tower.width, tower.mlp),) * (tower.matrices - 1)),
        (tower.mlp, tower.width),
    )
