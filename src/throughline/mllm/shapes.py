"""The parts of a model that its cost depends on: the linear layers and attention widths of both towers.

They are read from the modules, whatever the family and the device, so that a checkpoint can be built on torch's meta
device, without weights (`open_outline`). `flops` counts with them, `experiment.workload` estimates memory with them.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from throughline.mllm.chat import Chat, EncodedImage
from throughline.mllm.load import positions_of
from throughline.mllm.lora import DECODER_NAMES, VISION_NAMES, base_of

_QUERY_KEY_VALUE = re.compile(r"0\.\w+\.(q|k|v|qkv|query|key|value)(_proj)?")
_CLASS_TOKENS = {"cls_token", "class_embedding"}

Sizes = tuple[int, int, int]
"""Of a frozen linear layer: values inside, values outside, rank of the LoRA beside it (0 where there is none)."""


@dataclass(frozen=True)
class Linears:
    """Sums over some linear layers: input widths, weights, weights of layers with a LoRA, and parameters of the LoRAs'
    first and second factors. Biases are left out."""

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
    """A stack of transformer layers. `opening` are the linear layers that read its input (queries, keys and values of
    the first layer), `rest` all others. Widths are of the residual stream, of all query heads together, of all key
    heads, and within the MLP, into which `gates` linear layers lead.

    A vision tower of convolutions is `measured`: FLOPs forward and backward of a tile, which is one token. It has no
    attention and no MLP; `width` is what its widest layer puts out, and so many `layers` of this width hold what all
    its layers put out together."""

    layers: int
    opening: Linears
    rest: Linears
    width: int
    query_width: int
    key_width: int
    mlp_width: int
    gates: int
    measured: tuple[int, int] | None = None

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
    vision, text, head = base.config.vision_config, base.config.get_text_config(), base.get_output_embeddings()
    convolution = next(m for m in base.modules() if isinstance(m, nn.Conv2d | nn.Conv3d))
    if image is None:
        sides = (side // patch for side, patch in zip(_pair(vision.image_size), _pair(vision.patch_size), strict=True))
        patches, image_tokens = math.prod(sides), base.config.image_seq_length
    else:
        patches = image.inputs["pixel_values"].numel() // convolution.weight[0].numel() // tiles_of(image)
        image_tokens = image.placeholder_tokens // tiles_of(image)
    names = [name for name, _ in base.named_parameters() if ".lora_" not in name]
    heads = text.num_attention_heads
    head_width = getattr(text, "head_dim", None) or text.hidden_size // heads
    text_widths = text.hidden_size, heads * head_width, text.num_key_value_heads * head_width
    linears = _linears(base)
    vision_tower = _tower(base, VISION_NAMES, linears, (vision.hidden_size,) * 3, image)
    measured = vision_tower.measured is not None
    decoder = _tower(base, DECODER_NAMES, linears, text_widths)
    connector = _sum(sizes for name, sizes in linears.items() if base.get_submodule(name) is not head)
    return Shape(
        vision=vision_tower,
        patches=patches,
        sequence=1 if measured else patches + any(name.rpartition(".")[2] in _CLASS_TOKENS for name in names),
        patch_weights=0 if measured else convolution.weight.numel(),
        connector=connector,
        image_tokens=image_tokens,
        decoder=decoder,
        head=_sum([(head.in_features, head.out_features, 0)]),
        vocabulary=head.out_features,
        parameters=sum(base.get_parameter(name).numel() for name in names),
    )


def tiles_of(image: EncodedImage) -> int:
    """Sequences that the vision tower makes of it: tiles, or one where patches come in a row."""
    return math.prod(image.inputs["pixel_values"].shape[:-3])


def open_outline(source: str, tiles: int = 1, revision: str | None = None) -> tuple[Any, Chat]:
    """A checkpoint without its weights, a folder or what the hub's cache holds of a name: the model on torch's meta
    device, and the chat that renders for it. Asks no network; OSError, ValueError or KeyError where its configuration
    or its processor cannot be read."""
    options = {"revision": revision or "main", "trust_remote_code": False, "local_files_only": True}
    config = AutoConfig.from_pretrained(source, **options)
    processor = AutoProcessor.from_pretrained(source, **options)
    model, chat = outline_of(config, processor, tiles)
    chat.tokenizer.model_max_length = math.inf  # it only counts: who asks says what is too long for the model
    return model, chat


def outline_of(config: Any, processor: Any, tiles: int = 1) -> tuple[Any, Chat]:
    """The same of a configuration and a processor that are in memory."""
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    return model, Chat(processor, model.config.image_token_id, positions_of(model, processor), tiles)


def _linears(base: nn.Module) -> dict[str, Sizes]:
    """Every linear layer by its name, and every convolution with a LoRA; a layer and its LoRA are one entry."""
    linears: dict[str, Sizes] = {}
    for name, module in base.named_modules():
        if isinstance(module, LoraLayer):
            layer = module.get_base_layer()
            linear = isinstance(layer, nn.Linear)  # its weight may be packed in 4 bits
            outside, *inside = (layer.out_features, layer.in_features) if linear else layer.weight.shape
            linears[name] = math.prod(inside), outside, sum(module.r.values())
        elif isinstance(module, nn.Linear) and not name.endswith(".base_layer") and ".lora_" not in name:
            linears[name] = module.in_features, module.out_features, 0
    return linears


def _sum(linears: Iterable[Sizes]) -> Linears:
    sums = (
        Linears(inside, inside * outside, inside * outside * (rank > 0), inside * rank, rank * outside)
        for inside, outside, rank in linears
    )
    return sum(sums, Linears())


def _tower(base: Any, names: tuple[str, ...], linears: dict[str, Sizes], widths: Sizes, image: Any = None) -> Tower:
    """The tower of one of these names, its first list of modules; its layers are taken out of `linears`. A tower
    without such a list is measured on a tile of the `image`."""
    lists = (name for name, module in base.named_modules() if isinstance(module, nn.ModuleList))
    stack = next((f"{name}." for name in lists if not set(names).isdisjoint(name.split("."))), None)
    if stack is None and image is not None:
        adapters = _sum([linears.pop(name) for name in list(linears) if not set(names).isdisjoint(name.split("."))])
        tower = next(module for name, module in base.named_modules() if name.rpartition(".")[2] in names)
        return _measured_tower(tower, adapters, image.inputs["pixel_values"].shape[-3:])
    if stack is None:
        raise ValueError("a tower without transformer layers, whose cost is not known")
    inner = {name.removeprefix(stack): linears.pop(name) for name in list(linears) if name.startswith(stack)}
    opening = {name for name in inner if _QUERY_KEY_VALUE.fullmatch(name)}
    layers = len({name.partition(".")[0] for name in inner})
    mlp_width = max(inside for inside, _, _ in inner.values())
    return Tower(
        layers,
        _sum(inner[name] for name in opening),
        _sum(sizes for name, sizes in inner.items() if name not in opening),
        *widths,
        mlp_width=mlp_width,
        gates=sum(outside == mlp_width for _, outside, _ in inner.values()) // layers,
    )


def _measured_tower(tower: nn.Module, adapters: Linears, tile: Sequence[int]) -> Tower:
    """What torch counts on the meta device, where nothing is computed."""
    tower, sizes = copy.deepcopy(tower).to("meta").eval(), list[int]()
    for module in tower.modules():
        if not list(module.children()):
            module.register_forward_hook(lambda module, given, out: sizes.append(out.numel()))
    with FlopCounterMode(display=False) as forward:
        features = tower(torch.empty(1, *tile, device="meta")).last_hidden_state
    with FlopCounterMode(display=False) as backward:
        if adapters.adapter:
            features.sum().backward()
    layers = round(sum(sizes) / (4 * max(sizes)))  # a layer without attention and MLP keeps four values for each
    measured = forward.get_total_flops(), backward.get_total_flops()
    return Tower(layers, Linears(), adapters, max(sizes), 0, 0, 0, 0, measured)


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)
