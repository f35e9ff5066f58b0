"""MixStyle (arXiv 2104.02008): statistics of features mixed between images, as if their domains were mixed."""

from typing import Any

import torch
from torch import Tensor, nn

from throughline.baselines.network import behind_stage
from throughline.baselines.settings import MixStyleSettings

EPSILON = 1e-6


def mix_behind(backbone: Any, settings: MixStyleSettings) -> None:
    """Has the features behind the first stages of a timm backbone mixed with those of the batch in another order, in a
    share of the passes in training, by `mix_statistics` with shares drawn from a beta distribution."""
    shares = torch.distributions.Beta(settings.alpha, settings.alpha)

    def mix(stage: nn.Module, features: Tensor) -> Tensor:
        if not stage.training or torch.rand(()) >= settings.probability:
            return features
        count = len(features)
        return mix_statistics(features, shares.sample((count,)).to(features), torch.randperm(count))

    for stage in stages_of(backbone)[: settings.stages]:
        behind_stage(backbone, stage, mix)


def mix_statistics(features: Tensor, share: Tensor, order: Tensor) -> Tensor:
    """Features `(images, ..., channels)`, whose mean and standard deviation over places in each channel are replaced by
    `share` of their own and the rest of those of the image that `order` has in their place. No gradient flows through
    the statistics."""
    places = tuple(range(1, features.dim() - 1))
    mean = features.mean(places, keepdim=True).detach()
    deviation = (features.var(places, keepdim=True) + EPSILON).sqrt().detach()
    own = share.view(-1, *[1] * (features.dim() - 1))
    mixed_mean, mixed_deviation = (own * of + (1 - own) * of[order] for of in (mean, deviation))
    return (features - mean) / deviation * mixed_deviation + mixed_mean


def stages_of(backbone: Any) -> list[dict[str, Any]]:
    """What timm says of a backbone's stages, or blocks, in their order; its stem is none."""
    return [info for info in backbone.feature_info if not info["module"].startswith(("act", "stem"))]
