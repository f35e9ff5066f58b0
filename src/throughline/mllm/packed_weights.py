"""Large frozen weights packed once for many products with few rows, as in decoding on a CPU.

A product of eight rows with a weight that no cache holds should cost what reading the weight costs. MKL, which torch
calls for float32, took three times as long as oneDNN, which torch brings along, with the weight in blocks; that was on
an AMD EPYC, other processors were not tried. Packing costs about what ten steps save. `sampling` calls this.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from throughline.mllm.lora import base_of

STEPS = 32
"""Tokens a row from which packing is worth it."""

LEAST = 2 << 20
"""Bytes of a weight from which packing is worth it: those of 1 MiB gain less, those of some 100 kB lose."""

MOST = 2 << 30
"""Bytes of all packed weights, which are in memory twice meanwhile. Of a larger model none is packed."""


@contextmanager
def packed_weights(model: Any, steps: int) -> Iterator[int]:
    """Linear layers of the decoder and its head compute with packed copies of their weights inside, where that is worth
    it for `steps` steps; yields their number. No gradient passes."""
    layers = _worth_packing(model) if steps >= STEPS else []
    try:
        for layer in layers:
            layer.packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), None)
            layer.forward = MethodType(_forward, layer)
        yield len(layers)
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)
            layer.__dict__.pop("packed", None)


def _forward(self: Any, x: Tensor) -> Tensor:
    return torch.as_tensor(torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], ""))


def _worth_packing(model: Any) -> list[Any]:
    if not torch.backends.mkldnn.is_available():
        return []
    base = base_of(model)
    layers = [
        layer
        for layer in (*base.get_decoder().modules(), base.get_output_embeddings())
        if type(layer) is nn.Linear  # a quantised one has its own product, an adapted one holds its base inside
        and layer.weight.device.type == "cpu"
        and layer.weight.dtype == torch.float32
        and layer.weight.nbytes >= LEAST
    ]
    return layers if sum(layer.weight.nbytes for layer in layers) <= MOST else []
