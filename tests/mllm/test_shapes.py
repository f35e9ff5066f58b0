"""A checkpoint's outline, without weights, has the shape, the tokens and the FLOPs of the loaded model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.mllm.tiny import image_of
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForImageTextToText, LlavaConfig, Qwen2_5_VLConfig

from throughline.core.settings import LoraSettings
from throughline.mllm.chat import user_turn
from throughline.mllm.flops import Row, appended, decoded, row_flops
from throughline.mllm.load import Mllm, load_mllm
from throughline.mllm.lora import add_lora
from throughline.mllm.shapes import open_outline, shape_of


def counted(model: Any, **inputs: Any) -> tuple[int, Any]:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        out = model(**inputs)
    return counter.get_total_flops(), out


def test_an_outline_has_no_weights_and_renders_as_the_loaded_checkpoint(
    mllm: Mllm, family: str, checkpoints: dict[str, Path]
) -> None:
    (model, chat), picture = open_outline(str(checkpoints[family])), image_of(1)
    assert {weight.device.type for weight in model.parameters()} == {"meta"}
    ours, loaded = (
        chat.answered(user_turn("what is it?"), [chat.encode_image(picture, "one")], "a cat")
        for chat in (chat, mllm.chat)
    )
    assert ours.tokens.tolist() == loaded.tokens.tolist() and ours.positions.tolist() == loaded.positions.tolist()
    image = chat.encode_image(picture, "one")
    assert shape_of(model, image) == shape_of(mllm.model, image)


def test_the_prompts_flops_are_what_torch_counts(mllm: Mllm, family: str, checkpoints: dict[str, Path]) -> None:
    image = mllm.chat.encode_image(image_of(1), "one")
    path = mllm.chat.prompt(user_turn("what is it?"), [image])
    shape = shape_of(open_outline(str(checkpoints[family]))[0], image)
    assert image.placeholder_tokens == shape.image_tokens
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
    ours = row_flops(shape, Row(len(path.tokens), tiles=1, marked=1)).forward
    # Qwen's windows are counted as full attention; the others are exact.
    assert ours == flops if family != "qwen" else 1 <= ours / flops < 1.1


def test_decoding_is_what_torch_counts_step_by_step(mllms: dict[str, Mllm]) -> None:
    model = mllms["internvl"].model
    shape = shape_of(model)
    prompt = torch.randint(10, 60, (1, 12))
    first, out = counted(model, input_ids=prompt, use_cache=True, logits_to_keep=1)
    assert first == row_flops(shape, appended(0, 12)).forward
    steps = 0
    for _ in range(4):
        flops, out = counted(model, input_ids=prompt[:, :1], past_key_values=out.past_key_values, use_cache=True)
        steps += flops
    assert steps == row_flops(shape, decoded(12, 4)).forward
    more, out = counted(model, input_ids=prompt[:, :5], past_key_values=out.past_key_values, use_cache=True)
    assert more == row_flops(shape, appended(16, 5, marked=5)).forward
    layers = out.past_key_values.layers
    held = sum(values.numel() for layer in layers for values in (layer.keys, layer.values))
    assert held == shape.decoder.cached_values * (16 + 5)


def test_parameters_are_those_of_the_loaded_model(mllm: Mllm, family: str) -> None:
    image = mllm.chat.encode_image(image_of(1), "one")
    assert shape_of(mllm.model, image).parameters == sum(weight.numel() for weight in mllm.model.parameters())


def test_adapter_parameters_are_those_that_training_adds() -> None:
    model = load_mllm("pocket").model
    plain = shape_of(model)
    wrapped = add_lora(model, LoraSettings(rank=4), seed=0)
    added = sum(weight.numel() for weight in wrapped.parameters() if weight.requires_grad)
    assert plain.adapter == 0 and shape_of(wrapped).adapter == added
    assert shape_of(wrapped).parameters == plain.parameters
    assert shape_of(wrapped).decoder.linears.weights == plain.decoder.linears.weights


@pytest.mark.parametrize(
    ("config", "parameters", "image_tokens"),
    [
        (
            LlavaConfig(
                vision_config={"model_type": "clip_vision_model", "hidden_size": 1024, "image_size": 336}
                | {"intermediate_size": 4096, "patch_size": 14, "num_attention_heads": 16, "num_hidden_layers": 24},
                text_config={"model_type": "llama", "vocab_size": 32_064},
            ),
            7.06e9,
            576,
        ),
        (
            Qwen2_5_VLConfig(
                vision_config={"hidden_size": 1280, "depth": 32, "intermediate_size": 3420, "out_hidden_size": 3584},
                text_config={"hidden_size": 3584, "intermediate_size": 18_944, "num_hidden_layers": 28}
                | {"num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152_064},
            ),
            8.29e9,
            None,
        ),
    ],
    ids=["LLaVA-1.5-7B", "Qwen2.5-VL-7B"],
)
def test_published_configs_give_the_published_sizes(config: Any, parameters: float, image_tokens: int | None) -> None:
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    assert sum(weight.numel() for weight in model.parameters()) == pytest.approx(parameters, rel=0.01)
    if image_tokens is not None:
        assert (shape_of(model).image_tokens, shape_of(model).sequence) == (image_tokens, image_tokens + 1)
        assert shape_of(model).parameters == pytest.approx(parameters, rel=0.01)
