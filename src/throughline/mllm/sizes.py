"""How large things of a shape are: parameters, adapters, caches, and what a backward pass keeps. Closed forms.

Norms, biases and position tables are left out: less than 1 % of any model here but the smallest.
"""

from __future__ import annotations

from throughline.mllm.flops import Shape, Tower

LOGITS_AT_ONCE = 1 << 24
"""That the head computes: 64 MiB of float32; a hundred positions of a vocabulary of 150,000."""
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Of one weight in 4 bits: a block of 64 shares a scale of one byte (bitsandbytes' double quantisation), and 256 blocks
a float32."""


def linear_parameters(tower: Tower) -> int:
    """Weights of the tower's linear layers."""
    return tower.layers * sum(inside * outside for inside, outside in _linears(tower))


def decoder_parameters(shape: Shape) -> int:
    """What every decoding step reads: the decoder's linear layers and the LM head."""
    return linear_parameters(shape.decoder) + shape.decoder.width * shape.vocabulary


def decoder_bytes(shape: Shape, value_bytes: int, quantized: bool) -> int:
    """Of `decoder_parameters`; `quantized` says that the linear layers are held in 4 bits. The head never is."""
    linear = linear_parameters(shape.decoder)
    head = decoder_parameters(shape) - linear
    return round(linear * (NF4_BYTES if quantized else value_bytes)) + head * value_bytes


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


def kept_bytes(tower: Tower, value_bytes: int, dropout: bool, copy_bytes: int = 0) -> int:
    """What one token leaves in one layer for the backward pass, adapters on every linear layer, base frozen.

    The inputs of the linear layers (adapters need them), queries, keys, values and their outcome; around the activation
    three values where the MLP is gated, one where it is not; the residual stream before both norms, in its own type
    (`rms_norm`). Dropout keeps a byte for the fate of each value of each linear layer's input. `lora_linear` keeps no
    more; peft's own way keeps a copy of each of these inputs besides, thinned or in another type, of `copy_bytes` a
    value: 0 where the node computes.
    """
    inner, shared = tower.heads * tower.head_width, tower.key_value_heads * tower.head_width
    inputs = 2 * tower.width + inner + tower.mlp
    attention = inner + 2 * shared
    activation = (3 if tower.matrices == 3 else 1) * tower.mlp
    beside = sum(inside for inside, _ in _linears(tower)) * (copy_bytes + (1 if dropout else 0))
    return (2 * tower.width + inputs + attention + activation) * value_bytes + beside


def passing_bytes(tower: Tower, value_bytes: int) -> int:
    """What one token holds at the widest place of a layer when nothing is kept for a backward pass: the residual stream
    and its norm; in the MLP what goes into the activation or beside it, and what comes out."""
    return (2 * tower.width + tower.matrices * tower.mlp) * value_bytes


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
