"""A base and its adapter written as one checkpoint of the base's own kind, for servers that know nothing of adapters.

    W' = round(W + s B A)      product and sum in fp32, rounded once, to the type that is written

The folder says everything that `chat` tells the processor and that `sampling` knows of ends, since a server has
nothing else to go by. `experiment.exporting` and served rounds call it, and `merge_check` proves what it wrote.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError
from torch import Tensor, nn

from throughline.core.errors import ThroughlineError
from throughline.core.files import readable_os_errors
from throughline.mllm.load import DTYPES, Mllm
from throughline.mllm.lora import base_of

_FACTOR = re.compile(r"\.lora_[AB]\.[^.]+\.weight$")
_WRAPPED = ".base_layer."


@dataclass(frozen=True)
class Merged:
    """What was written: the type of its weights, how many layers took up an adapter, and what rounding cost."""

    dtype: str
    layers: int
    rounding: float
    """Norm of all rounding errors in the merged layers over the norm of all that the adapter adds there."""


@torch.no_grad()
def write_merged(mllm: Mllm, folder: Path, dtype: str, sampled: bool = False) -> Merged:
    """Writes model, processor, tokenizer, chat template and generation config into `folder`, which `load_mllm`,
    `transformers serve` and vLLM open as they open the base. The model in memory stays as it is.

    `sampled` makes plain sampling what a server does where a request does not say otherwise: `transformers serve`
    answers greedily, whatever temperature it is asked for, unless the checkpoint itself says `do_sample`.
    Raises ThroughlineError when there is no adapter, or one that is no plain LoRA on linear layers.
    """
    base = base_of(mllm.model)
    if not adapted_layers(base):
        raise ThroughlineError("there is no adapter to merge", mllm.name, "name a model that was trained")
    weights, layers, rounding = _merged_weights(base, DTYPES[dtype])
    clean = _without_adapter(base, weights, DTYPES[dtype])
    clean.generation_config = _generation_config(mllm, base, sampled)
    processor = copy.deepcopy(mllm.chat.processor)
    for name, value in mllm.chat.image_options.items():  # a server does not tell the processor how to cut tiles
        setattr(processor.image_processor, name, value)
    try:
        with readable_os_errors(folder):
            clean.save_pretrained(str(folder))
            processor.save_pretrained(str(folder))
    except SafetensorError as error:  # a full disk, in the words of another library
        raise ThroughlineError(f"cannot write: {error}", folder, "free some space") from error
    return Merged(dtype, layers, rounding)


def adapted_layers(model: Any) -> dict[str, Any]:
    """The layers that an adapter wraps, by name; a model need not know itself that it has any."""
    return {name: module for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)}


def _merged_weights(base: Any, dtype: torch.dtype) -> tuple[dict[str, Tensor], int, float]:
    """Every weight under the base's own name, on the CPU; the number of merged layers; the rounding (see `Merged`)."""
    adapted = adapted_layers(base)
    weights: dict[str, Tensor] = {}
    lost = learnt = 0.0
    for name, weight in base.state_dict().items():
        if _FACTOR.search(name):
            continue
        layer = adapted.get(name.removesuffix(f"{_WRAPPED}weight"))
        if layer is not None:
            addition = _addition(layer, name)
            whole = weight.float() + addition
            rounded = whole.to(dtype)
            lost += float(torch.linalg.vector_norm(rounded.float() - whole)) ** 2
            learnt += float(torch.linalg.vector_norm(addition)) ** 2
        else:
            rounded = weight.to(dtype) if weight.is_floating_point() else weight
        weights[name.replace(_WRAPPED, ".")] = rounded.cpu()
    return weights, len(adapted), (lost / learnt) ** 0.5 if learnt else 0.0


def _addition(layer: Any, name: str) -> Tensor:
    """s B A of a layer's active adapters `(out, in)`, in fp32."""
    plain = isinstance(layer, LoraLayer) and isinstance(layer.get_base_layer(), nn.Linear) and not layer.merged
    if not plain or not layer.get_base_layer().weight.is_floating_point():
        raise ThroughlineError(
            "this adapter cannot be merged: it is no plain LoRA on weights of full width",
            name,
            "load the base with quantization `none`, and a plain LoRA adapter on linear layers",
        )
    chosen = [adapter for adapter in layer.active_adapters if adapter in layer.lora_A]
    products = [
        layer.lora_B[adapter].weight.float() @ layer.lora_A[adapter].weight.float() * layer.scaling[adapter]
        for adapter in chosen
    ]
    return torch.stack(products).sum(dim=0) if len(products) != 1 else products[0]


def _without_adapter(base: Any, weights: dict[str, Tensor], dtype: torch.dtype) -> Any:
    """A model of the base's class around these weights. It is never run, so it takes no memory of its own."""
    config = copy.deepcopy(base.config)
    for part in (config, *(getattr(config, name, None) for name in getattr(config, "sub_configs", ()))):
        if part is not None:
            part.dtype = dtype
            if hasattr(part, "use_cache"):
                part.use_cache = True  # training had switched it off
    with torch.device("meta"):
        clean = type(base)(config)
    try:
        clean.load_state_dict(weights, strict=True, assign=True)
    except RuntimeError as error:  # weights beside plain factors: DoRA, a trained bias, whole layers saved
        reason = " ".join(str(error).split())[:200]
        raise ThroughlineError(f"this adapter cannot be merged: {reason}", do="use a plain LoRA adapter") from error
    clean.tie_weights()
    if hasattr(base, "_weight_conversions"):  # how its checkpoint's names became those in memory; saving goes back
        clean._weight_conversions = base._weight_conversions
    return clean


def _generation_config(mllm: Mllm, base: Any, sampled: bool) -> Any:
    """The base's own, with every token that ends a turn in it, as `sampling` stops at them."""
    config = copy.deepcopy(base.generation_config)
    ends = config.eos_token_id
    known = list(ends) if isinstance(ends, list | tuple) else [] if ends is None else [ends]
    config.eos_token_id = list(dict.fromkeys([*known, mllm.chat.end_of_turn_id]))
    config.use_cache = True
    if sampled:  # from all tokens: where nothing is said, transformers draws from the 50 likeliest
        config.do_sample, config.top_k, config.temperature, config.top_p = True, 0, None, None
    return config
