"""A linear layer and its LoRA in one autograd node.

    y = x W' + bias + s (x A') B'

peft computes the same in five operations. On tall, narrow matrices each of them is bound by memory, so the node adds
the low-rank part into the layer's own output and its gradient into the input's gradient. `lora` asks peft to use it.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners import lora
from torch import Tensor


class LoraLinear(lora.Linear):
    """peft's layer, computed in one node where a single plain adapter is active and all weights are of one type; peft's
    own way in every other case."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """`(..., in)` to `(..., out)`."""
        name = self._in_one_node(x)
        if name is None or args or kwargs:
            return torch.as_tensor(super().forward(x, *args, **kwargs))
        dropped = self.lora_dropout[name](x)
        factors = self.lora_A[name].weight, self.lora_B[name].weight
        base = self.get_base_layer()
        y = _LinearWithLora.apply(
            x, None if dropped is x else dropped, base.weight, base.bias, *factors, self.scaling[name]
        )
        return torch.as_tensor(y)

    def _in_one_node(self, x: Tensor) -> str | None:
        """The adapter's name, or None."""
        if self.merged or self.disable_adapters or len(self.active_adapters) != 1:
            return None
        name = str(self.active_adapters[0])
        if name not in self.lora_A or name in self.lora_variant or self.lora_bias[name]:
            return None
        one_type = x.dtype == self.get_base_layer().weight.dtype == self.lora_A[name].weight.dtype
        return name if one_type and not torch.is_autocast_enabled(x.device.type) else None


class _LinearWithLora(torch.autograd.Function):
    """Inputs `x` (..., in), `dropped` (what the first factor sees, None where that is x), `weight` (out, in), `bias`
    (out,) or None, `a` (r, in), `b` (out, r), scale `s`. Weight and bias are frozen: they get no gradient."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, dropped: Tensor | None, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, s: float
    ) -> Tensor:
        seen = (x if dropped is None else dropped).flatten(0, -2)
        narrow = seen @ a.t()
        y = torch.nn.functional.linear(x.flatten(0, -2), weight, bias)
        torch.addmm(y, narrow, b.t(), alpha=s, out=y)
        ctx.save_for_backward(seen, narrow, weight, a, b)
        ctx.s, ctx.with_dropout = s, dropped is not None
        return y.view(*x.shape[:-1], len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        seen, narrow, weight, a, b = ctx.saved_tensors
        shape = gradients[0].shape[:-1]
        dy = gradients[0].flatten(0, -2)
        d_narrow = (dy @ b).mul_(ctx.s)
        da = d_narrow.t() @ seen if ctx.needs_input_grad[4] else None
        db = (dy.t() @ narrow).mul_(ctx.s) if ctx.needs_input_grad[5] else None
        dx = dy @ weight if ctx.needs_input_grad[0] else None
        d_dropped = None
        if ctx.with_dropout:
            d_dropped = (d_narrow @ a).view(*shape, -1) if ctx.needs_input_grad[1] else None
        elif dx is not None:
            torch.addmm(dx, d_narrow, a, out=dx)
        return dx if dx is None else dx.view(*shape, -1), d_dropped, None, None, da, db, None
