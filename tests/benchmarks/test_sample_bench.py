"""`bench sample`: both sides write continuations of the same lengths, from the same distribution."""

from dataclasses import asdict

import numpy as np
import pytest
import torch

from throughline.benchmarks import sample_sides, timing
from throughline.benchmarks.sample import geometric_lengths, measure, spreads
from throughline.benchmarks.sample_sides import (
    check_draws,
    check_greedy,
    fit_of,
    generate_on_prefix,
    generate_sequences,
    make_sample_work,
    sample_ours,
)
from throughline.benchmarks.settings import SampleSettings
from throughline.benchmarks.timing import measure_sides
from throughline.benchmarks.workload import chain_lengths, random_model
from throughline.core.errors import ThroughlineError


@pytest.fixture(scope="module")
def work():
    return make_sample_work(random_model("pocket"), "pocket", classes=7)


@pytest.fixture
def tokens_of_passes(work):
    """How many tokens each pass of the decoder had."""
    rows = []
    handle = work.mllm.model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(kwargs["inputs_embeds"][..., 0].numel()), with_kwargs=True
    )
    yield rows
    handle.remove()


def test_both_sides_are_asked_the_same_tokens(work):
    assert work.rival["input_ids"][0].tolist() == work.ours.tokens.tolist()
    (image,) = work.ours.images
    assert torch.equal(work.rival["pixel_values"], image.inputs["pixel_values"])


def test_ours_computes_no_row_past_its_length(work, tokens_of_passes):
    sample_ours(work, (2, 4, 4))
    assert tokens_of_passes == [len(work.ours.tokens), 3, 2, 2]  # the prompt gives the first tokens
    assert work.mllm.chat.end_of_turn_id == work.mllm.chat.tokenizer.eos_token_id  # as it was


@pytest.mark.parametrize("rival", [generate_sequences, generate_on_prefix])
def test_generate_pads_the_rows_that_have_ended_and_computes_on(work, tokens_of_passes, rival):
    tokens = rival(work, (2, 4, 4))
    assert tokens.shape == (3, 4)
    assert tokens[0, 2:].tolist() == [work.mllm.chat.pad_id] * 2
    assert set(tokens_of_passes[1:]) == {3}


def test_equal_lengths_end_nowhere_before(work):
    sample_ours(work, (30,) * 4)
    for cache in ("dynamic", "static"):
        assert generate_sequences(work, (30,) * 4, cache).shape == (4, 30)


def test_a_sampler_that_writes_other_lengths_is_told(work, monkeypatch):
    real = sample_sides.sample
    other = lambda *given, stop, **_: real(*given, limits=[[1, 5]], stop=stop)
    monkeypatch.setattr(sample_sides, "sample", other)
    with pytest.raises(ThroughlineError, match=r"where \(2, 5\) were to be written"):
        sample_ours(work, (2, 5))


def test_geometric_lengths_have_the_distributions_quantiles():
    many = geometric_lengths(4000, 110.0, 10_000)
    drawn = np.random.default_rng(0).geometric(1 / 110, size=200_000)
    assert np.mean(many) == pytest.approx(110, rel=0.01)
    for share in (0.1, 0.5, 0.9):
        assert np.quantile(many, share) == pytest.approx(np.quantile(drawn, share), rel=0.03)
    assert max(geometric_lengths(8, 110.0, 150)) == 150


def test_lengths_are_those_of_the_describers_chains(work):
    mean = np.mean(chain_lengths(work.mllm.chat))
    equal, cut, whole = spreads(work.mllm, SampleSettings()).values()
    assert equal == (150,) * 8
    assert np.mean(whole) == pytest.approx(mean, rel=0.1)  # of eight parts the last one's middle is not its mean
    assert max(cut) == 150 < max(whole) and cut[:4] == whole[:4]


@pytest.mark.slow
def test_greedy_and_draws_pass_and_the_tests_can_tell(work, monkeypatch):
    assert check_greedy(work, sequences=2, tokens=20) == {"greedy_tokens_compared": 20}
    assert min(check_draws(work, 500).values()) > 1e-3
    cold = sample_sides.SamplingSettings(temperature=0.5, max_new_tokens=1)
    monkeypatch.setattr(sample_sides, "SamplingSettings", lambda **_: cold)
    with pytest.raises(ThroughlineError, match="do not follow the softmax, p_first_tokens_ours"):
        check_draws(work, 2000)


def test_another_greedy_token_is_told(work, monkeypatch):
    real = sample_sides.sample

    def off_by_one(*args, **options):
        (row,) = real(*args, **options)
        return [[type(text)((*text.tokens[:-1], text.tokens[-1] + 1), text.text, text.finish_reason) for text in row]]

    monkeypatch.setattr(sample_sides, "sample", off_by_one)
    with pytest.raises(ThroughlineError, match="greedy tokens"):
        check_greedy(work, sequences=1, tokens=5)


def test_the_fit_knows_its_own_distribution_from_another():
    draw = np.random.default_rng(1)
    probabilities = draw.dirichlet(np.ones(3000))
    other = draw.permutation(probabilities)
    p_values = [fit_of(np.random.default_rng(s).choice(3000, 2000, p=probabilities), probabilities) for s in range(200)]
    assert 0.01 < np.mean(np.array(p_values) < 0.05) < 0.12
    assert fit_of(draw.choice(3000, 2000, p=other), probabilities) < 1e-6


def test_a_row_for_every_rival(monkeypatch):
    monkeypatch.setattr(timing, "take_turns", lambda sides, *_: {side: [float(len(side))] for side in sides})
    rows = measure_sides("sample x", print, {"eight888": print, "four": print}, 1, {"geometry": "x"})
    assert [(row.rival, row.ratio) for row in rows] == [("eight888", 2.0), ("four", 1.0)]
    assert rows[0].settings == {"geometry": "x", "trials": 1}


@pytest.mark.slow
def test_the_whole_bench_in_small():
    settings = SampleSettings(geometry="pocket", sequences=2, new_tokens=4, draws=200, trials=1, threads=1)
    rows = [asdict(row) for row in measure(settings, print)]
    assert [row["rival"] for row in rows[:2]] == ["generate(num_return_sequences=2)", "generate on a prefilled cache"]
    assert rows[0]["name"] == "sample pocket, K=2, 4 tokens each"
    assert {"threads", "dtype", "cache", "p_first_tokens_ours", "seconds_static_cache"} <= rows[0]["settings"].keys()
    assert len(rows) == 6 and all(row["ratio"] > 0 for row in rows)
