"""The shape of a checkpoint on disk, read from its `config.json` alone: for predictions made before anything is loaded.

A `config.json` leaves out what transformers fills in; the defaults here are those of its config classes (5.18 to 5.23).
Known families: InternVL (`-hf`), LLaVA-1.5 and Qwen2.5-VL. Free of torch and of transformers. `experiment.predicting`
reads this; the closed forms it feeds are in `flops`, `decode_flops` and `sizes`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from throughline.mllm.flops import Shape, shape_of

Json = Mapping[str, Any]

INTERNVL_VISION = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "image_size": 448,
    "patch_size": 14,
    "num_channels": 3,
}
CLIP_VISION = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "image_size": 224,
    "patch_size": 32,
    "num_channels": 3,
}
QWEN_VISION = {
    "hidden_size": 3584,
    "depth": 32,
    "num_heads": 16,
    "intermediate_size": 3420,
    "in_channels": 3,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "spatial_merge_size": 2,
}

_DECODER_KEYS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
)
DECODERS: dict[str, dict[str, int | None]] = {
    "qwen2": dict(zip(_DECODER_KEYS, (151_936, 4096, 22_016, 32, 32, 32), strict=True)),
    "qwen3": dict(zip((*_DECODER_KEYS, "head_dim"), (151_936, 4096, 22_016, 32, 32, 32, 128), strict=True)),
    "llama": dict(zip(_DECODER_KEYS, (32_000, 4096, 11_008, 32, 32, None), strict=True)),
    "qwen2_5_vl": dict(zip(_DECODER_KEYS, (152_064, 8192, 29_568, 80, 64, 8), strict=True)),
}
"""Decoders without experts whose layers are queries, keys, values, output and a gated MLP."""


@dataclass(frozen=True)
class CheckpointShape:
    """A shape with what surrounds it. `image_tokens` stand for one tile in the decoder's row, `beside_image` further
    tokens close an image in; `tiles` says whether images can be cut; `tied` that embedding and LM head are one."""

    shape: Shape
    image_tokens: int
    beside_image: int
    tiles: bool
    tied: bool
    image_token_id: int


def read_shape(folder: Path, image_size: tuple[int, int] | None = None) -> CheckpointShape | str:
    """The shape of the checkpoint in `folder`, or one line that says why it cannot be told.

    `image_size` is the width and height in pixels of a typical image: Qwen-VL's number of tokens follows it.
    """
    try:
        config = json.loads((folder / "config.json").read_text())
        family = config["model_type"]
        if family == "internvl":
            return _internvl(config, _processor(folder))
        if family == "llava":
            return _llava(config)
        if family == "qwen2_5_vl":
            return _qwen(config, _processor(folder), image_size)
    except OSError:
        return "its config.json is not on this machine"
    except (KeyError, TypeError, ValueError, ZeroDivisionError, AttributeError):
        return "its config.json does not give the shape"
    return f"the shape of the family {family} is not known"


def _internvl(config: Json, processor: Json) -> CheckpointShape:
    vision = {**INTERNVL_VISION, **config["vision_config"]}
    shape = _shape(vision, _decoder(config, "qwen2"), config.get("downsample_ratio", 0.5))
    # Processors of the first releases write no length, and the model's config does.
    length = processor.get("image_seq_length", config.get("image_seq_length", 256))
    tied = config.get("tie_word_embeddings", (config.get("text_config") or {}).get("tie_word_embeddings", True))
    return CheckpointShape(shape, length, 2, True, tied, config.get("image_token_id", 151_667))


def _llava(config: Json) -> CheckpointShape:
    shape = _shape({**CLIP_VISION, **config["vision_config"]}, _decoder(config, "llama"), 1.0)
    tokens = shape.patches + (config.get("vision_feature_select_strategy", "default") == "full")
    place = config.get("image_token_index", config.get("image_token_id", 32_000))
    return CheckpointShape(shape, tokens, 0, False, bool(config.get("tie_word_embeddings", False)), place)


def _qwen(config: Json, processor: Json, image_size: tuple[int, int] | None) -> CheckpointShape | str:
    """Windows are counted as full attention, and the merger as InternVL's projector: a little more than is done."""
    if image_size is None:
        return "Qwen-VL's tokens follow the size of the images, which is not known"
    read = config["vision_config"]
    vision = {**QWEN_VISION, **read}
    channels = read.get("in_channels", read.get("in_chans", 3))
    merge, patch = vision["spatial_merge_size"], vision["patch_size"]
    rows, columns = _qwen_grid(image_size, patch * merge, processor)
    named = {
        "hidden_size": vision["hidden_size"],
        "num_hidden_layers": vision["depth"],
        "num_attention_heads": vision["num_heads"],
        "intermediate_size": vision["intermediate_size"],
        "image_size": [rows * merge * patch, columns * merge * patch],
        "patch_size": patch,
        "num_channels": channels * vision["temporal_patch_size"],
    }
    shape = _shape(named, _decoder(config, "qwen2_5_vl"), 1 / merge)
    shape = replace(shape, vision=replace(shape.vision, matrices=3))
    tied = bool(config.get("tie_word_embeddings", False))
    # `<|vision_start|>` and `<|vision_end|>` are the chat template's, so nothing is added here.
    return CheckpointShape(shape, rows * columns, 0, False, tied, config.get("image_token_id", 151_655))


def _qwen_grid(image_size: tuple[int, int], cell: int, processor: Json) -> tuple[int, int]:
    """Rows and columns of tokens after the processor has fitted an image between its fewest and most pixels."""
    size = processor.get("size") or {}
    fewest = processor.get("min_pixels") or size.get("shortest_edge") or 56 * 56
    most = processor.get("max_pixels") or size.get("longest_edge") or 28 * 28 * 1280
    width, height = image_size
    rows, columns = max(1, round(height / cell)), max(1, round(width / cell))
    pixels = rows * columns * cell * cell
    if pixels > most:
        scale = math.sqrt(width * height / most)
        rows, columns = max(1, int(height / scale / cell)), max(1, int(width / scale / cell))
    elif pixels < fewest:
        scale = math.sqrt(fewest / (width * height))
        rows, columns = math.ceil(height * scale / cell), math.ceil(width * scale / cell)
    return rows, columns


def _decoder(config: Json, usual: str) -> dict[str, Any]:
    """The decoder's keys with their defaults. Qwen2.5-VL's first checkpoints have them beside everything else."""
    text = config.get("text_config") or (config if usual == "qwen2_5_vl" else {})
    family = usual if usual == "qwen2_5_vl" else text.get("model_type", usual)
    values = {**DECODERS[family], **{key: text[key] for key in (*_DECODER_KEYS, "head_dim") if text.get(key)}}
    if values["num_key_value_heads"] is None:
        values["num_key_value_heads"] = values["num_attention_heads"]
    return values


def _shape(vision: Json, decoder: Json, downsample_ratio: float) -> Shape:
    vision = {**vision, **{key: _pair(vision[key]) for key in ("image_size", "patch_size")}}
    return shape_of(
        SimpleNamespace(
            vision_config=SimpleNamespace(**vision),
            text_config=SimpleNamespace(**decoder),
            downsample_ratio=downsample_ratio,
        )
    )


def _pair(value: Any) -> tuple[int, int]:
    height, width = (value, value) if isinstance(value, int) else value
    return int(height), int(width)


def _processor(folder: Path) -> dict[str, Any]:
    """The processor's and the image processor's values in one mapping; empty where the checkpoint brings none."""
    found: dict[str, Any] = {}
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            read = json.loads((folder / name).read_text())
            found |= read | (read.get("image_processor") or {})
    return found
