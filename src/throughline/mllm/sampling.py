"""Continuations of a prompt: K of them with image and prompt computed once, finished ones leaving the batch.

Each continuation draws from a generator of its own, named by (seed, purpose, sample id, candidate), so that what it
samples depends on neither its neighbours nor the order of work. Self-labelling, answering and local teachers call it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from throughline.mllm.chat import Path, join_inputs
from throughline.mllm.constraints import StageConstraint
from throughline.mllm.load import Mllm
from throughline.settings import SamplingSettings


@dataclass(frozen=True)
class Continuation:
    """What one draw gave: its tokens without the end of the turn, its text, and `stop` or `length`."""

    tokens: tuple[int, ...]
    text: str
    finish_reason: str


@torch.no_grad()
def sample(
    mllm: Mllm,
    prompts: Sequence[Path],
    settings: SamplingSettings,
    generators: Sequence[Sequence[np.random.Generator]] | None = None,
    constraint: StageConstraint | None = None,
) -> list[list[Continuation]]:
    """For each prompt as many continuations as it has generators (one, greedy, when none are given).

    One batch: the caller decides how many prompts go together (`answering` and `rounds` fix it in their plan).
    `constraint` is that of the settings (`constraints.constraint_of`), and keeps every continuation in its format.
    """
    assert settings.constrained == (constraint is not None), "the settings are what keys and hashes know"
    if generators is None:
        generators = [[np.random.default_rng(0)] for _ in prompts]
    counts = {len(row) for row in generators}
    assert len(counts) == 1, "every prompt of a batch takes the same number of continuations"
    with mllm.asked():
        return _continued(mllm, prompts, settings, generators, counts.pop(), constraint)


def _continued(
    mllm: Mllm,
    prompts: Sequence[Path],
    settings: SamplingSettings,
    generators: Sequence[Sequence[np.random.Generator]],
    per_prompt: int,
    constraint: StageConstraint | None,
) -> list[list[Continuation]]:
    state, logits = _prefill(mllm, prompts)
    state.repeat(per_prompt)
    logits = logits.repeat_interleave(per_prompt, dim=0)
    flat = [generator for row in generators for generator in row]
    out: list[list[int]] = [[] for _ in flat]
    finished = ["length"] * len(flat)
    alive = torch.arange(len(flat))
    stop = _stop_ids(mllm)
    matchers = constraint.start(len(flat)) if constraint is not None else None
    for step in range(settings.max_new_tokens):
        if matchers is not None:
            matchers.mask(logits, alive.tolist())
        chosen = _choose(logits, settings, [flat[i] for i in alive.tolist()])
        going = []
        for place, (i, token) in enumerate(zip(alive.tolist(), chosen.tolist(), strict=True)):
            if matchers is not None:
                matchers.accept(i, token)
            if token in stop:
                finished[i] = "stop"
            else:
                out[i].append(token)
                going.append(place)
        if not going or step + 1 == settings.max_new_tokens:
            break
        if len(going) < len(alive):
            kept = torch.tensor(going)
            alive, chosen = alive[kept], chosen[kept.to(chosen.device)]
            state.select(kept)
        logits = state.step(mllm.model, chosen)
    texts = [
        Continuation(tuple(tokens), mllm.chat.decode(tokens), why) for tokens, why in zip(out, finished, strict=True)
    ]
    return [texts[i : i + per_prompt] for i in range(0, len(texts), per_prompt)]


class _DecodingState:
    """Key-value cache, mask and next position of the sequences still going."""

    def __init__(self, cache: DynamicCache, mask: Tensor | None, position: Tensor) -> None:
        self.cache, self.mask, self.position = cache, mask, position  # (batch, past), (axes, batch)

    def repeat(self, times: int) -> None:
        if times == 1:
            return
        self.cache.batch_repeat_interleave(times)
        self.position = self.position.repeat_interleave(times, dim=1)
        if self.mask is not None:
            self.mask = self.mask.repeat_interleave(times, dim=0)

    def select(self, kept: Tensor) -> None:
        kept = kept.to(self.position.device)
        self.cache.batch_select_indices(kept)
        self.position = self.position[:, kept]
        if self.mask is not None:
            self.mask = self.mask[kept]

    def step(self, model: Any, tokens: Tensor) -> Tensor:
        if self.mask is not None:
            self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], dim=1)
        position = self.position[..., None]
        logits = model(
            input_ids=tokens[:, None],
            attention_mask=self.mask,
            position_ids=position[0] if len(position) == 1 else position,
            past_key_values=self.cache,
            use_cache=True,
        ).logits[:, -1]
        self.position = self.position + 1
        return torch.as_tensor(logits).float()


def _prefill(mllm: Mllm, prompts: Sequence[Path]) -> tuple[_DecodingState, Tensor]:
    """Prompts padded on the left, their images and tokens through the model once; the logits of the next token."""
    length = max(len(p.tokens) for p in prompts)
    axes = prompts[0].positions.shape[0]
    ids = np.full((len(prompts), length), mllm.chat.pad_id, dtype=np.int64)
    positions = np.zeros((axes, len(prompts), length), dtype=np.int64)
    mask = np.zeros((len(prompts), length), dtype=np.int64)
    for row, prompt in enumerate(prompts):
        ids[row, length - len(prompt.tokens) :] = prompt.tokens
        positions[:, row, length - len(prompt.tokens) :] = prompt.positions
        mask[row, length - len(prompt.tokens) :] = 1
    device = mllm.device
    padded = torch.from_numpy(mask).to(device) if not mask.all() else None
    position_ids = torch.from_numpy(positions).to(device)
    cache = DynamicCache()
    images = join_inputs([image for prompt in prompts for image in prompt.images])
    logits = mllm.model(
        input_ids=torch.from_numpy(ids).to(device),
        attention_mask=padded,
        position_ids=position_ids[0] if axes == 1 else position_ids,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
        **{name: value.to(device) for name, value in images.items()},
    ).logits[:, -1]
    # the token after a prompt stands one past its largest position, on every axis
    following = position_ids.amax(dim=(0, 2), keepdim=False)[None].expand(axes, -1) + 1
    return _DecodingState(cache, padded, following), torch.as_tensor(logits).float()


def _choose(logits: Tensor, settings: SamplingSettings, generators: Sequence[np.random.Generator]) -> Tensor:
    """`(batch,)` next tokens: the best, or by inverse distribution function from each sequence's own uniform number."""
    if settings.temperature == 0:
        return logits.argmax(dim=-1)
    probabilities = torch.softmax(logits.double() / settings.temperature, dim=-1)
    if settings.top_p < 1:
        ordered, tokens = probabilities.sort(dim=-1, descending=True, stable=True)
        outside = ordered.cumsum(dim=-1) - ordered >= settings.top_p  # the first token always stays
        probabilities = probabilities.scatter(1, tokens, ordered.masked_fill(outside, 0))
    cumulative = probabilities.cumsum(dim=-1)
    uniform = torch.tensor([generator.random() for generator in generators], dtype=torch.float64, device=logits.device)
    place = torch.searchsorted(cumulative, (uniform * cumulative[:, -1])[:, None], right=True)
    return place.clamp(max=probabilities.shape[1] - 1)[:, 0]


def _stop_ids(mllm: Mllm) -> set[int]:
    ids = {mllm.chat.end_of_turn_id}
    configured = mllm.model.generation_config.eos_token_id
    if configured is not None:
        ids |= set(configured) if isinstance(configured, list | tuple) else {configured}
    return ids
