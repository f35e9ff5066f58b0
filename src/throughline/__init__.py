"""Throughline fine-tunes multimodal LLMs with reasoning chains, for unseen image domains. Imports nothing heavy.

The names of `__all__` are for notebooks and scripts, and are loaded when they are first used (`docs/howto/python.md`).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from throughline.core.errors import ThroughlineError
    from throughline.domains.folders import read_images
    from throughline.door import ask, build_chains, fit, load_config, load_model, predict, report, run_experiment
    from throughline.drawn.world import write_world
    from throughline.runs.reader import read_run

__version__ = "0.1.0"

__all__ = [
    "ThroughlineError",
    "ask",
    "build_chains",
    "fit",
    "load_config",
    "load_model",
    "predict",
    "read_images",
    "read_run",
    "report",
    "run_experiment",
    "write_world",
]

_MODULES = {
    "ThroughlineError": "throughline.core.errors",
    "read_images": "throughline.domains.folders",
    "read_run": "throughline.runs.reader",
    "write_world": "throughline.drawn.world",
}
"""Where a name lives; those that are not here are functions of `door`."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES.get(name, "throughline.door")), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
