"""Prompts computed once, and all that follows them: samples, labels, both questions about an image.

A `Prefix` holds the keys and values of prompts; `Branches` grow on it, each with keys and values of its own, and never
copy what they share. One call of the model is one row of all their new tokens, without padding, its attention by a
layout (`attention`). `sampling` and `likelihood` call this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import transformers
from packaging.version import Version
from torch import Tensor
from transformers import DynamicCache

from throughline.mllm.attention import Layout, attend_grouped, grouped_sdpa, layout_arguments, tree_layout
from throughline.mllm.chat import Path, join_inputs
from throughline.mllm.lora import base_of

CACHE = "cache" if Version(transformers.__version__) >= Version("5.24") else "past_key_values"
"""What a model's forward pass calls its keys and values; transformers takes the older name away in 5.40."""
ROOM = 64
"""Tokens for which a branch's keys and values get room at a time."""


@dataclass(frozen=True, eq=False)
class Prefix:
    """Prompts through the model. All tensors are in the order of the prompts; shorter ones are padded on the right.

    `keys` and `values` of each layer `(prompts, heads, tokens, width)`; `beyond` `(prompts, 1, 1, tokens)` 0 or -inf,
    None where all have one length; `state` `(prompts, width of the model)` after each prompt's last token; `following`
    `(axes, prompts)` the position of the token that comes next.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    beyond: Tensor | None
    lengths: tuple[int, ...]
    state: Tensor
    following: Tensor

    def __len__(self) -> int:
        return len(self.lengths)

    def rest_of(self, prompts: Sequence[Path]) -> Tensor:
        """`(prompts, n)`: the tokens that these have beyond the prefix, as many each."""
        rests = [prompt.tokens[length:] for prompt, length in zip(prompts, self.lengths, strict=True)]
        return torch.from_numpy(np.stack(rests)).to(self.state.device)

    def chosen(self, prompts: Tensor) -> Prefix:
        """The prefix of these prompts only; what all share is not copied."""

        def of(row: Tensor) -> Tensor:
            return row[: len(prompts)] if row.stride(0) == 0 else row[prompts]

        return Prefix(
            tuple(map(of, self.keys)),
            tuple(map(of, self.values)),
            None if self.beyond is None else self.beyond[prompts],
            tuple(self.lengths[prompt] for prompt in prompts.tolist()),
            self.state[prompts],
            self.following[:, prompts],
        )


@torch.no_grad()
def encode_prefix(model: Any, prompts: Sequence[Path], beginning: Path | None = None) -> Prefix:
    """Images and tokens of all prompts through the model, in one row. With a `beginning` that has images, such as
    labelled examples, it goes through the model once, and what each prompt has behind it grows on that."""
    if beginning is not None and beginning.images and all(len(p.tokens) > len(beginning.tokens) for p in prompts):
        return _encode_behind(model, prompts, beginning)
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index].tokens))
    lengths = [len(prompts[index].tokens) for index in order]
    states, positions, cache = _through(model, [prompts[index] for index in order])
    back = torch.tensor(order, device=model.device).argsort()
    ends = torch.tensor(lengths, device=model.device)
    following = torch.stack([piece.amax() for piece in positions.split(lengths, dim=1)]) + 1
    return Prefix(
        tuple(_by_prompt(layer.keys[0], lengths, back) for layer in cache.layers),
        tuple(_by_prompt(layer.values[0], lengths, back) for layer in cache.layers),
        _beyond(ends[back]),
        tuple(len(prompt.tokens) for prompt in prompts),
        states[ends.cumsum(0) - 1][back],
        following[back].expand(len(positions), -1),
    )


@torch.no_grad()
def encode_beginnings(model: Any, path: Path) -> Prefix:
    """A prompt for each token of a path's answer: all that stands before that token. The path goes through the model
    once, and its prompts share its keys and values; `state` is what predicts the token."""
    states, positions, cache = _through(model, [path])
    start, most = path.answer_start, len(path.tokens) - 1
    lengths = range(start, most + 1)
    return Prefix(
        tuple(layer.keys[:, :, :most].expand(len(lengths), -1, -1, -1) for layer in cache.layers),
        tuple(layer.values[:, :, :most].expand(len(lengths), -1, -1, -1) for layer in cache.layers),
        _beyond(torch.tensor(lengths, device=model.device)),
        tuple(lengths),
        states[start - 1 : -1],
        positions[:, start:],
    )


def _through(model: Any, paths: Sequence[Path]) -> tuple[Tensor, Tensor, DynamicCache]:
    """Images and tokens of these paths, the shortest first, through the model in one row: hidden states `(tokens,
    width)`, positions `(axes, tokens)`, keys and values."""
    device, cache = model.device, DynamicCache()
    layout = tree_layout([(len(path.tokens), np.empty((len(path.tokens), 0))) for path in paths])
    images = join_inputs([image for path in paths for image in path.images])
    positions = torch.from_numpy(np.concatenate([path.positions for path in paths], axis=1)).to(device)
    tokens = torch.from_numpy(np.concatenate([path.tokens for path in paths])).to(device)
    on_device = {name: value.to(device) for name, value in images.items()}
    states = _states(model, tokens, positions, layout, use_cache=True, **{CACHE: cache}, **on_device)
    return states, positions, cache


def _encode_behind(model: Any, prompts: Sequence[Path], beginning: Path) -> Prefix:
    shared, start, device = encode_prefix(model, [beginning]), len(beginning.tokens), model.device
    by_length: dict[int, list[int]] = {}
    for index, prompt in enumerate(prompts):
        by_length.setdefault(len(prompt.tokens), []).append(index)
    encoded: dict[int, tuple[list[Tensor], list[Tensor], Tensor]] = {}  # keys and values by layer, the last state
    for length, members in by_length.items():
        ours = [prompts[index] for index in members]
        branches = Branches(shared, len(ours))
        images = join_inputs([image for prompt in ours for image in prompt.images[len(beginning.images) :]])
        states = branches.grow(
            model,
            torch.from_numpy(np.stack([prompt.tokens[start:] for prompt in ours])).to(device),
            positions=torch.from_numpy(np.concatenate([prompt.positions[:, start:] for prompt in ours], 1)).to(device),
            **{name: value.to(device) for name, value in images.items()},
        )
        for place, index in enumerate(members):
            keys, values = (
                [
                    torch.cat([all_[0], own[place, :, : length - start]], dim=1)
                    for all_, own in zip(*layers, strict=True)
                ]
                for layers in ((shared.keys, branches.keys), (shared.values, branches.values))
            )
            encoded[index] = keys, values, states[place, -1]
    key_rows, value_rows, last = zip(*(encoded[index] for index in range(len(prompts))), strict=True)
    lengths = tuple(len(prompt.tokens) for prompt in prompts)
    following = torch.tensor([int(prompt.positions.max()) + 1 for prompt in prompts], device=device)
    return Prefix(
        tuple(map(_padded, zip(*key_rows, strict=True))),
        tuple(map(_padded, zip(*value_rows, strict=True))),
        _beyond(torch.tensor(lengths, device=device)),
        lengths,
        torch.stack(last),
        following.expand(len(beginning.positions), -1),
    )


def _padded(prompts: Sequence[Tensor]) -> Tensor:
    """`(heads, tokens, width)` of each prompt to `(prompts, heads, tokens, width)`, padded on the right."""
    padded = torch.nn.utils.rnn.pad_sequence([prompt.transpose(0, 1) for prompt in prompts], batch_first=True)
    return padded.transpose(1, 2).contiguous()


def _beyond(lengths: Tensor) -> Tensor | None:
    """See `Prefix`."""
    longest = int(lengths.max())
    if int(lengths.min()) == longest:
        return None
    outside = torch.arange(longest, device=lengths.device) >= lengths[:, None]
    return torch.zeros(outside.shape, device=lengths.device).masked_fill(outside, -torch.inf)[:, None, None]


def _by_prompt(row: Tensor, lengths: Sequence[int], back: Tensor) -> Tensor:
    """`(heads, tokens of all prompts, width)` to `(prompts, heads, tokens, width)`, padded on the right."""
    return _padded(row.split(list(lengths), dim=1))[back]


class Branches:
    """A grid of branches, `each` on every prompt of a prefix; in the flat order of branches, prompt by prompt."""

    def __init__(self, prefix: Prefix, each: int = 1) -> None:
        self.prefix, self.each = prefix, each
        self.length = 0
        self.keys: list[Tensor] = []  # for every layer (branches, heads, room, width)
        self.values: list[Tensor] = []
        self._mask: Tensor | None = None  # of the tokens that grow now, where they are several

    def __len__(self) -> int:
        return len(self.prefix) * self.each

    @torch.no_grad()
    def grow(
        self,
        model: Any,
        tokens: Tensor,
        offsets: Tensor | None = None,
        visible: Tensor | None = None,
        positions: Tensor | None = None,
        **images: Tensor,
    ) -> Tensor:
        """`(branches, n)` further tokens of every branch to their hidden states `(branches, n, width)`.

        By default they stand behind one another, each attending to those before it. `offsets` `(n,)` give other
        positions, counted from the first of them, and `visible` `(n, n)` which of them each attends to. Tokens with
        `images` among them have `positions` `(axes, branches x n)` of their own.
        """
        count = tokens.shape[1]
        if positions is None:
            offsets = torch.arange(count, device=tokens.device) if offsets is None else offsets
            following = (self.prefix.following + self.length).repeat_interleave(self.each, dim=1)
            positions = (following[:, :, None] + offsets).flatten(1)
        if visible is None:
            visible = torch.ones(count, count, dtype=torch.bool, device=tokens.device).tril()
        self._mask = None if count == 1 else self._whole_mask(visible).to(self.prefix.state.dtype)
        states = _states(model, tokens.flatten(), positions, self, **images)
        self.length += count
        return states.unflatten(0, tokens.shape)

    def keep(self, branches: Sequence[int], each: int) -> None:
        """Keeps these branches, `each` of every prompt that has any left, prompt by prompt."""
        device = self.prefix.state.device
        prompts = torch.tensor([branch // self.each for branch in branches[::each]], device=device)
        if len(prompts) < len(self.prefix):
            self.prefix = self.prefix.chosen(prompts)
        chosen = torch.tensor(list(branches), device=device)
        self.keys = [key[chosen] for key in self.keys]
        self.values = [value[chosen] for value in self.values]
        self.each = each

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, dropout: float) -> Tensor:
        """See `attention.Layout`."""
        keys, values = self._joined(self.keys, layer, key[0]), self._joined(self.values, layer, value[0])
        prompt = self.prefix.keys[layer], self.prefix.values[layer]
        count = key.shape[2] // len(self)
        if count == 1:
            out = attend_grouped(query[0], prompt, (keys, values), self.each, self.prefix.beyond, scaling)
            return out[None]
        queries = query[0].unflatten(1, (len(self), count)).transpose(0, 1)
        whole_keys, whole_values = (
            torch.cat([shared.repeat_interleave(self.each, dim=0), own], dim=2)
            for shared, own in zip(prompt, (keys, values), strict=True)
        )
        assert self._mask is not None
        out = grouped_sdpa(queries, whole_keys, whole_values, self._mask, scaling)
        return out.transpose(1, 2).flatten(0, 1)[None]

    def _joined(self, layers: list[Tensor], layer: int, new: Tensor) -> Tensor:
        """Puts new keys (or values) `(heads, branches x n, width)` behind the branches' own, those of all `layers`, and
        gives all of this layer."""
        new = new.unflatten(1, (len(self), -1)).transpose(0, 1)
        end = self.length + new.shape[2]
        if layer == len(layers):
            layers.append(new.new_empty(*new.shape[:2], 0, new.shape[3]))
        if end > layers[layer].shape[2]:
            more = -(-end // ROOM) * ROOM - self.length
            room = new.new_empty(*new.shape[:2], more, new.shape[3])
            layers[layer] = torch.cat([layers[layer][:, :, : self.length], room], dim=2)
        layers[layer][:, :, self.length : end] = new
        return layers[layer][:, :, :end]

    def _whole_mask(self, visible: Tensor) -> Tensor:
        """`(n, n)` among new tokens to `(branches or 1, 1, n, prompt + own)`, 0 or -inf."""
        count = len(visible)
        longest = self.prefix.keys[0].shape[2]
        mask = torch.zeros(1, 1, count, longest + self.length + count, device=visible.device)
        mask[..., longest + self.length :].masked_fill_(~visible, -torch.inf)
        if self.prefix.beyond is None:
            return mask
        mask = mask.repeat(len(self), 1, 1, 1)
        mask[..., :longest] += self.prefix.beyond.repeat_interleave(self.each, dim=0)
        return mask


def _states(model: Any, tokens: Tensor, positions: Tensor, layout: Layout, **further: Any) -> Tensor:
    """`(tokens, width)` hidden states of one row; `positions` are `(axes, tokens)`, `further` goes to the model."""
    output = base_of(model).model(
        input_ids=tokens[None],
        position_ids=positions if len(positions) == 1 else positions[:, None],
        **layout_arguments(layout, tokens) | further,
    )
    return torch.as_tensor(output.last_hidden_state)[0]
