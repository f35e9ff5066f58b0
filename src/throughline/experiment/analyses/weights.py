"""One loaded checkpoint, looked at as it was at one time after another."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from throughline.mllm.images import ImageReader
from throughline.mllm.load import Mllm
from throughline.mllm.lora import load_adapter, put_adapter


@dataclass
class Weights:
    """Loads when it is first needed: what is on disk already needs no model."""

    load: Callable[[], Mllm]
    adapted: Any = field(default=None, init=False)

    @cached_property
    def mllm(self) -> Mllm:
        """The checkpoint."""
        return self.load()

    @cached_property
    def reader(self) -> ImageReader:
        """Images on their way into it."""
        return ImageReader(self.mllm.chat)

    @contextlib.contextmanager
    def at(self, adapter: Path | None) -> Iterator[Mllm]:
        """The model with the adapter in this folder; None is the base."""
        if adapter is not None and self.adapted is None:
            self.adapted = load_adapter(self.mllm.model, adapter)
        elif adapter is not None:
            put_adapter(self.adapted, adapter)
        off = self.adapted.disable_adapter() if adapter is None and self.adapted is not None else None
        with off or contextlib.nullcontext():
            yield self.mllm
