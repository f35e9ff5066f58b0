"""Sampling: greedy is transformers' own; draws follow the softmax, each from its own generator; the finished leave."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from tests.mllm.reference import Spoken, picture, processed
from tests.mllm.tiny import image_of

from throughline.core.settings import SamplingSettings
from throughline.mllm.chat import Path, user_turn
from throughline.mllm.load import Mllm
from throughline.mllm.plan import Plan
from throughline.mllm.prefix import ROOM, encode_prefix
from throughline.mllm.sampling import Continuation, sample

ASKED = [
    Spoken(user_turn("What is shown?"), [picture(0)], ""),
    Spoken(user_turn("What is shown? Choose from: cat, cat tower, dog, house, boat, horse.", 2), [picture(1)] * 2, ""),
    Spoken(user_turn("Think step by step.", 0), [], ""),
    Spoken(user_turn("The picture has a handle?"), [picture(2, 24, 48)], ""),
]
"""Prompts of different length, with one image, two and none."""


def prompt_of(mllm: Mllm, spoken: Spoken) -> Path:
    images = [mllm.chat.encode_image(image_of(*drawn), str(drawn)) for drawn in spoken.pictures]
    return mllm.chat.prompt(spoken.messages, images)


def prompts_of(mllm: Mllm) -> list[Path]:
    return [prompt_of(mllm, spoken) for spoken in ASKED]


def generators(count: int, *names: int) -> list[np.random.Generator]:
    return [np.random.default_rng([*names, k]) for k in range(count)]


@pytest.fixture(params=["on a prefix", "on a cache"])
def mllm(mllms: dict[str, Mllm], family: str, request: pytest.FixtureRequest) -> Mllm:
    """Every test goes both ways."""
    return mllms[family] if request.param == "on a prefix" else replace(mllms[family], plan=Plan("masked"))


@pytest.fixture
def talkative(mllm: Mllm, monkeypatch: pytest.MonkeyPatch) -> Mllm:
    """Every seventh token ends the turn, so that continuations stop at different times."""
    config = mllm.model.generation_config
    monkeypatch.setattr(config, "eos_token_id", list(range(1, len(mllm.chat.tokenizer), 7)))
    return mllm


@pytest.fixture
def computed(mllm: Mllm) -> Iterator[list[int]]:
    """How many tokens each forward pass of the test had."""
    tokens: list[int] = []

    def note(_: Any, args: Any, kwargs: Any) -> None:
        tokens.append(kwargs["input_ids"].numel())

    handle = mllm.model.model.register_forward_pre_hook(note, with_kwargs=True)
    yield tokens
    handle.remove()


def generated(mllm: Mllm, family: str, spoken: Spoken, length: int) -> list[int]:
    """transformers' own greedy continuation of one prompt by itself."""
    inputs = processed(mllm.chat.processor, family, spoken, answered=False)
    out = mllm.model.generate(**inputs, do_sample=False, max_new_tokens=length)
    return list(map(int, out[0, inputs["input_ids"].shape[1] :]))


@pytest.mark.parametrize("copies", [1, 3])
def test_greedy_is_transformers_generate_token_for_token(mllm: Mllm, family: str, copies: int) -> None:
    expected = [generated(mllm, family, spoken, 24) for spoken in ASKED]
    assert len({token for tokens in expected for token in tokens}) > 20
    ours = sample(mllm, prompts_of(mllm), SamplingSettings(max_new_tokens=24), [generators(copies) for _ in ASKED])
    for tokens, continuations in zip(expected, ours, strict=True):
        assert len(continuations) == copies
        for continuation in continuations:
            assert list(continuation.tokens) == [t for t in tokens if t != mllm.chat.end_of_turn_id]
            assert continuation.finish_reason == ("stop" if mllm.chat.end_of_turn_id in tokens else "length")


def test_greedy_stops_where_generate_stops(talkative: Mllm, family: str) -> None:
    stops = set(talkative.model.generation_config.eos_token_id)
    expected = [generated(talkative, family, spoken, 24) for spoken in ASKED]
    assert any(tokens[-1] in stops for tokens in expected)
    ours = sample(talkative, prompts_of(talkative), SamplingSettings(max_new_tokens=24))
    for tokens, (continuation,) in zip(expected, ours, strict=True):
        stopped = tokens[-1] in stops
        assert list(continuation.tokens) == (tokens[:-1] if stopped else tokens)
        assert continuation.finish_reason == ("stop" if stopped else "length")
        assert continuation.text == talkative.chat.decode(continuation.tokens)


def test_what_is_drawn_depends_on_the_own_generator_alone(talkative: Mllm) -> None:
    settings = SamplingSettings(temperature=0.8, top_p=0.95, max_new_tokens=12)
    prompts = prompts_of(talkative)
    together = sample(talkative, prompts, settings, [generators(4, i) for i in range(len(prompts))])
    assert len({c.tokens for row in together for c in row}) > 10
    for i, prompt in enumerate(prompts):
        assert sample(talkative, [prompt], settings, [generators(4, i)]) == [together[i]]
    backwards = sample(talkative, prompts[::-1], settings, [generators(4, i) for i in range(len(prompts))][::-1])
    assert backwards[::-1] == together
    for k in range(4):
        alone: list[list[Continuation]] = sample(talkative, prompts[1:2], settings, [[generators(4, 1)[k]]])
        assert alone == [[together[1][k]]]


def test_finished_sequences_leave(talkative: Mllm, computed: list[int]) -> None:
    settings = SamplingSettings(temperature=1.0, max_new_tokens=10)
    prompts = prompts_of(talkative)
    found = sample(talkative, prompts, settings, [generators(8, i) for i in range(len(prompts))])
    flat = [continuation for row in found for continuation in row]
    assert len({len(c.tokens) for c in flat}) > 3
    for c in flat:
        assert (c.finish_reason == "length") == (len(c.tokens) == settings.max_new_tokens)
    # at step t whoever has at least t tokens is still going
    longest = min(max(len(c.tokens) for c in flat), settings.max_new_tokens - 1)
    going = [[sum(len(c.tokens) >= t for c in row) for row in found] for t in range(1, longest + 1)]
    first, *steps = computed
    lengths = [len(prompt.tokens) for prompt in prompts]
    if talkative.plan.takes_layouts:  # the prompts once and unpadded, then a grid that shrinks now and then
        assert first == sum(lengths)
        grids = [sum(map(bool, rows)) * max(rows) for rows in going]
        assert all(sum(rows) <= size for rows, size in zip(going, steps, strict=True))
        assert all(talkative.plan.regrid * size < grid for size, grid in zip(steps, grids, strict=True))
        assert steps[-1] < steps[0]
    else:  # padded, then exactly who is going
        assert first == len(lengths) * max(lengths)
        assert steps == [sum(rows) for rows in going]


def test_limits_end_each_continuation_where_they_say(talkative: Mllm) -> None:
    settings = SamplingSettings(temperature=1.0, max_new_tokens=10)
    prompts = prompts_of(talkative)[:2]
    draws = [[3, 0, 10, 1], [0, 0, 2, 7]]
    free = sample(talkative, prompts, settings, [generators(4, i) for i in range(2)], stop={-1})
    cut = sample(talkative, prompts, settings, [generators(4, i) for i in range(2)], limits=draws, stop={-1})
    for row, limited, limits in zip(free, cut, draws, strict=True):
        assert [c.tokens[:limit] for c, limit in zip(row, limits, strict=True)] == [c.tokens for c in limited]
        assert {c.finish_reason for c in limited} == {"length"}
    assert all(len(c.tokens) == settings.max_new_tokens for row in free for c in row)


@pytest.mark.parametrize("copies", [1, 3])
def test_prompts_go_on_from_a_prefix_that_was_computed_before(mllms: dict[str, Mllm], family: str, copies: int) -> None:
    """Prefixes of different length, the rest of the prompt of one length, as two questions about an image have it."""
    mllm, settings = mllms[family], SamplingSettings(temperature=0.8, max_new_tokens=12)
    prompts = prompts_of(mllm)
    heads = [Path(p.tokens[:-5], p.positions[:, :-5], p.images, len(p.tokens) - 5) for p in prompts]
    prefix = encode_prefix(mllm.model, heads)
    draws = [[generators(copies, i) for i in range(len(prompts))] for _ in range(3)]
    expected = sample(mllm, prompts, settings, draws[0])
    assert sample(mllm, prompts, settings, draws[1], prefix=prefix) == expected
    assert sample(mllm, prompts, settings, draws[2], prefix=prefix) == expected, "the prefix is as it was"


def test_more_tokens_than_there_is_room_for_at_first(mllm: Mllm, family: str) -> None:
    length = ROOM * 2 + 3
    (found,) = sample(mllm, prompts_of(mllm)[:1], SamplingSettings(max_new_tokens=length), stop={-1})[0]
    mllm.model.generation_config.eos_token_id, before = None, mllm.model.generation_config.eos_token_id
    try:
        assert list(found.tokens) == generated(mllm, family, ASKED[0], length)
    finally:
        mllm.model.generation_config.eos_token_id = before


def test_nothing_is_computed_past_the_last_token(mllm: Mllm, computed: list[int]) -> None:
    prompt = prompts_of(mllm)[0]
    (only,) = sample(mllm, [prompt], SamplingSettings(max_new_tokens=1))[0]
    assert computed == [len(prompt.tokens)]
    assert len(only.tokens) == 1


def softmax_of(mllm: Mllm, family: str, temperature: float) -> np.ndarray:
    with torch.no_grad():
        logits = mllm.model(**processed(mllm.chat.processor, family, ASKED[0], answered=False)).logits[0, -1]
    return torch.softmax(logits.double() / temperature, dim=-1).numpy()


def first_tokens(mllm: Mllm, settings: SamplingSettings, draws: int) -> np.ndarray:
    stop = mllm.chat.end_of_turn_id
    (found,) = sample(mllm, prompts_of(mllm)[:1], settings, [generators(draws, 77)])
    return np.array([c.tokens[0] if c.tokens else stop for c in found])


def fits(tokens: np.ndarray, probabilities: np.ndarray) -> float:
    """p-value of the draws under the distribution; rare tokens are one cell."""
    counts = np.bincount(tokens, minlength=len(probabilities))
    common = probabilities * len(tokens) >= 5
    observed = np.append(counts[common], counts[~common].sum())
    expected = np.append(probabilities[common], probabilities[~common].sum()) * len(tokens)
    keep = expected > 0
    assert observed[~keep].sum() == 0
    return float(chisquare(observed[keep], expected[keep]).pvalue)


@pytest.mark.parametrize("temperature", [0.7, 1.5])
def test_draws_follow_the_softmax(mllm: Mllm, family: str, temperature: float) -> None:
    probabilities = softmax_of(mllm, family, temperature)
    tokens = first_tokens(mllm, SamplingSettings(temperature=temperature, max_new_tokens=1), 4000)
    assert (probabilities * len(tokens) >= 5).sum() > 5
    assert fits(tokens, probabilities) > 1e-3
    assert fits(tokens, softmax_of(mllm, family, temperature * 1.4)) < 1e-6  # the test can tell


@pytest.mark.parametrize("top_p", [0.3, 0.8])
def test_top_p_draws_from_the_smallest_set_with_that_probability(mllm: Mllm, family: str, top_p: float) -> None:
    probabilities = softmax_of(mllm, family, 1.2)
    order = np.argsort(-probabilities)
    nucleus = order[: int(np.searchsorted(np.cumsum(probabilities[order]), top_p)) + 1]
    tokens = first_tokens(mllm, SamplingSettings(temperature=1.2, top_p=top_p, max_new_tokens=1), 2000)
    assert set(tokens) <= set(nucleus)
    kept = np.zeros_like(probabilities)
    kept[nucleus] = probabilities[nucleus] / probabilities[nucleus].sum()
    assert fits(tokens, kept) > 1e-3


def test_a_tiny_nucleus_is_greedy(mllm: Mllm) -> None:
    greedy = sample(mllm, prompts_of(mllm), SamplingSettings(max_new_tokens=8))
    drawn = sample(mllm, prompts_of(mllm), SamplingSettings(temperature=1.0, top_p=1e-9, max_new_tokens=8))
    assert [[c.tokens for c in row] for row in drawn] == [[c.tokens for c in row] for row in greedy]
