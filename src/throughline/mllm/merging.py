"""A base and its adapter written as one checkpoint of the base's own kind, for servers that know nothing of adapters.

    W' = round(W + s B A)      product and sum in fp32, rounded once, to the type that is written

The folder holds everything that `chat` passes to the processor and every token at which `sampling` stops, since a
server has nothing else to go by. `experiment.checkpoint_export` and served rounds call it; `merge_check` compares what
it wrote with the adapter.
"""

import copy
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import Conv2d as LoraConvolution
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
_PLAIN_LORA = "load the base with quantization `none`, and a plain LoRA adapter on linear layers"


@dataclass(frozen=True)
class Merged:
    """What was written: the type of its weights, the number of merged layers, and the cost of rounding."""

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
    weights, merged = _merged_weights(base, dtype)
    model = copy.copy(base)  # the same modules, with configs of its own
    model.config, model.generation_config = _config(base, DTYPES[dtype]), _generation_config(mllm, base, sampled)
    processor = copy.deepcopy(mllm.chat.processor)
    for name, value in mllm.chat.image_options.items():  # a server does not pass the processor how to cut tiles
        setattr(processor.image_processor, name, value)
    try:
        with readable_os_errors(folder):
            model.save_pretrained(str(folder), state_dict=weights)
            model.config.dtype = DTYPES[dtype]  # it wrote the type of the model in memory
            model.config.save_pretrained(str(folder))
            processor.save_pretrained(str(folder))
    except SafetensorError as error:  # a full disk, in the words of another library
        raise ThroughlineError(f"cannot write: {error}", folder, "free disk space") from error
    return merged


def adapted_layers(model: Any) -> dict[str, Any]:
    """The layers that an adapter wraps, by name, also of a model that was adapted in place and has no such list."""
    return {name: module for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)}


def _merged_weights(base: Any, dtype: str) -> tuple[dict[str, Tensor], Merged]:
    """Every weight under the base's own name, on the CPU; those that are tied once."""
    adapted = adapted_layers(base)
    weights: dict[str, Tensor] = {}
    lost = learnt = 0.0
    for name, weight in base.state_dict().items():
        if _FACTOR.search(name) or name in base.all_tied_weights_keys:
            continue
        if ".lora_" in name or ".modules_to_save." in name:  # DoRA, a trained bias, whole layers saved
            raise ThroughlineError(f"this adapter cannot be merged: it has {name}", do=_PLAIN_LORA)
        layer = adapted.get(name.removesuffix(f"{_WRAPPED}weight"))
        if layer is not None:
            addition = _addition(layer, name)
            whole = weight.float() + addition
            rounded = whole.to(DTYPES[dtype])
            lost += float(torch.linalg.vector_norm(rounded.float() - whole)) ** 2
            learnt += float(torch.linalg.vector_norm(addition)) ** 2
        else:
            rounded = weight.to(DTYPES[dtype]) if weight.is_floating_point() else weight
        weights[name.replace(_WRAPPED, ".")] = rounded.cpu()
    return weights, Merged(dtype, len(adapted), (lost / learnt) ** 0.5 if learnt else 0.0)


def _addition(layer: Any, name: str) -> Tensor:
    """s B A of a layer `(out, in)`, or of a convolution; peft keeps the factors in fp32."""
    known = isinstance(layer, LoraLayer) and isinstance(layer.get_base_layer(), nn.Linear)
    plain = (known or isinstance(layer, LoraConvolution)) and not layer.merged
    if not plain or not layer.get_base_layer().weight.is_floating_point() or len(layer.active_adapters) != 1:
        raise ThroughlineError(
            "this adapter cannot be merged: it is not plain LoRA on weights of full precision", name, _PLAIN_LORA
        )
    return torch.as_tensor(layer.get_delta_weight(layer.active_adapters[0]))


def _config(base: Any, dtype: torch.dtype) -> Any:
    """The base's own with the type that is written, and with the cache that training may have switched off."""
    config = copy.deepcopy(base.config)
    for part in (config, *(getattr(config, name, None) for name in getattr(config, "sub_configs", ()))):
        if part is not None:
            part.dtype = dtype
            if hasattr(part, "use_cache"):
                part.use_cache = True
    return config


def _generation_config(mllm: Mllm, base: Any, sampled: bool) -> Any:
    """The base's own, with every token that ends a turn in it, as `sampling` stops at them."""
    config = copy.deepcopy(base.generation_config)
    config.eos_token_id, config.use_cache = mllm.end_ids, True
    if sampled:  # from all tokens: by default transformers draws from the 50 likeliest
        config.do_sample, config.top_k, config.temperature, config.top_p = True, 0, None, None
    return config
