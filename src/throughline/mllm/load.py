"""A loaded checkpoint: any Hugging Face image-text-to-text model, from a folder, from the package, or from the hub
where that is allowed. No remote code, safetensors only. `pocket` ships with the package, `smol` is put together
from others; nothing here depends on which of them it is.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
from transformers.utils import logging as transformers_logging

from throughline.core.errors import ThroughlineError
from throughline.core.settings import ModelSettings, Quantization
from throughline.mllm.batch import TreeBatch
from throughline.mllm.chat import Chat, PositionsOf
from throughline.mllm.checkpoints import checkpoint_name, checkpoint_source, fingerprint_checkpoint, resolve_revision
from throughline.mllm.devices import pick_device
from throughline.mllm.lora import base_of, folded
from throughline.mllm.plan import Plan, choose_plan
from throughline.mllm.quantization import compute_alike, opening_options
from throughline.mllm.self_check import check_once
from throughline.mllm.switches import switched
from throughline.mllm.tree import Tree

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass
class Mllm:
    """A loaded model with the chat that renders for it. `name` is what results show, `fingerprint` its content."""

    model: Any
    chat: Chat
    plan: Plan
    name: str
    fingerprint: str
    quantization: Quantization = "none"

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return torch.device(self.model.device)

    @property
    def end_ids(self) -> list[int]:
        """The tokens that end a turn: those that the checkpoint names, and that of its chat template."""
        named = base_of(self.model).generation_config.eos_token_id
        known = list(named) if isinstance(named, list | tuple) else [] if named is None else [named]
        return list(dict.fromkeys([*known, self.chat.end_of_turn_id]))

    def collate(self, rows: Sequence[Sequence[Tree]]) -> TreeBatch:
        """Trees as one call of this model takes them; several may share a row."""
        return self.plan.collate(rows, self.chat.pad_id)

    @contextlib.contextmanager
    def evaluating(self, fold: bool = True) -> Iterator[None]:
        """Evaluation mode for every module inside, afterwards as it was: an answer must not depend on who called last.
        With `fold`, adapters are folded into the weights meanwhile."""
        with (
            switched(self.model.modules(), "training", False),
            folded(self.model) if fold else contextlib.nullcontext(),
        ):
            yield


def load_mllm(
    name: str,
    *,
    tiles: int = 1,
    dtype: str = "float32",
    device: str = "cpu",
    hub: bool = False,
    revision: str | None = None,
    quantization: Quantization = "none",
) -> Mllm:
    """Loads checkpoint `name` (`pocket`, `smol`, a folder, or with `hub=True` a hub name, at a `revision`) to infer or
    train.

    Raises ThroughlineError, in one line, when it is no folder or no image-text model, holds pickled weights only, its
    weights are damaged or incomplete, or cannot be quantised, and when its numbers here are not those of its own model
    and processor (`self_check`).
    """
    source, commit = checkpoint_source(name, hub), resolve_revision(name, hub, revision)
    transformers_logging.disable_progress_bar()  # the command line shows its own lines
    options: dict[str, Any] = {"revision": commit or "main", "trust_remote_code": False}
    with one_line_errors(name):
        config = AutoConfig.from_pretrained(source, **options)
    if config.model_type not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise ThroughlineError(
            f"a {config.model_type!r} checkpoint is not an image-text-to-text model",
            name,
            "use an InternVL -hf, Qwen-VL or LLaVA checkpoint",
        )
    quantized = opening_options(config, quantization, DTYPES[dtype], device, name)
    with one_line_errors(name):
        processor = AutoProcessor.from_pretrained(source, **options)
        model, loading = AutoModelForImageTextToText.from_pretrained(
            source,
            dtype=DTYPES[dtype],
            use_safetensors=True,
            attn_implementation="sdpa",
            output_loading_info=True,
            **options,
            **quantized,
        )
    if loading["missing_keys"]:  # transformers would draw them at random and go on
        missing = sorted(loading["missing_keys"])
        raise ThroughlineError(f"the checkpoint lacks {len(missing)} weights, e.g. {missing[0]}", name)
    if quantization != "none":
        compute_alike(model, name)
    model.requires_grad_(False)
    model.to(device).eval()
    fingerprint = fingerprint_checkpoint(name, commit)
    with one_line_errors(name):
        mllm = wrap_mllm(model, processor, checkpoint_name(name), fingerprint, tiles)
        identity = {"checkpoint": fingerprint, "tiles": tiles, "dtype": dtype, "device": torch.device(device).type}
        check_once(model, mllm.chat, mllm.plan, identity | {"quantization": quantization})
    return replace(mllm, quantization=quantization)


def open_checkpoint(model: ModelSettings) -> Mllm:
    """The checkpoint that settings name, without their adapter; raises as `load_mllm` does, or where a GPU is asked for
    and there is none."""
    return load_mllm(
        model.checkpoint,
        tiles=model.tiles,
        dtype=model.dtype,
        device=pick_device(model.device),
        hub=model.hub,
        revision=model.revision,
        quantization=model.quantization,
    )


def wrap_mllm(model: Any, processor: Any, name: str, fingerprint: str, tiles: int = 1) -> Mllm:
    """An `Mllm` around a model and processor that are already in memory. Its batch norms stay in evaluation mode, in
    training, too: an image's features must not depend on which others are in the batch."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_pre_hook(_keep_statistics)
    positions = positions_of(model, processor)
    chat = Chat(processor, model.config.image_token_id, positions, tiles)
    plan = choose_plan(model, chat.pad_id, 1 if positions is None else 3)
    return Mllm(model, chat, plan, name, fingerprint)


def _keep_statistics(module: nn.Module, _: Any) -> None:
    module.training = False


def positions_of(model: Any, processor: Any) -> PositionsOf | None:
    """The family's own position rule where it has one (multimodal RoPE); None means 0, 1, 2, ..."""
    inner = model.model
    if not hasattr(inner, "get_rope_index"):
        return None

    def positions(ids: torch.Tensor, images: dict[str, torch.Tensor]) -> torch.Tensor:
        kinds = torch.tensor(processor.create_mm_token_type_ids(ids.tolist()))
        grids = {k: v for k, v in images.items() if k.endswith("grid_thw")}
        return torch.as_tensor(inner.get_rope_index(ids, mm_token_type_ids=kinds, **grids)[0])[:, 0]

    return positions


@contextlib.contextmanager
def one_line_errors(name: str) -> Iterator[None]:
    """What is raised for a damaged or strange checkpoint, as a ThroughlineError of its first line."""
    try:
        yield
    except ThroughlineError as error:
        raise ThroughlineError(error.what, error.where or name, error.do) from error
    except Exception as error:  # of a family that nobody tried, it may be any
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ThroughlineError(f"cannot load the checkpoint: {reason}", name) from error
