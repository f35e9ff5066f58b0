"""Shapes read from `config.json` alone are those of the model that transformers would build."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tests.mllm.tiny import image_of
from torch.utils.flop_counter import FlopCounterMode
from transformers import InternVLConfig, LlavaConfig, Qwen2_5_VLConfig

from throughline.core.settings import LoraSettings
from throughline.mllm.chat import user_turn
from throughline.mllm.decode_flops import appended_flops, decoding_flops, prompt_flops
from throughline.mllm.flops import shape_of
from throughline.mllm.load import Mllm
from throughline.mllm.lora import add_lora
from throughline.mllm.shapes import CheckpointShape, read_shape
from throughline.mllm.sizes import adapter_parameters, cache_bytes, parameters


def shape_at(folder: Path, image: Image.Image | None = None) -> CheckpointShape:
    found = read_shape(folder, image.size if image is not None else None)
    assert isinstance(found, CheckpointShape), found
    return found


def written(folder: Path, config: dict[str, Any]) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def counted(model: Any, **inputs: Any) -> tuple[int, Any]:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        out = model(**inputs)
    return counter.get_total_flops(), out


def test_the_prompts_flops_are_what_torch_counts(mllm: Mllm, family: str, checkpoints: dict[str, Path]) -> None:
    image = image_of(1)
    path = mllm.chat.prompt(user_turn("what is it?"), [mllm.chat.encode_image(image, "one")])
    model = shape_at(checkpoints[family], image)
    assert path.images[0].placeholder_tokens == model.image_tokens
    ids = torch.from_numpy(path.tokens)[None]
    positions = torch.from_numpy(path.positions)[:, None]
    flops, _ = counted(
        mllm.model,
        input_ids=ids,
        position_ids=positions[0] if len(positions) == 1 else positions,
        use_cache=False,
        logits_to_keep=1,
        **path.images[0].inputs,
    )
    ours = prompt_flops(model.shape, len(path.tokens), tiles=1)
    # Qwen's windows are counted as full attention and its merger as a projector; the others are exact.
    assert ours == flops if family == "internvl" else 0.95 < ours / flops < 1.25


def test_decoding_is_what_torch_counts_step_by_step(mllms: dict[str, Mllm], checkpoints: dict[str, Path]) -> None:
    model, shape = mllms["internvl"].model, shape_at(checkpoints["internvl"]).shape
    prompt = torch.randint(10, 60, (1, 12))
    first, out = counted(model, input_ids=prompt, use_cache=True, logits_to_keep=1)
    assert first == appended_flops(shape, 0, 12, marked=1)
    steps = 0
    for _ in range(4):
        flops, out = counted(model, input_ids=prompt[:, :1], past_key_values=out.past_key_values, use_cache=True)
        steps += flops
    assert steps == decoding_flops(shape, 12, 4)
    more, out = counted(model, input_ids=prompt[:, :5], past_key_values=out.past_key_values, use_cache=True)
    assert more == appended_flops(shape, 16, 5, marked=5)
    layers = out.past_key_values.layers
    held = sum(values.numel() * values.element_size() for layer in layers for values in (layer.keys, layer.values))
    assert held == cache_bytes(shape, 4) * (16 + 5)


def test_parameters_are_those_of_the_model_but_for_norms_and_biases(
    mllms: dict[str, Mllm], checkpoints: dict[str, Path]
) -> None:
    for family in ("internvl", "llava"):  # Qwen's published number is below: the tiny one is mostly merger
        model = shape_at(checkpoints[family])
        real = sum(weight.numel() for weight in mllms[family].model.parameters())
        assert 0.8 < parameters(model.shape, model.tied) / real <= 1.05, family


def test_adapter_parameters_are_those_that_training_adds() -> None:
    from throughline.mllm.checkpoints import checkpoint_folder
    from throughline.mllm.load import load_mllm

    folder = checkpoint_folder("pocket")
    assert folder is not None
    model = shape_at(folder)
    wrapped = add_lora(load_mllm("pocket").model, LoraSettings(rank=4), seed=0)
    added = sum(weight.numel() for weight in wrapped.parameters() if weight.requires_grad)
    assert added == adapter_parameters(model.shape.vision, 4) + adapter_parameters(model.shape.decoder, 4)


@pytest.mark.parametrize(
    ("config", "own"),
    [
        ({"model_type": "internvl", "vision_config": {}}, InternVLConfig),
        ({"model_type": "internvl", "vision_config": {}, "text_config": {"model_type": "llama"}}, InternVLConfig),
        ({"model_type": "internvl", "vision_config": {}, "text_config": {"model_type": "qwen3"}}, InternVLConfig),
    ],
    ids=["bare", "llama", "qwen3"],
)
def test_what_an_internvl_config_leaves_out_is_what_transformers_fills_in(
    config: dict[str, Any], own: Any, tmp_path: Path
) -> None:
    filled = own.from_dict(config)
    assert shape_at(written(tmp_path, config)).shape == shape_of(filled)


def test_llavas_published_config_gives_vicunas_shape(tmp_path: Path) -> None:
    config = {
        "model_type": "llava",
        "image_token_index": 32_000,
        "vision_config": {"hidden_size": 1024, "image_size": 336, "intermediate_size": 4096, "patch_size": 14}
        | {"num_attention_heads": 16, "num_hidden_layers": 24, "model_type": "clip_vision_model"},
        "text_config": {"model_type": "llama", "vocab_size": 32_064},
    }
    filled, model = LlavaConfig.from_dict(config), shape_at(written(tmp_path, config))
    text, decoder = filled.text_config, model.shape.decoder
    assert (decoder.layers, decoder.width, decoder.mlp) == (
        text.num_hidden_layers,
        text.hidden_size,
        text.intermediate_size,
    )
    assert decoder.key_value_heads == text.num_key_value_heads and model.shape.vocabulary == 32_064
    assert model.image_tokens == 576 and not model.tied
    assert 7.0e9 < parameters(model.shape, model.tied) < 7.1e9  # published as 7.06e9


def test_qwens_flat_and_nested_configs_give_one_shape(tmp_path: Path) -> None:
    text = {"hidden_size": 3584, "intermediate_size": 18_944, "num_hidden_layers": 28, "num_attention_heads": 28}
    text |= {"num_key_value_heads": 4, "vocab_size": 152_064}
    vision = {"hidden_size": 1280, "depth": 32, "intermediate_size": 3420, "out_hidden_size": 3584}
    flat = shape_at(
        written(tmp_path, {"model_type": "qwen2_5_vl", "vision_config": vision, **text}), Image.new("RGB", (280, 140))
    )
    nested = {"model_type": "qwen2_5_vl", "vision_config": vision, "text_config": text}
    assert shape_at(written(tmp_path, nested), Image.new("RGB", (280, 140))) == flat
    assert Qwen2_5_VLConfig.from_dict(nested).text_config.num_hidden_layers == flat.shape.decoder.layers
    assert flat.image_tokens == (280 // 28) * (140 // 28)
    assert 8.2e9 < parameters(flat.shape, flat.tied) < 8.4e9  # published as 8.29e9


def test_what_cannot_be_told_is_said_in_words(tmp_path: Path) -> None:
    assert read_shape(tmp_path) == "its config.json is not on this machine"
    assert read_shape(written(tmp_path, {"model_type": "gemma3"})) == "the shape of the family gemma3 is not known"
    assert "follow the size" in str(read_shape(written(tmp_path, {"model_type": "qwen2_5_vl", "vision_config": {}})))
    assert "does not give the shape" in str(read_shape(written(tmp_path, {"model_type": "internvl"})))
    strange = {"model_type": "internvl", "vision_config": {}, "text_config": {"model_type": "mamba"}}
    assert "does not give the shape" in str(read_shape(written(tmp_path, strange)))
