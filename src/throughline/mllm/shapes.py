"""What a model consists of, as far as its cost depends on it: the linear layers and attention widths of both towers.

Read off the modules themselves, whatever the family and the device, so that a checkpoint can be built on torch's meta
device, without weights (`open_outline`). `flops` counts with this, `experiment.workload` sizes memory with it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from throughline.mllm.chat import Chat, EncodedImage
from throughline.mllm.load import positions_of
from throughline.mllm.lora import VISION_NAMES, base_of

_QUERY_KEY_VALUE = re.compile(r"0\.\w+\.(q|k|v|qkv|query|key|value)(_proj)?")
_CLASS_TOKENS = {"cls_token", "class_embedding"}

Sizes = tuple[int, int, int]
"""Of a frozen linear layer: values inside, values outside, rank of the LoRA beside it (0 where there is none)."""


@dataclass(frozen=True)
class Linears:
    """Sums over some linear layers: values that go in, weights, those of layers that have a LoRA, and parameters of the
    LoRAs' first and second factors. Biases are left out."""

    inside: int = 0
    weights: int = 0
    adapted_weights: int = 0
    first_factors: int = 0
    second_factors: int = 0

    @property
    def adapter(self) -> int:
        """Parameters of the LoRAs."""
        return self.first_factors + self.second_factors

    def __add__(self, other: Linears) -> Linears:
        return Linears(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))


@dataclass(frozen=True)
class Tower:
    """A stack of transformer layers. `opening` are the linear layers that read what enters it: queries, keys and values
    of the first layer; `rest` all others. Widths are of the residual stream, of all query heads together, of all key
    heads, and within the MLP, into which `gates` linear layers lead."""

    layers: int
    opening: Linears
    rest: Linears
    width: int
    query_width: int
    key_width: int
    mlp_width: int
    gates: int

    @property
    def linears(self) -> Linears:
        """All of them."""
        return self.opening + self.rest

    @property
    def cached_values(self) -> int:
        """Keys and values of one token in all layers."""
        return 2 * self.layers * self.key_width


@dataclass(frozen=True)
class Shape:
    """A model for images of one kind. A tile has `patches` vision tokens, with the class token `sequence`, and
    `image_tokens` in the decoder's row; `patch_weights` are those of the convolution that makes a patch a vector,
    `connector` the linear layers between the towers, which see a tile's `image_tokens`."""

    vision: Tower
    patches: int
    sequence: int
    patch_weights: int
    connector: Linears
    image_tokens: int
    decoder: Tower
    head: Linears
    vocabulary: int
    parameters: int

    @property
    def adapter(self) -> int:
        """Parameters of all LoRAs."""
        return (self.vision.linears + self.connector + self.decoder.linears).adapter


def shape_of(model: Any, image: EncodedImage | None = None) -> Shape:
    """Reads a model, with LoRA or without. Families without a fixed size of tiles (Qwen-VL) need a typical `image`."""
    base = base_of(model)
    eyes, text, head = base.config.vision_config, base.config.get_text_config(), base.get_output_embeddings()
    convolution = next(m for m in base.modules() if isinstance(m, nn.Conv2d | nn.Conv3d))
    if image is None:
        sides = (side // patch for side, patch in zip(_pair(eyes.image_size), _pair(eyes.patch_size), strict=True))
        patches, image_tokens = math.prod(sides), base.config.image_seq_length
    else:
        patches = image.inputs["pixel_values"].numel() // convolution.weight[0].numel() // tiles_of(image)
        image_tokens = image.placeholder_tokens // tiles_of(image)
    names = [name for name, _ in base.named_parameters() if ".lora_" not in name]
    heads = text.num_attention_heads
    head_width = getattr(text, "head_dim", None) or text.hidden_size // heads
    linears, stacks = _linears(base), [_stack(base, words) for words in (VISION_NAMES, ("language_model",))]
    in_stacks = [{name: linears.pop(name) for name in list(linears) if name.startswith(stack)} for stack in stacks]
    return Shape(
        vision=_tower(stacks[0], in_stacks[0], eyes.hidden_size, eyes.hidden_size, eyes.hidden_size),
        patches=patches,
        sequence=patches + any(name.rpartition(".")[2] in _CLASS_TOKENS for name in names),
        patch_weights=convolution.weight.numel(),
        connector=_sum(sizes for name, sizes in linears.items() if base.get_submodule(name) is not head),
        image_tokens=image_tokens,
        decoder=_tower(
            stacks[1], in_stacks[1], text.hidden_size, heads * head_width, text.num_key_value_heads * head_width
        ),
        head=_sum([(head.in_features, head.out_features, 0)]),
        vocabulary=head.out_features,
        parameters=sum(base.get_parameter(name).numel() for name in names),
    )


def tiles_of(image: EncodedImage) -> int:
    """Sequences that the vision tower makes of it: tiles, or one where patches come in a row."""
    pixels = image.inputs["pixel_values"]
    return len(pixels) if pixels.ndim == 4 else 1


def open_outline(source: str, tiles: int = 1, revision: str | None = None) -> tuple[Any, Chat]:
    """A checkpoint without its weights, a folder or what the hub's cache holds of a name: the model on torch's meta
    device, and the chat that renders for it. Asks no network; OSError, ValueError or KeyError where its configuration
    or its processor cannot be read."""
    options = {"revision": revision or "main", "trust_remote_code": False, "local_files_only": True}
    config = AutoConfig.from_pretrained(source, **options)
    processor = AutoProcessor.from_pretrained(source, **options)
    return outline_of(config, processor, tiles)


def outline_of(config: Any, processor: Any, tiles: int = 1) -> tuple[Any, Chat]:
    """The same of a configuration and a processor that are in memory."""
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    return model, Chat(processor, model.config.image_token_id, positions_of(model, processor), tiles)


def _stack(base: nn.Module, words: tuple[str, ...]) -> str:
    """What the names of a tower's layers begin with: its first list of modules."""
    lists = (name for name, module in base.named_modules() if isinstance(module, nn.ModuleList))
    return next(f"{name}." for name in lists if not set(words).isdisjoint(name.split(".")))


def _linears(base: nn.Module) -> dict[str, Sizes]:
    """Every linear layer by its name, one with a LoRA under the name of both."""
    found: dict[str, Sizes] = {}
    for name, module in base.named_modules():
        if isinstance(module, LoraLayer):
            layer = module.get_base_layer()
            found[name] = layer.in_features, layer.out_features, sum(module.r.values())
        elif isinstance(module, nn.Linear) and not name.endswith(".base_layer") and ".lora_" not in name:
            found[name] = module.in_features, module.out_features, 0
    return found


def _sum(linears: Iterable[Sizes]) -> Linears:
    sums = (
        Linears(inside, inside * outside, inside * outside * (rank > 0), inside * rank, rank * outside)
        for inside, outside, rank in linears
    )
    return sum(sums, Linears())


def _tower(stack: str, linears: dict[str, Sizes], width: int, query_width: int, key_width: int) -> Tower:
    opening = {name for name in linears if _QUERY_KEY_VALUE.fullmatch(name.removeprefix(stack))}
    layers = len({name.removeprefix(stack).partition(".")[0] for name in linears})
    mlp_width = max(inside for inside, _, _ in linears.values())
    return Tower(
        layers=layers,
        opening=_sum(linears[name] for name in opening),
        rest=_sum(sizes for name, sizes in linears.items() if name not in opening),
        width=width,
        query_width=query_width,
        key_width=key_width,
        mlp_width=mlp_width,
        gates=sum(outside == mlp_width for _, outside, _ in linears.values()) // layers,
    )


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)
