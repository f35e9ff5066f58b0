"""The language-model head at marked positions, a bounded number of logits at a time.

    nll[i] = logsumexp(h W') - (h W')[target]

A batch's logits at once would be marked positions x vocabulary, gigabytes with 150,000 words. The head is frozen and an
NLL depends on one hidden state only, so its gradient is computed where its logits are and scaled later: nothing of size
vocabulary is kept, and nothing is computed twice. `forward` calls this.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from throughline.mllm import sizes


def marked_nll(hidden: Tensor, head: Any, rows: Tensor, targets: Tensor) -> Tensor:
    """`(n, width)` hidden states and, for each of m scored tokens, its row among them and its id: `(m,)` NLL, float32.

    `head` is the frozen linear layer; gradients flow into `hidden` only.
    """
    return torch.as_tensor(_MarkedNll.apply(hidden, head.weight, head.bias, rows, targets))


class _MarkedNll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, rows: Tensor, targets: Tensor) -> Tensor:
        wanted = ctx.needs_input_grad[0]
        expected = torch.empty_like(hidden) if wanted else None  # the head's rows, averaged by probability
        nll = torch.empty(len(rows), dtype=torch.float32, device=hidden.device)
        for start, logits in _chunks(hidden, weight, bias):
            stop = start + len(logits)
            here = ((rows >= start) & (rows < stop)).nonzero()[:, 0]
            normaliser = torch.logsumexp(logits, dim=-1)
            nll[here] = normaliser[rows[here] - start] - logits[rows[here] - start, targets[here]]
            if expected is not None:
                probabilities = logits.sub_(normaliser[:, None]).exp_()
                expected[start:stop] = probabilities.to(weight.dtype) @ weight
        if expected is not None:
            ctx.save_for_backward(expected, weight, rows, targets)
        return nll

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        expected, weight, rows, targets = ctx.saved_tensors
        outer = gradients[0].to(expected.dtype)
        of_row = torch.zeros(len(expected), dtype=expected.dtype, device=expected.device).index_add_(0, rows, outer)
        gradient = expected * of_row[:, None]
        gradient.index_add_(0, rows, weight[targets] * -outer[:, None])
        return gradient, None, None, None, None


def _chunks(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Iterator[tuple[int, Tensor]]:
    size = max(1, sizes.LOGITS_AT_ONCE // len(weight))
    for start in range(0, len(hidden), size):
        yield start, linear(hidden[start : start + size], weight, bias).float()
