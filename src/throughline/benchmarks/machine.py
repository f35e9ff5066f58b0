"""What of machine and libraries decides the times: torch's threads while a bench runs, and the lines that say so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import transformers

from throughline.mllm.lora import base_of


@contextmanager
def on_threads(count: int | None) -> Iterator[None]:
    """`count` torch threads inside, torch's own number for None; afterwards as it was."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def machine_settings(model: Any) -> dict[str, Any]:
    """For a row's settings."""
    base = base_of(model)
    return {
        "threads": torch.get_num_threads(),
        "device": base.device.type,
        "dtype": str(base.dtype).removeprefix("torch."),
        "attention": base.config._attn_implementation,
        "torch": str(torch.__version__),
        "transformers": str(transformers.__version__),
    }
