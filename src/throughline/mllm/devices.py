"""Where to compute, by the name that configs and options give it. Called before a checkpoint is loaded."""

import torch

from throughline.core.errors import ThroughlineError


def pick_device(name: str) -> str:
    """`cpu` or `cuda` for `auto`, `cpu` or `cuda`; ThroughlineError when a GPU is asked for and there is none."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ThroughlineError("no CUDA device here", None, "use the device `cpu` or `auto`")
    return name


def device_name(device: torch.device) -> str:
    """What a run notes of where it computed: `cpu`, or the name of the card."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
