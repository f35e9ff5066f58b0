"""The norm in one node against transformers' own: values, gradients, and what it is put into."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

from throughline.mllm.load import load_mllm
from throughline.mllm.rms_norm import in_own_way, use_nodes


def norm_of(dtype: torch.dtype) -> Any:
    module = Qwen2RMSNorm(6).to(dtype).requires_grad_(False)
    module.weight.data = torch.linspace(-1, 2, 6, dtype=dtype)
    return module


def passed(module: Any, dtype: torch.dtype) -> list[Tensor]:
    x = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    y = module(x)
    assert y.dtype == dtype
    (y.float() * torch.linspace(-1, 1, 6)).sum().backward()
    assert x.grad is not None
    return [y.detach(), x.grad]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_value_and_gradient_are_those_of_transformers(dtype: torch.dtype, tolerance: float) -> None:
    module = norm_of(dtype)
    expected = passed(module, dtype)
    assert use_nodes(module) == 1
    torch.testing.assert_close(passed(module, dtype), expected, atol=tolerance, rtol=tolerance)
    with in_own_way(module):
        assert all(a.equal(b) for a, b in zip(passed(module, dtype), expected, strict=True))
    assert "forward" in module.__dict__


def test_a_norm_that_computes_something_else_keeps_its_own_way() -> None:
    class Shifted(Qwen2RMSNorm):  # type: ignore[misc]
        """As Gemma has it: one is added to the weight."""

        def forward(self, hidden_states: Tensor) -> Tensor:
            return super().forward(hidden_states) / self.weight * (1 + self.weight)

    assert use_nodes(nn.Sequential(Shifted(6), nn.LayerNorm(6), nn.Linear(6, 6))) == 0


def test_a_norm_with_a_gate_keeps_its_own_way() -> None:
    class Gated(Qwen2RMSNorm):  # type: ignore[misc]
        def forward(self, hidden_states: Tensor, gate: Tensor) -> Tensor:
            return super().forward(hidden_states) * gate

    assert use_nodes(Gated(6)) == 0


def test_a_trained_weight_gets_its_gradient() -> None:
    module = norm_of(torch.float32)
    use_nodes(module)
    module.weight.requires_grad_()
    module(torch.ones(2, 6)).sum().backward()
    assert module.weight.grad is not None


def test_every_decoder_of_the_three_families_has_them(checkpoints: dict[str, Path], family: str) -> None:
    model = load_mllm(str(checkpoints[family])).model
    norms = [module for module in model.get_decoder().modules() if hasattr(module, "variance_epsilon")]
    assert len(norms) == 2 * len(model.get_decoder().layers) + 1
    assert all("forward" in norm.__dict__ for norm in norms)
