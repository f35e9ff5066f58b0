"""The head chunk by chunk against all logits at once: values and gradients, also where a position predicts several."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from throughline.mllm import head as head_module
from throughline.mllm.head import marked_nll

ROWS = torch.tensor([3, 0, 0, 6, 2, 3, 3])
TARGETS = torch.tensor([1, 29, 4, 4, 0, 17, 1])


def head_of(bias: bool) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(5, 30, bias=bias).double().requires_grad_(False)


def states() -> Tensor:
    return torch.randn(7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("positions", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("bias", [True, False])
def test_chunks_give_the_nll_and_gradient_of_all_logits_at_once(
    positions: int, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_module, "LOGITS_AT_ONCE", 30 * positions)
    head, ours, theirs = head_of(bias), states().requires_grad_(), states().requires_grad_()
    found = marked_nll(ours, head, ROWS, TARGETS)
    expected = F.cross_entropy(head(theirs)[ROWS], TARGETS, reduction="none")
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-6)
    outer = torch.linspace(-1, 2, len(ROWS))
    (found * outer).sum().backward()
    (expected * outer).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-7, rtol=1e-6)


def test_a_chunk_is_never_empty_whatever_the_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_module, "LOGITS_AT_ONCE", 7)  # smaller than one row of logits
    head = head_of(True)
    expected = F.cross_entropy(head(states())[ROWS], TARGETS, reduction="none")
    torch.testing.assert_close(marked_nll(states(), head, ROWS, TARGETS).double(), expected, atol=1e-6, rtol=1e-6)


def test_without_gradients_the_head_is_multiplied_once_and_with_them_twice() -> None:
    head = head_of(False)
    logits, slopes = 2 * len(ROWS.unique()) * 5 * 30, 2 * len(ROWS) * 5 * 30
    with FlopCounterMode(display=False) as asked, torch.no_grad():
        marked_nll(states(), head, ROWS, TARGETS)
    with FlopCounterMode(display=False) as trained:
        marked_nll(states().requires_grad_(), head, ROWS, TARGETS).sum().backward()
    assert (asked.get_total_flops(), trained.get_total_flops()) == (logits, logits + slopes)


def test_in_half_precision_a_token_that_is_all_but_certain_keeps_its_small_gradient() -> None:
    """p = 0.999: the head's average row and the target's all but cancel, and must not be rounded apart."""
    head = nn.Linear(64, 200, bias=False).requires_grad_(False)
    torch.manual_seed(0)
    head.weight.data.normal_()
    aimed = 7.5 * head.weight[17] / head.weight[17].norm()
    gradients = []
    for dtype in (torch.float64, torch.bfloat16):
        rough = nn.Linear(64, 200, bias=False, dtype=dtype).requires_grad_(False)
        rough.weight.data.copy_(head.weight.bfloat16())
        state = aimed.bfloat16().to(dtype)[None].requires_grad_()
        nll = marked_nll(state, rough, torch.tensor([0]), torch.tensor([17]))
        nll.sum().backward()
        assert state.grad is not None
        gradients.append(state.grad.double())
        assert nll.item() < 0.01
    exact, found = gradients
    assert float((found - exact).norm() / exact.norm()) < 0.1
