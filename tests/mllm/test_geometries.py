"""The named shapes are as the benchmarks' readers were told."""

from dataclasses import replace

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from throughline.mllm.geometries import GEOMETRIES, random_mllm, shallow, train_tokenizer
from throughline.mllm.shapes import shape_of

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
    assert large == replace(small, name=large.name, vocabulary=151_674)


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


def test_internvl3_8b_has_the_parameters_of_the_published_weights():
    """The four weight files on the hub hold 15.89 GB of bfloat16."""
    geometry = GEOMETRIES["internvl3-8b"]
    config = geometry.config(train_tokenizer(TEXTS, 300))
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    count = sum(weight.numel() for weight in model.parameters())
    assert 2 * count == pytest.approx(15.89e9, rel=2e-3)
    assert shape_of(model).parameters == count
    vision = model.model.vision_tower.encoder.layer[0].attention
    assert vision.q_proj.bias is not None and model.model.language_model.layers[0].self_attn.q_proj.bias is not None


def test_a_shallow_geometry_keeps_the_widths():
    whole, cut = GEOMETRIES["bench-40m"], shallow(GEOMETRIES["bench-40m"], 2)
    wide, narrow = (shape_of(random_mllm(geometry, TEXTS).model) for geometry in (whole, cut))
    assert (narrow.vision.layers, narrow.decoder.layers) == (2, 2) and wide.decoder.layers == 12
    same = {"layers": 2, "rest": None}
    assert replace(narrow.decoder, **same) == replace(wide.decoder, **same)
    assert replace(narrow.vision, **same) == replace(wide.vision, **same)


def test_weights_can_be_drawn_in_bfloat16_with_frequencies_in_full():
    mllm = random_mllm(GEOMETRIES["pocket"], TEXTS, dtype="bfloat16")
    assert {weight.dtype for weight in mllm.model.parameters()} == {torch.bfloat16}
    assert mllm.model.model.language_model.rotary_emb.inv_freq.dtype == torch.float32
