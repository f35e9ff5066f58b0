"""Entropy and divergences of distributions given by their logarithms, in nats, over the last axis. A probability of
zero is a logarithm of minus infinity, and counts exactly."""

import math

import torch
from torch import Tensor


def entropy(log_p: Tensor) -> Tensor:
    """H(p) = - sum p log p."""
    return torch.as_tensor(torch.special.entr(log_p.exp()).sum(-1))


def kl_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p, q) = sum p (log p - log q): infinite where q lacks something that p has."""
    p = log_p.exp()
    return torch.where(p > 0, p * (log_p - log_q), 0).sum(-1)


def js_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """JSD(p, q), the mean of both divergences from (p + q) / 2; 0 to log 2."""
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    return (kl_divergence(log_p, log_m) + kl_divergence(log_q, log_m)) / 2
