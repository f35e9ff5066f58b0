"""A linear layer and its LoRA in one autograd node.

    y = x W' + bias + s (x A') B'

peft computes the same in five operations, each bound by memory on tall, narrow matrices. The node therefore adds the
low-rank part into the layer's own output, and its gradient into the input's gradient. It keeps the narrow matrices
transposed, `(r, tokens)`, which matrix libraries multiply several times as fast, and of a dropout only the mask. `lora`
has peft use it.
"""

from contextlib import AbstractContextManager
from typing import Any

import torch
from peft.tuners import lora
from torch import Tensor, nn

from throughline.mllm.switches import switched


class LoraLinear(lora.Linear):
    """peft's layer, computed in one node where a single plain adapter is active; peft's own way in every other case.

    On a base in half precision the factors stay in float32, as peft keeps them, and multiply in half precision.
    """

    one_node = True

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """`(..., in)` to `(..., out)`."""
        name = self._in_one_node(x)
        if name is None or args or kwargs:
            return torch.as_tensor(super().forward(x, *args, **kwargs))
        base, dropout = self.get_base_layer(), self.lora_dropout[name]
        share = dropout.p if isinstance(dropout, nn.Dropout) and dropout.training else 0.0
        factors = self.lora_A[name].weight, self.lora_B[name].weight
        return torch.as_tensor(_LinearWithLora.apply(x, base.weight, base.bias, *factors, self.scaling[name], share))

    def _in_one_node(self, x: Tensor) -> str | None:
        """The adapter's name, or None."""
        if not self.one_node or self.merged or self.disable_adapters or len(self.active_adapters) != 1:
            return None
        name = str(self.active_adapters[0])
        if name not in self.lora_A or name in self.lora_variant or self.lora_bias[name]:
            return None
        one_type = x.dtype == self.get_base_layer().weight.dtype
        return name if one_type and not torch.is_autocast_enabled(x.device.type) else None


def in_pefts_way(model: nn.Module) -> AbstractContextManager[None]:
    """Every layer of the model computes in peft's own way inside: for comparison."""
    return switched([module for module in model.modules() if isinstance(module, LoraLinear)], "one_node", False)


class _LinearWithLora(torch.autograd.Function):
    """Input `x` (..., in), `weight` (out, in), `bias` (out,) or None, `a` (r, in), `b` (out, r), scale `s`, and the
    share of the first factor's input that is dropped. Weight and bias are frozen: they get no gradient."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, s: float, share: float
    ) -> Tensor:
        flat = x.flatten(0, -2)
        mask = torch.empty_like(flat, dtype=torch.bool).bernoulli_(1 - share) if share else None
        small_a, small_b = a.to(x.dtype), b.to(x.dtype)
        narrow = small_a @ _drop(flat, mask, share).t()  # (r, tokens)
        y = torch.nn.functional.linear(flat, weight, bias)
        torch.addmm(y, narrow.t(), small_b.t(), alpha=s, out=y)
        ctx.save_for_backward(flat, mask, narrow, weight, a, b)
        ctx.s, ctx.share = s, share
        return y.view(*x.shape[:-1], len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        flat, mask, narrow, weight, a, b = ctx.saved_tensors
        dy = gradients[0].flatten(0, -2)
        small_a, small_b = a.to(flat.dtype), b.to(flat.dtype)
        d_narrow = (small_b.t() @ dy.t()).mul_(ctx.s)  # (r, tokens)
        da = (d_narrow @ _drop(flat, mask, ctx.share)).to(a.dtype) if ctx.needs_input_grad[3] else None
        db = (narrow @ dy).t().mul(ctx.s).to(b.dtype) if ctx.needs_input_grad[4] else None
        dx = None
        if ctx.needs_input_grad[0]:
            dx = dy @ weight
            if mask is None:
                torch.addmm(dx, d_narrow.t(), small_a, out=dx)
            else:
                dx += _drop(d_narrow.t() @ small_a, mask, ctx.share)
            dx = dx.view(*gradients[0].shape[:-1], -1)
        return dx, None, None, da, db, None, None


def _drop(x: Tensor, mask: Tensor | None, share: float) -> Tensor:
    """`x` after dropout by the mask, scaled so that its mean stays."""
    return x if mask is None else (x * mask).mul_(1 / (1 - share))
