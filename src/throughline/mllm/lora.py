"""LoRA on both towers, as the paper has it (rank 8 in vision encoder and decoder), with the adapted modules named.

Alpha 16 and dropout 0.05 are OpenGVLab/InternVL's own fine-tuning defaults (alpha = 2 r); the paper leaves them open.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.import_utils import is_bnb_4bit_available
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from throughline.core.errors import ThroughlineError
from throughline.core.files import content_hash, write_json
from throughline.core.settings import LoraSettings
from throughline.mllm.lora_linear import LoraLinear

VISION_NAMES = ("vision_tower", "visual", "vision_model")
"""What transformers' families call their vision encoder."""

ADAPTER_WEIGHTS = "adapter_model.safetensors"
_OWN_BASE = "load it on the checkpoint it was trained on"


def adapted_modules(model: nn.Module, settings: LoraSettings) -> list[str]:
    """Full names of the linear layers that the settings choose; an asked-for name that nothing bears is an error."""
    chosen: list[str] = []
    for tower, wanted in (("vision", settings.vision), ("decoder", settings.decoder)):
        layers = [name for name, module in _tower(model, tower) if isinstance(module, nn.Linear)]
        for pattern in wanted:
            found = [n for n in layers if pattern == "*" or n.rsplit(".", 1)[-1] == pattern]
            if not found:
                known = sorted({n.rsplit(".", 1)[-1] for n in layers})
                raise ThroughlineError(
                    f"LoRA: no linear layer {pattern!r} in the {tower} tower",
                    do=f"choose from {', '.join(known)}",
                )
            chosen += [n for n in found if n not in chosen]
    return chosen


def add_lora(model: nn.Module, settings: LoraSettings, seed: int) -> PeftModel:
    """Wraps the model; the base is frozen. The first factor is drawn from `seed`, the second is zero."""
    torch.manual_seed(seed)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=adapted_modules(model, settings),
        bias="none",
    )
    _use_one_node(config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by names that will be others in v6
        return get_peft_model(model, config)


def load_adapter(model: nn.Module, folder: Path, trainable: bool = False) -> PeftModel:
    """Puts a saved adapter on a freshly loaded base. Raises ThroughlineError unless each saved weight found its place
    and each place its weight: peft would pass over a mismatch with a warning."""
    file = folder / ADAPTER_WEIGHTS
    if not file.is_file():
        raise ThroughlineError("no adapter here", folder, f"name the folder that holds {ADAPTER_WEIGHTS}")
    try:
        with safe_open(file, "pt") as saved:
            shapes = {name: tuple(saved.get_slice(name).get_shape()) for name in saved.keys()}  # noqa: SIM118
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what they would say is checked below
            config = PeftConfig.from_pretrained(str(folder))
            _use_one_node(config)
            wrapped = PeftModel.from_pretrained(
                model, str(folder), is_trainable=trainable, config=config, use_safetensors=True
            )
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0]
        raise ThroughlineError(f"the adapter does not fit this model: {first}", folder, _OWN_BASE) from error
    places = {name: tuple(value.shape) for name, value in get_peft_model_state_dict(wrapped).items()}
    if places != shapes:
        strangers = sorted(set(places.items()) ^ set(shapes.items()))
        raise ThroughlineError(
            f"the adapter does not fit this model: {len(strangers)} weights have no place, e.g. {strangers[0][0]}",
            folder,
            _OWN_BASE,
        )
    return wrapped


def _use_one_node(config: Any) -> None:
    layers: dict[type[nn.Module], type[nn.Module]] = {}
    if is_bnb_4bit_available():
        from bitsandbytes.nn import Linear4bit
        from peft.tuners.lora import Linear4bit as LoraLinear4bit

        layers[Linear4bit] = LoraLinear4bit  # is a Linear too, whose weight no product of ours can read
    layers[nn.Linear] = LoraLinear  # the first that fits is taken
    config._register_custom_module(layers)  # peft's documented, if underscored, way


@contextlib.contextmanager
def folded(model: nn.Module) -> Iterator[None]:
    """Adapters folded into fp32 base weights inside, for asking only: a product a layer instead of three. Afterwards
    the base is what it was, to the bit. In half precision folding would round away what was learnt: nothing happens."""
    layers = [m for m in model.modules() if isinstance(m, LoraLinear) and not (m.merged or m.disable_adapters)]
    layers = [layer for layer in layers if layer.get_base_layer().weight.dtype == torch.float32]
    kept = [layer.get_base_layer().weight.data for layer in layers]
    try:
        for layer, weight in zip(layers, kept, strict=True):
            layer.get_base_layer().weight.data = weight.clone()
            layer.merge()
        yield
    finally:
        for layer, weight in zip(layers, kept, strict=True):
            if layer.merged:
                layer.unmerge()
            layer.get_base_layer().weight.data = weight


def put_adapter(model: PeftModel, folder: Path) -> None:
    """Puts saved weights into an adapter of the same shape, in place."""
    set_peft_model_state_dict(model, load_file(str(folder / ADAPTER_WEIGHTS)))


def save_adapter(model: PeftModel, folder: Path) -> None:
    """Adapter weights, their config and the list of adapted modules: equal adapters make equal files."""
    model.save_pretrained(str(folder), safe_serialization=True)
    (folder / "README.md").unlink(missing_ok=True)  # peft's empty card
    # peft writes the base's place on this machine, and sets in an order that changes with every process
    config = json.loads((folder / "adapter_config.json").read_text()) | {"base_model_name_or_path": None}
    config["target_modules"] = sorted(config["target_modules"])
    write_json(folder / "adapter_config.json", config)
    write_json(folder / "adapted_modules.json", sorted(model.targeted_module_names))


def adapter_fingerprint(model: PeftModel) -> str:
    """Content hash of the adapter's weights, to see that training changed them."""
    sums = {n: p.detach().double().sum().item() for n, p in model.named_parameters() if "lora_" in n}
    return content_hash({n: f"{value:.17g}" for n, value in sums.items()})


def _tower(model: nn.Module, tower: str) -> list[tuple[str, nn.Module]]:
    names = VISION_NAMES if tower == "vision" else ("language_model",)
    return [(n, m) for n, m in model.named_modules() if any(part in names for part in n.split(".")) and m is not None]


def base_of(model: Any) -> Any:
    """The transformers model itself, LoRA layers in place, whatever wraps it."""
    return model.get_base_model() if isinstance(model, PeftModel) else model
