"""Continuations of a prompt: K of them with image and prompt computed once, finished ones leaving (`decoding`).

Each continuation draws from a generator of its own, named by (seed, purpose, sample id, candidate), so that what it
samples depends on neither its neighbours nor the order of work. Self-labelling, answering and local teachers call it.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from throughline.core.settings import SamplingSettings
from throughline.mllm.chat import Path
from throughline.mllm.constraints import Matchers, StageConstraint
from throughline.mllm.decoding import Decoder, OnCache, OnPrefix
from throughline.mllm.load import Mllm
from throughline.mllm.packed_weights import packed_weights
from throughline.mllm.prefix import Prefix


@dataclass(frozen=True)
class Continuation:
    """A sampled answer: its tokens without the end of the turn, its text, and `stop` or `length`."""

    tokens: tuple[int, ...]
    text: str
    finish_reason: str


@torch.no_grad()
def sample(
    mllm: Mllm,
    prompts: Sequence[Path],
    settings: SamplingSettings,
    generators: Sequence[Sequence[np.random.Generator]] | None = None,
    *,
    prefix: Prefix | None = None,
    limits: Sequence[Sequence[int]] | None = None,
    stop: Collection[int] | None = None,
    constraint: StageConstraint | None = None,
) -> list[list[Continuation]]:
    """For each prompt as many continuations as it has generators (one, greedy, when none are given).

    One batch: the caller decides how many prompts go together, and keeps to it when a run resumes. `prefix` holds the
    prompts' beginnings where the caller has computed them. `limits` bound the tokens of each continuation, below
    `max_new_tokens`. `stop` are the ids that end one, by default the end of the turn and those that the checkpoint
    names. `constraint` is that of the settings (`constraints.constraint_of`): every continuation stays in its format.
    """
    assert settings.constrained == (constraint is not None), "keys and hashes are made of the settings"
    if generators is None:
        generators = [[np.random.default_rng(0)] for _ in prompts]
    each = len(generators[0])
    assert all(len(row) == each for row in generators), "every prompt of a batch has the same number of continuations"
    flat = [generator for row in generators for generator in row]
    lengths = [settings.max_new_tokens] * len(flat)
    if limits is not None:
        lengths = [min(limit, settings.max_new_tokens) for row in limits for limit in row]
    steps = max(lengths, default=0) if mllm.plan.packed_weights else 0
    with mllm.evaluating(), packed_weights(mllm.model, steps):
        takes_layouts = mllm.plan.takes_layouts
        decoder = OnPrefix(mllm, prompts, each, prefix) if takes_layouts else OnCache(mllm, prompts, each)
        matchers = constraint.start(len(flat)) if constraint is not None else None
        drawn = _draw(decoder, settings, flat, lengths, mllm.end_ids if stop is None else stop, matchers)
    continuations = [Continuation(tuple(tokens), mllm.chat.decode(tokens), reason) for tokens, reason in drawn]
    return [continuations[start : start + each] for start in range(0, len(flat), each)]


def _draw(
    decoder: Decoder,
    settings: SamplingSettings,
    generators: Sequence[np.random.Generator],
    limits: Sequence[int],
    stop: Collection[int],
    matchers: Matchers | None,
) -> list[tuple[list[int], str]]:
    """Tokens and finish reason of every row."""
    tokens: list[list[int]] = [[] for _ in generators]
    reasons = ["length"] * len(generators)
    going = [row for row, limit in enumerate(limits) if limit > 0]
    logits = decoder.begin()[torch.tensor(going, dtype=torch.long)] if going else None
    while going and logits is not None:
        if matchers is not None:
            matchers.mask(logits, going)
        chosen = _choose(logits, settings, [generators[row] for row in going])
        places = []  # in `going`, of the rows that go on
        for place, (row, token) in enumerate(zip(going, chosen.tolist(), strict=True)):
            if matchers is not None:
                matchers.accept(row, token)
            if token in stop:
                reasons[row] = "stop"
                continue
            tokens[row].append(token)
            if len(tokens[row]) < limits[row]:
                places.append(place)
        going = [going[place] for place in places]
        if going:
            logits = decoder.step(going, chosen[torch.tensor(places, device=chosen.device)])
    return list(zip(tokens, reasons, strict=True))


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
