"""A Llama decoder whose weights never change, behind a prefix that is computed once (`smol_projector.py`).

The same numbers as transformers' own, but one layer function serves all layers, so that torch compiles it once and
fuses what lies between the matrix products, which is more than half of the time at this size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, silu


@dataclass(frozen=True, eq=False)
class FrozenDecoder:
    """`layers` are the weights of each layer, `before` keys and values `(1, heads, prefix, width)` of the prefix in
    each, `turns` cosines and sines of as many positions as were asked for."""

    layers: list[tuple[Tensor, ...]]
    before: list[tuple[Tensor, Tensor]]
    last_norm: Tensor
    turns: tuple[Tensor, Tensor]
    heads: int
    epsilon: float
    layer: Any

    def states(self, embedded: Tensor, branches: Sequence[int] = ()) -> Tensor:
        """Last hidden states `(batch, tokens, hidden)` of embeddings that follow the prefix. The last of them may be
        `branches` of these lengths behind one trunk, which do not see each other."""
        count, prefix = embedded.shape[1], self.before[0][0].shape[2]
        positions, hidden = torch.arange(count), torch.full((count, count), float("-inf")).triu(1)
        trunk = start = count - sum(branches)
        for length in branches:
            positions[start : start + length] = trunk + torch.arange(length)
            hidden[start : start + length, trunk:start] = float("-inf")
            start += length
        hidden = torch.cat([torch.zeros(count, prefix), hidden], dim=1).to(embedded.dtype)
        cosine, sine = (turn[:, prefix + positions, None] for turn in self.turns)
        state = embedded
        for weights, (keys, values) in zip(self.layers, self.before, strict=True):
            state = self.layer(state, keys, values, cosine, sine, hidden, weights, self.heads, self.epsilon)
        return _normed(state, self.last_norm, self.epsilon)


@torch.no_grad()
def freeze(decoder: Any, prefix: Tensor, longest: int, compiled: bool) -> FrozenDecoder:
    """From transformers' Llama and the tokens `(1, n)` of a prefix; at most `longest` tokens may follow."""
    cached = decoder(input_ids=prefix, use_cache=True).past_key_values
    positions = torch.arange(prefix.shape[1] + longest)[None]
    return FrozenDecoder(
        layers=[_weights(layer) for layer in decoder.layers],
        before=[(layer.keys, layer.values) for layer in cached.layers],
        last_norm=decoder.norm.weight.detach(),
        turns=decoder.rotary_emb(decoder.norm.weight[None], positions),
        heads=decoder.config.num_attention_heads,
        epsilon=decoder.config.rms_norm_eps,
        layer=torch.compile(_layer, dynamic=False) if compiled else _layer,
    )


def _weights(layer: Any) -> tuple[Tensor, ...]:
    attention, mlp = layer.self_attn, layer.mlp
    joined = torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight])
    gated = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])
    norms = layer.input_layernorm.weight, layer.post_attention_layernorm.weight
    return tuple(w.detach() for w in (*norms, joined, attention.o_proj.weight, gated, mlp.down_proj.weight))


def _layer(
    state: Tensor,
    keys: Tensor,
    values: Tensor,
    cosine: Tensor,
    sine: Tensor,
    hidden: Tensor,
    weights: tuple[Tensor, ...],
    heads: int,
    epsilon: float,
) -> Tensor:
    before_attention, before_mlp, joined, out, gated, down = weights
    batch, count, width = state.shape[0], state.shape[1], keys.shape[-1]
    shared = keys.shape[1]  # heads of keys and values
    parts = torch.unflatten(linear(_normed(state, before_attention, epsilon), joined), 2, (-1, width))
    query, key, value = torch.split(parts, [heads, shared, shared], dim=2)
    query, key = (turned * cosine + _half_turned(turned) * sine for turned in (query, key))
    key = torch.cat([keys.expand(batch, -1, -1, -1), key.transpose(1, 2)], dim=2)
    value = torch.cat([values.expand(batch, -1, -1, -1), value.transpose(1, 2)], dim=2)
    # (b, shared, group x n, width)
    grouped = torch.unflatten(query.transpose(1, 2), 1, (shared, heads // shared)).flatten(2, 3)
    scores = torch.unflatten(grouped @ key.transpose(2, 3), 2, (-1, count)) * width**-0.5 + hidden
    seen = scores.float().softmax(-1).to(state.dtype).flatten(2, 3) @ value
    seen = torch.unflatten(seen, 2, (-1, count)).permute(0, 3, 1, 2, 4).flatten(2)
    state = state + linear(seen, out)
    gate, up = linear(_normed(state, before_mlp, epsilon), gated).chunk(2, dim=2)
    return state + linear(silu(gate) * up, down)


def _half_turned(parts: Tensor) -> Tensor:
    first, second = parts.chunk(2, dim=-1)
    return torch.cat([-second, first], dim=-1)


def _normed(state: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    wide = state.float()
    return weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)).to(state.dtype)
