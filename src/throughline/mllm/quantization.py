"""Base weights in 4 bits (NF4 with double quantisation, as QLoRA has it, arXiv 2305.14314), for a card that the
checkpoint would not fit. `load` takes its options from here; adapters stay in full precision on top.

Only the linear layers of the decoder are quantised: they are 82 % of InternVL3-8B's weights, which take 6 GB
then instead of 16. Vision tower (4 %) and projector (0.3 %) stay: little memory, and every image token passes through
their rounding. The LM head stays (7 %, as the embedding): label likelihoods are differences between a few of its
logits, and small checkpoints tie it to the embedding.
"""

import copy
import importlib.util
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, BitsAndBytesConfig

from throughline.core.errors import ThroughlineError, extra
from throughline.core.settings import Quantization
from throughline.mllm.lora import DECODER_NAMES


def opening_options(
    config: Any, quantization: Quantization, dtype: torch.dtype, device: str, where: str
) -> dict[str, Any]:
    """Further arguments of `from_pretrained` for the checkpoint `where` with this `config`; none for `none`.

    Raises ThroughlineError where bitsandbytes is missing, or the checkpoint's own weights are quantised already.
    """
    if quantization == "none":
        return {}
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ThroughlineError("4-bit weights need the package bitsandbytes", quantization, extra("quantized"))
    if getattr(config, "quantization_config", None) is not None:
        raise ThroughlineError(
            "the checkpoint's weights are quantised already", where, "leave quantization at `none`, or name another"
        )
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantization,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=_outside_decoder(config),  # the name is older than 4 bits, and counts for them
    )
    # Without a map, transformers quantises on a GPU wherever there is one; training asks for that GPU's number.
    place = torch.cuda.current_device() if device == "cuda" else device
    return {"quantization_config": settings, "device_map": {"": place}}


def compute_alike(model: torch.nn.Module, where: str) -> None:
    """Has the 4-bit layers of `model` compute in one way only, on whatever processor and in whatever mode.

    On CPUs with AVX-512 BF16, bitsandbytes packs a layer anew when it first computes in evaluation mode. It then rounds
    its inputs to bfloat16, fails for widths that are no multiple of 64, and lets no gradient through any more: training
    after a round of sampling would go wrong in silence. Raises ThroughlineError for a model without any 4-bit layer.
    """
    from bitsandbytes.nn import Linear4bit

    layers = [module for module in model.modules() if isinstance(module, Linear4bit)]
    if not layers:
        raise ThroughlineError("no layer of this checkpoint can be quantised", where, "leave quantization at `none`")
    for layer in layers:
        layer.support_avx512bf16_for_cpu = False


def _outside_decoder(config: Any) -> list[str]:
    """Names of the modules beside the decoder, from a skeleton of the model without weights."""
    with torch.device("meta"):
        skeleton = AutoModelForImageTextToText.from_config(copy.deepcopy(config))  # it writes into its config
    beside = [f"model.{name}" for name, _ in skeleton.model.named_children() if name not in DECODER_NAMES]
    return beside + [name for name, _ in skeleton.named_children() if name != "model"]
