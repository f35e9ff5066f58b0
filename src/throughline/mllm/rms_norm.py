"""Root-mean-square norms with a frozen weight, in one autograd node.

    y = w x / sqrt(mean(x^2) + eps)

transformers computes it in five operations and keeps an intermediate of each for the backward pass, the gradient of a
weight that never changes among what it is ready for. The node keeps the input, which the residual stream keeps anyway,
and one number a token. `load` puts it into a model; whether a module is such a norm is found by trying.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn


def use_nodes(model: nn.Module) -> int:
    """Puts the node into every norm that computes the same, in place; returns how many."""
    found = [module for module in model.modules() if _is_such_a_norm(module)]
    for module in found:
        module.forward = MethodType(_forward, module)
    return len(found)


def use_own(model: nn.Module) -> list[nn.Module]:
    """Gives every norm its own way back; returns those that had the node."""
    norms = [m for m in model.modules() if getattr(m.__dict__.get("forward"), "__func__", None) is _forward]
    for norm in norms:
        del norm.forward
    return norms


@contextmanager
def in_own_way(model: nn.Module) -> Iterator[None]:
    """Every norm computes in its own way inside: for rivals, and to see what the node is worth."""
    norms = use_own(model)
    try:
        yield
    finally:
        for norm in norms:
            norm.forward = MethodType(_forward, norm)


def _forward(self: Any, hidden_states: Tensor) -> Tensor:
    if self.weight.requires_grad:
        return torch.as_tensor(type(self).forward(self, hidden_states))
    return torch.as_tensor(_RmsNorm.apply(hidden_states, self.weight, self.variance_epsilon))


@torch.no_grad()
def _is_such_a_norm(module: nn.Module) -> bool:
    weight, epsilon = getattr(module, "weight", None), getattr(module, "variance_epsilon", None)
    if not isinstance(weight, Tensor) or weight.ndim != 1 or not isinstance(epsilon, float) or weight.is_meta:
        return False
    if len(inspect.signature(module.forward).parameters) != 1:  # Qwen3.5 has norms with a gate
        return False
    x = torch.linspace(-3, 2, 2 * len(weight), device=weight.device, dtype=weight.dtype).view(2, -1)
    expected = module(x)
    rounding = 1e-5 if weight.dtype == torch.float32 else 2e-2  # two roundings of a bfloat16 lie that far apart
    return expected.shape == x.shape and torch.allclose(_RmsNorm.apply(x, weight, epsilon), expected, rtol=rounding)


class _RmsNorm(torch.autograd.Function):
    """As transformers: normalised in float32, multiplied by the weight in the input's type."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        wide = x.float()
        length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        scale = length.square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (wide * scale).to(x.dtype).mul_(weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        wide, outer = x.float(), (gradients[0] * weight).float()
        along = torch.linalg.vecdot(outer, wide).unsqueeze(-1) * scale.pow(3) / x.shape[-1]
        return outer.mul_(scale).addcmul_(wide, along, value=-1).to(x.dtype), None, None
