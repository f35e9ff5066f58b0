"""The matrix FLOPs of asking in closed form: prompts, what is appended to a cache, tokens written one by one.

Counted as in `flops`, forward only, under its assumptions. `rank` is 0 where adapters are folded into the weights.
`experiment.predicting` multiplies these by how often they happen.
"""

from __future__ import annotations

from throughline.mllm.flops import Row, Shape, attention_flops, linear_flops, step_flops


def prompt_flops(shape: Shape, tokens: int, tiles: int, rank: int = 0) -> int:
    """A prompt of `tokens` with its image's tiles, logits at its last position."""
    return step_flops(shape, [Row(tokens, tiles, 1)], rank).forward


def appended_flops(shape: Shape, context: int, tokens: int, marked: int, rank: int = 0) -> int:
    """`tokens` in one pass behind `context` cached ones, dense among themselves; logits at `marked` of them."""
    decoder = shape.decoder
    own = decoder.flops(tokens, rank, trained_below=True).forward if tokens else 0
    seen = attention_flops(tokens * context, decoder.heads, decoder.head_width).forward * decoder.layers
    return own + seen + linear_flops(marked, decoder.width, shape.vocabulary).forward


def decoding_flops(shape: Shape, context: int, steps: int, rank: int = 0) -> int:
    """`steps` tokens one by one behind `context` cached ones, logits at each: step t sees context + t + 1 tokens."""
    decoder = shape.decoder
    alone = appended_flops(shape, 0, 1, 1, rank)
    seen = attention_flops(cached_tokens_read(context, steps), decoder.heads, decoder.head_width).forward
    return alone * steps + seen * decoder.layers


def cached_tokens_read(context: int, steps: int) -> int:
    """Keys that `steps` tokens find in the cache before them, over all steps."""
    return steps * context + steps * (steps - 1) // 2
