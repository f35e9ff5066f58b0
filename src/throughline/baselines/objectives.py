"""The losses of feature-level methods: pure functions of what a classifier makes of a step's images.

`LOSSES` has them by the name of the method; a method of a user's own brings its function. Those of facebookresearch/
DomainBed are followed in what they compute (domainbed/algorithms.py at b93c22a).
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from throughline.baselines.settings import BaselineSettings


@dataclass(frozen=True)
class Outputs:
    """What the classifier makes of the images of one step, domain by domain: features `(images, width)`, logits
    `(images, classes)`, and the labels `(images,)`."""

    features: Sequence[Tensor]
    logits: Sequence[Tensor]
    labels: Sequence[Tensor]


Loss: TypeAlias = Callable[[Outputs, BaselineSettings, int], Tensor]
"""A scalar, from the outputs, the settings and the number of the step, from 0."""


def erm(outputs: Outputs, settings: BaselineSettings, step: int) -> Tensor:
    """Empirical risk minimisation: the mean cross-entropy, every domain with the same weight."""
    pairs = zip(outputs.logits, outputs.labels, strict=True)
    return torch.stack([F.cross_entropy(logits, labels) for logits, labels in pairs]).mean()


def irm(outputs: Outputs, settings: BaselineSettings, step: int) -> Tensor:
    """Invariant risk minimisation (arXiv 1907.02893), version 1."""
    weight = settings.irm.weight if step >= settings.irm.anneal_steps else 1.0
    penalties = [irm_penalty(*pair) for pair in zip(outputs.logits, outputs.labels, strict=True)]
    return erm(outputs, settings, step) + weight * torch.stack(penalties).mean()


def irm_penalty(logits: Tensor, labels: Tensor) -> Tensor:
    """The squared gradient of a domain's cross-entropy by a scale of its logits, without bias: the product of the
    gradients on two halves of the images, every second one in each."""
    scale = torch.ones((), dtype=logits.dtype, device=logits.device, requires_grad=True)
    gradients = [
        torch.autograd.grad(F.cross_entropy(logits[half::2] * scale, labels[half::2]), scale, create_graph=True)[0]
        for half in (0, 1)
    ]
    return gradients[0] * gradients[1]


def coral(outputs: Outputs, settings: BaselineSettings, step: int) -> Tensor:
    """Correlation alignment (arXiv 1607.01719), the means aligned as well; a mean over pairs of domains."""
    pairs = [coral_penalty(*pair) for pair in itertools.combinations(outputs.features, 2)]
    penalty = torch.stack(pairs).mean() if pairs else 0.0
    return erm(outputs, settings, step) + settings.coral.weight * penalty


def coral_penalty(first: Tensor, second: Tensor) -> Tensor:
    """The mean squared difference of the features' means, and that of their covariances."""
    means = (first.mean(0) - second.mean(0)).square().mean()
    return means + (torch.cov(first.T) - torch.cov(second.T)).square().mean()


def clip_prompts(outputs: Outputs, settings: BaselineSettings, step: int) -> Tensor:
    """Of `diverse_prompts`, whose features are the logits of the moved images: cross-entropy of both, and the
    divergence of the answers about moved images from those about the same as they are."""
    moved = Outputs((), outputs.features, outputs.labels)
    pairs = [
        (own.log_softmax(-1), as_is.log_softmax(-1)) for own, as_is in zip(moved.logits, outputs.logits, strict=True)
    ]
    apart = torch.stack([F.kl_div(*pair, reduction="batchmean", log_target=True) for pair in pairs]).mean()
    return erm(outputs, settings, step) + erm(moved, settings, step) + settings.clip_prompts.consistency * apart


def simple_plus(outputs: Outputs, settings: BaselineSettings, step: int) -> Tensor:
    """Of `simple_plus`, whose features are the log-probabilities by each model: cross-entropy of their weighted mean,
    and the mean of the models' own."""
    models = [
        Outputs((), own, outputs.labels) for own in zip(*(rows.unbind(1) for rows in outputs.features), strict=True)
    ]
    return erm(outputs, settings, step) + torch.stack([erm(own, settings, step) for own in models]).mean()


LOSSES: Mapping[str, Loss] = {
    **{"erm": erm, "irm": irm, "coral": coral},
    **{"clip_prompts": clip_prompts, "simple_plus": simple_plus},
}
