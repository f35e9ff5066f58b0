"""The language-model head at marked positions, a bounded number of logits at a time.

    nll[i] = logsumexp(h W') - (h W')[target]

A batch's logits at once would be marked positions x vocabulary, gigabytes with 150,000 words. The head is frozen and an
NLL depends on one hidden state only, so its gradient is computed where its logits are and scaled later: nothing of size
vocabulary is kept, and no product is computed twice. `forward` calls this.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

LOGITS_AT_ONCE = 1 << 24
"""That are computed: 64 MiB of float32; a hundred positions of a vocabulary of 150,000."""


def marked_nll(hidden: Tensor, head: Any, rows: Tensor, targets: Tensor) -> Tensor:
    """`(n, width)` hidden states and, for each of m scored tokens, its row among them and its id: `(m,)` NLL, float32.

    `head` is the frozen linear layer; gradients flow into `hidden` only.
    """
    return torch.as_tensor(_MarkedNll.apply(hidden, head.weight, head.bias, rows, targets))


@torch.no_grad()
def marked_measures(hidden: Tensor, head: Any, rows: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """`(m,)` NLL as `marked_nll` gives it and `(m,)` entropy of the distribution it is of, in nats; both float32.

    H = logsumexp(z) - sum_v softmax(z)_v z_v
    """
    nll, entropy = (torch.empty(len(rows), dtype=torch.float32, device=hidden.device) for _ in range(2))
    for chunk in _chunks(rows, len(head.weight)):
        positions, row = torch.unique(rows[chunk], return_inverse=True)
        logits = linear(hidden[positions], head.weight, head.bias).float()
        nll[chunk], entropy[chunk] = measures_of(logits, row, targets[chunk])
    return nll, entropy


def nll_of(logits: Tensor, rows: Tensor, targets: Tensor) -> Tensor:
    """The NLL that `marked_nll` gives, from `(n, vocabulary)` logits."""
    return torch.logsumexp(logits, dim=-1)[rows] - logits[rows, targets]


def measures_of(logits: Tensor, rows: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """What `marked_measures` gives, from `(n, vocabulary)` logits."""
    normaliser = torch.logsumexp(logits, dim=-1)
    expected = (torch.softmax(logits, dim=-1) * logits).sum(dim=-1)
    return normaliser[rows] - logits[rows, targets], (normaliser - expected)[rows]


class _MarkedNll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, rows: Tensor, targets: Tensor) -> Tensor:
        slopes = hidden.new_empty(len(rows), hidden.shape[1]) if ctx.needs_input_grad[0] else None
        nll = torch.empty(len(rows), dtype=torch.float32, device=hidden.device)
        for chunk in _chunks(rows, len(weight)):
            positions, row = torch.unique(rows[chunk], return_inverse=True)
            logits = linear(hidden[positions], weight, bias).float()
            normaliser = torch.logsumexp(logits, dim=-1)
            nll[chunk] = normaliser[row] - logits[row, targets[chunk]]
            if slopes is not None:
                # probability minus one at the target, in float32: where the model is sure they all but cancel
                slope = logits.sub_(normaliser[:, None]).exp_()[row]
                slope[torch.arange(len(row), device=row.device), targets[chunk]] -= 1
                slopes[chunk] = (slope.to(weight.dtype) @ weight).to(slopes.dtype)
        if slopes is not None:
            ctx.save_for_backward(slopes, rows)
            ctx.positions = len(hidden)
        return nll

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        slopes, rows = ctx.saved_tensors
        scaled = slopes * gradients[0][:, None]  # float32, whatever the slopes are
        gradient = scaled.new_zeros(ctx.positions, slopes.shape[1]).index_add_(0, rows, scaled)
        return gradient.to(slopes.dtype), None, None, None, None


def _chunks(rows: Tensor, vocabulary: int) -> tuple[Tensor, ...]:
    """Scored tokens in parts of a bounded number of logits, those of a position together as far as may be."""
    return rows.argsort(stable=True).split(max(1, LOGITS_AT_ONCE // vocabulary))
