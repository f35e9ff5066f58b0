"""The named shapes are as the benchmarks' readers were told."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from throughline.mllm.geometries import GEOMETRIES, random_mllm

TEXTS = ["a red cup with a handle, seen from the front"] * 3


@pytest.fixture(scope="module")
def bench_40m():
    return random_mllm(GEOMETRIES["bench-40m"], TEXTS)


def test_bench_40m_has_the_sizes_it_is_named_for(bench_40m):
    vision, decoder = bench_40m.model.config.vision_config, bench_40m.model.config.text_config
    assert (vision.num_hidden_layers, vision.hidden_size, tuple(vision.image_size)) == (6, 256, (448, 448))
    assert (decoder.num_hidden_layers, decoder.hidden_size, decoder.intermediate_size) == (12, 512, 1408)
    assert (decoder.num_attention_heads, decoder.num_key_value_heads, decoder.vocab_size) == (8, 2, 8192)
    assert bench_40m.model.lm_head.weight is bench_40m.model.get_input_embeddings().weight
    assert 38e6 < sum(weight.numel() for weight in bench_40m.model.parameters()) < 46e6


def test_an_image_takes_256_tokens_and_the_projector_gives_as_many(bench_40m):
    image = bench_40m.chat.encode_image(Image.new("RGB", (448, 448)), "blank")
    assert image.placeholder_tokens == 256
    with torch.no_grad():
        features = bench_40m.model.get_image_features(**image.inputs, return_dict=True).pooler_output
    assert features.shape == (1, 256, 512)


def test_the_large_vocabulary_is_the_only_difference_of_the_third_geometry():
    small, large = GEOMETRIES["bench-40m"], GEOMETRIES["bench-40m-151k"]
    assert (large.vocabulary, large.image_size, large.config) == (151_674, small.image_size, small.config)


def test_the_same_seed_draws_the_same_weights_and_leaves_torchs_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = random_mllm(GEOMETRIES["pocket"], TEXTS, seed=1)
    assert torch.equal(torch.rand(3), expected)
    again, other = (random_mllm(GEOMETRIES["pocket"], TEXTS, seed=seed) for seed in (1, 2))
    name = "lm_head.weight"
    assert torch.equal(first.model.get_parameter(name), again.model.get_parameter(name))
    assert not torch.equal(first.model.get_parameter(name), other.model.get_parameter(name))
    assert not any(weight.requires_grad for weight in first.model.parameters())
