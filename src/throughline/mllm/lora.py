"""LoRA on both towers, as in the paper (rank 8 in vision encoder and decoder): added, loaded, folded, saved.

Alpha 16 and dropout 0.05 are OpenGVLab/InternVL's own fine-tuning defaults (alpha = 2 r); the paper leaves them open.
"""

import contextlib
import json
import logging
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
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

logger = logging.getLogger(__name__)
_warn_once = cache(logger.warning)

VISION_NAMES = ("vision_tower", "visual", "vision_model")
"""What transformers' families call their vision encoder."""

DECODER_NAMES = ("language_model", "text_model")
"""What they call their decoder."""

ADAPTER_WEIGHTS = "adapter_model.safetensors"
_OWN_BASE = "load it on the checkpoint it was trained on"


def adapted_modules(model: nn.Module, settings: LoraSettings) -> list[str]:
    """Full names of the layers that the settings choose, of those in `_layers`. ThroughlineError for a name that none
    of them has."""
    vision = _matching_layers(model, "vision", VISION_NAMES, settings.vision)
    return list(dict.fromkeys([*vision, *_matching_layers(model, "decoder", DECODER_NAMES, settings.decoder)]))


def left_frozen(model: nn.Module, settings: LoraSettings) -> dict[str, int]:
    """How many weights `*` does not reach in the layers of a tower, such as the experts of a mixture and convolutions
    of single channels; by name, `*` for the layers' numbers."""
    towers = {*(VISION_NAMES if "*" in settings.vision else ()), *(DECODER_NAMES if "*" in settings.decoder else ())}
    reached = {*_layers(model, VISION_NAMES), *_layers(model, DECODER_NAMES)}
    frozen: Counter[str] = Counter()
    for name, weight in model.named_parameters():
        owner, in_layers = name.rpartition(".")[0], re.sub(r"\.\d+(?=\.)", ".*", name)
        if weight.ndim > 1 and in_layers != name and not towers.isdisjoint(name.split(".")):
            frozen[in_layers] += 0 if owner in reached else weight.numel()
    return dict(+frozen)


def _layers(model: nn.Module, tower_names: tuple[str, ...]) -> list[str]:
    """A tower's linear layers; where it has none, its convolutions, but no grouped ones: their adapters cannot be
    merged."""
    inside = [(name, m) for name, m in model.named_modules() if not set(tower_names).isdisjoint(name.split("."))]
    linear = [name for name, module in inside if isinstance(module, nn.Linear)]
    return linear or [name for name, m in inside if isinstance(m, nn.Conv2d) and m.groups == 1]


def _matching_layers(
    model: nn.Module, tower: str, tower_names: tuple[str, ...], patterns: Sequence[str]
) -> Iterator[str]:
    layers = _layers(model, tower_names)
    for pattern in patterns:
        matching = [name for name in layers if pattern in ("*", name.rsplit(".", 1)[-1])]
        if not matching:
            known = sorted({name.rsplit(".", 1)[-1] for name in layers})
            raise ThroughlineError(
                f"LoRA: no linear layer {pattern!r} in the {tower} tower", do=f"choose from {', '.join(known)}"
            )
        yield from matching


def add_lora(model: nn.Module, settings: LoraSettings, seed: int) -> PeftModel:
    """Wraps the model; the base is frozen. The first factor is drawn from `seed`, the second is zero. A line names what
    `*` does not reach."""
    if frozen := left_frozen(model, settings):
        _warn_once(f"LoRA leaves {sum(frozen.values()):,} weights of other layers frozen: {', '.join(frozen)}")
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
    """Puts a saved adapter on a freshly loaded base. Raises ThroughlineError unless saved weights and those of the new
    layers have the same names and shapes: peft only warns of a mismatch."""
    file = folder / ADAPTER_WEIGHTS
    if not file.is_file():
        raise ThroughlineError("no adapter here", folder, f"name the folder with {ADAPTER_WEIGHTS} in it")
    try:
        with safe_open(file, "pt") as saved:
            saved_shapes = {name: tuple(saved.get_slice(name).get_shape()) for name in saved.keys()}  # noqa: SIM118
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is checked below
            config = PeftConfig.from_pretrained(str(folder))
            _use_one_node(config)
            wrapped = PeftModel.from_pretrained(
                model, str(folder), is_trainable=trainable, config=config, use_safetensors=True
            )
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ThroughlineError(f"the adapter does not fit this model: {reason}", folder, _OWN_BASE) from error
    weights = get_peft_model_state_dict(wrapped)
    if broken := sorted(name for name, value in weights.items() if not value.isfinite().all()):
        what = f"the adapter has weights that are not numbers, e.g. {broken[0]}: its training diverged"
        raise ThroughlineError(what, folder, "train it again with a lower learning rate")
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    if unmatched := sorted(set(shapes.items()) ^ set(saved_shapes.items())):
        reason = f"{len(unmatched)} weights have no place, e.g. {unmatched[0][0]}"
        raise ThroughlineError(f"the adapter does not fit this model: {reason}", folder, _OWN_BASE)
    return wrapped


def _use_one_node(config: Any) -> None:
    """Has peft put `LoraLinear` around linear layers."""
    layers: dict[type[nn.Module], type[nn.Module]] = {}
    if is_bnb_4bit_available():
        from bitsandbytes.nn import Linear4bit
        from peft.tuners.lora import Linear4bit as LoraLinear4bit

        layers[Linear4bit] = LoraLinear4bit  # a Linear too, but our products cannot read its weight
    layers[nn.Linear] = LoraLinear  # peft takes the first that fits
    config._register_custom_module(layers)  # documented by peft, in spite of the underscore


@contextlib.contextmanager
def folded(model: nn.Module) -> Iterator[None]:
    """Adapters folded into fp32 base weights inside, without gradients: a product a layer instead of three. Afterwards
    the base is what it was, to the bit. In half precision folding would round away what was learnt: nothing happens."""
    layers = [m for m in model.modules() if isinstance(m, LoraLinear) and not (m.merged or m.disable_adapters)]
    layers = [layer for layer in layers if layer.get_base_layer().weight.dtype == torch.float32]
    weights = [layer.get_base_layer().weight.data for layer in layers]
    try:
        for layer, weight in zip(layers, weights, strict=True):
            layer.get_base_layer().weight.data = weight.clone()
            layer.merge()
        yield
    finally:
        for layer, weight in zip(layers, weights, strict=True):
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
    """Hash of the adapter's weights, to see that training changed them."""
    sums = {n: p.detach().double().sum().item() for n, p in model.named_parameters() if "lora_" in n}
    return content_hash({n: f"{value:.17g}" for n, value in sums.items()})


def base_of(model: Any) -> Any:
    """The transformers model itself, LoRA layers in place, whatever wraps it."""
    return model.get_base_model() if isinstance(model, PeftModel) else model
