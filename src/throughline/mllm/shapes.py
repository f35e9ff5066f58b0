"""What a model consists of, as far as its cost depends on it: the linear layers and attention widths of both towers.

Read off the modules themselves, whatever the family and the device, so that a checkpoint can be built on torch's meta
device, without weights (`open_outline`). `flops` counts with this, `experiment.workload` sizes memory with it.
"""

from __future__ import annotations

import copy
import math
import re
from dataclasses import dataclass, replace
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from throughline.core.settings import LoraSettings
from throughline.mllm.chat import Chat, EncodedImage
from throughline.mllm.load import positions_of
from throughline.mllm.lora import VISION_NAMES, add_lora, base_of

_OPENING = re.compile(r"0\.\w+\.(q|k|v|qkv|query|key|value)(_proj)?")
_CLASS_TOKENS = {"cls_token", "class_embedding"}


@dataclass(frozen=True)
class Linear:
    """A frozen linear layer, and the rank of the LoRA beside it, 0 where there is none. `opening` says that it reads
    what enters its tower: queries, keys and values of the first layer."""

    inside: int
    outside: int
    rank: int = 0
    opening: bool = False

    @property
    def weights(self) -> int:
        """Of the frozen layer; biases are left out."""
        return self.inside * self.outside

    @property
    def adapter(self) -> int:
        """Parameters of the LoRA."""
        return self.rank * (self.inside + self.outside)


@dataclass(frozen=True)
class Tower:
    """A stack of transformer layers: all their linear layers in order, the width of the residual stream, that of all
    query heads together, and that of all key heads."""

    layers: int
    linears: tuple[Linear, ...]
    width: int
    query_width: int
    key_width: int

    @property
    def weights(self) -> int:
        """Of all linear layers."""
        return sum(linear.weights for linear in self.linears)

    @property
    def adapter(self) -> int:
        """Parameters of all LoRAs."""
        return sum(linear.adapter for linear in self.linears)

    @property
    def cached_values(self) -> int:
        """Keys and values of one token in all layers."""
        return 2 * self.layers * self.key_width

    @property
    def layer(self) -> tuple[Linear, ...]:
        """The linear layers of the first transformer layer."""
        return self.linears[: len(self.linears) // self.layers]


@dataclass(frozen=True)
class Shape:
    """A model for images of one kind. A tile has `patches` vision tokens, with the class token `sequence`, and
    `image_tokens` in the decoder's row; `patch_weights` are those of the convolution that makes a patch a vector,
    `connector` the linear layers between the towers, which see a tile's `image_tokens`."""

    vision: Tower
    patches: int
    sequence: int
    patch_weights: int
    connector: tuple[Linear, ...]
    image_tokens: int
    decoder: Tower
    head: Linear
    parameters: int

    @property
    def adapter(self) -> int:
        """Parameters of all LoRAs."""
        return self.vision.adapter + self.decoder.adapter + sum(linear.adapter for linear in self.connector)


def shape_of(model: Any, image: EncodedImage | None = None) -> Shape:
    """Reads a model, with LoRA or without. Families without a fixed size of tiles (Qwen-VL) need a typical `image`."""
    base = base_of(model)
    vision_stack, decoder_stack = (_stack(base, names) for names in (VISION_NAMES, ("language_model",)))
    linears, head = _linears(base), base.get_output_embeddings()
    eyes, text = base.config.vision_config, base.config.get_text_config()
    convolution = next(m for m in base.modules() if isinstance(m, nn.Conv2d | nn.Conv3d))
    if image is None:
        sizes = zip(_pair(eyes.image_size), _pair(eyes.patch_size), strict=True)
        patches, image_tokens = math.prod(side // patch for side, patch in sizes), base.config.image_seq_length
    else:
        tiles = tiles_of(image)
        patches = image.inputs["pixel_values"].numel() // convolution.weight[0].numel() // tiles
        image_tokens = image.placeholder_tokens // tiles
    class_token = any(name.rpartition(".")[2] in _CLASS_TOKENS for name, _ in base.named_parameters())
    heads = text.num_attention_heads
    head_width = getattr(text, "head_dim", None) or text.hidden_size // heads
    return Shape(
        vision=_tower(vision_stack, linears, eyes.hidden_size, eyes.hidden_size, eyes.hidden_size),
        patches=patches,
        sequence=patches + class_token,
        patch_weights=convolution.weight.numel(),
        connector=tuple(
            linear
            for name, linear in linears.items()
            if not name.startswith((f"{vision_stack}.", f"{decoder_stack}.")) and base.get_submodule(name) is not head
        ),
        image_tokens=image_tokens,
        decoder=_tower(
            decoder_stack, linears, text.hidden_size, heads * head_width, text.num_key_value_heads * head_width
        ),
        head=Linear(head.in_features, head.out_features),
        parameters=sum(weight.numel() for name, weight in base.named_parameters() if ".lora_" not in name),
    )


def tiles_of(image: EncodedImage) -> int:
    """Sequences that the vision tower makes of it: tiles, or one where patches come in a row."""
    pixels = image.inputs["pixel_values"]
    return len(pixels) if pixels.ndim == 4 else 1


@dataclass(frozen=True)
class Outline:
    """A checkpoint without its weights: the model on torch's meta device, and the chat that renders for it."""

    model: Any
    chat: Chat

    def shapes(self, lora: LoraSettings, image: EncodedImage) -> tuple[Shape, Shape]:
        """Without adapters and with them, for images like this one. ThroughlineError where LoRA is asked for in layers
        that the model does not have."""
        plain = shape_of(self.model, image)
        with torch.device("meta"):
            return plain, shape_of(add_lora(copy.deepcopy(self.model), lora, seed=0), image)


def open_outline(source: str, tiles: int = 1) -> Outline:
    """The outline of a folder, or of what the hub's cache holds of a name. Raises OSError, ValueError or KeyError where
    its configuration or its processor cannot be read; asks no network."""
    options = {"trust_remote_code": False, "local_files_only": True}
    config = AutoConfig.from_pretrained(source, **options)
    processor = AutoProcessor.from_pretrained(source, **options)
    return outline_of(config, processor, tiles)


def outline_of(config: Any, processor: Any, tiles: int = 1) -> Outline:
    """The outline of a configuration and a processor that are in memory."""
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    return Outline(model, Chat(processor, model.config.image_token_id, positions_of(model, processor), tiles))


def _stack(base: nn.Module, names: tuple[str, ...]) -> str:
    """The name of the first list of layers in a tower."""
    return next(
        name
        for name, module in base.named_modules()
        if isinstance(module, nn.ModuleList) and not set(names).isdisjoint(name.split("."))
    )


def _linears(base: nn.Module) -> dict[str, Linear]:
    """Every linear layer by its name, one with a LoRA as the layer below it."""
    found: dict[str, Linear] = {}
    for name, module in base.named_modules():
        if isinstance(module, LoraLayer):
            below = module.get_base_layer()
            found[name] = Linear(below.in_features, below.out_features, sum(module.r.values()))
        elif isinstance(module, nn.Linear) and not name.endswith(".base_layer") and ".lora_" not in name:
            found[name] = Linear(module.in_features, module.out_features)
    return found


def _tower(stack: str, linears: dict[str, Linear], width: int, query_width: int, key_width: int) -> Tower:
    start = f"{stack}."
    inside = {name.removeprefix(start): linear for name, linear in linears.items() if name.startswith(start)}
    return Tower(
        layers=len({name.partition(".")[0] for name in inside}),
        linears=tuple(replace(linear, opening=_OPENING.fullmatch(name) is not None) for name, linear in inside.items()),
        width=width,
        query_width=query_width,
        key_width=key_width,
    )


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)
