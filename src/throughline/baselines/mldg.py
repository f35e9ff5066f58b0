"""MLDG, meta-learning of domain generalization (arXiv 1710.03463), in the first order as facebookresearch/DomainBed has
it (domainbed/algorithms.py)."""

from collections.abc import Sequence
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor

from throughline.baselines.network import Network
from throughline.baselines.settings import BaselineSettings
from throughline.core.errors import ThroughlineError


def mldg_gradients(
    network: Network, images: Sequence[Tensor], labels: Sequence[Tensor], settings: BaselineSettings
) -> float:
    """Leaves the gradient of a step in the network and returns the loss.

    Some domains, drawn at random, are for testing. For each of the others a copy of the network takes one step of Adam
    on its loss. The gradient is that of this loss, before the step, and `beta` times that of the loss of the copy,
    after the step, on a domain for testing. As in DomainBed the sum is divided by the number of all domains.
    """
    count, beta = len(images), settings.mldg.beta
    if count < 2:
        raise ThroughlineError("mldg needs at least two source domains", "methods", "leave it out")
    order = torch.randperm(count).tolist()
    tested = min(settings.mldg.meta_test, count - 1)
    value = 0.0
    for place, domain in enumerate(order[: count - tested]):
        other = order[count - tested + place % tested]
        ahead = deepcopy(network)
        before, after = list(network.parameters()), list(ahead.parameters())
        first = F.cross_entropy(ahead(images[domain])[1], labels[domain])
        gradients = torch.autograd.grad(first, after)
        optimizer = torch.optim.Adam(after, lr=settings.lr, weight_decay=settings.weight_decay)
        for weight, gradient in zip(after, gradients, strict=True):
            weight.grad = gradient.clone()
        optimizer.step()
        second = F.cross_entropy(ahead(images[other])[1], labels[other])
        for weight, own, later in zip(before, gradients, torch.autograd.grad(second, after), strict=True):
            weight.grad = (own + beta * later) / count + (0 if weight.grad is None else weight.grad)
        value += float(first.detach() + beta * second.detach()) / count
    return value
