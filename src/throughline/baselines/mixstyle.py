"""MixStyle (arXiv 2104.02008): statistics of features mixed between images, as if their domains were mixed."""

from typing import Any

import torch
from torch import Tensor, nn

from throughline.baselines.settings import MixStyleSettings

EPSILON = 1e-6


class MixStyle(nn.Module):
    """Mixes features with those of the batch in another order, in training and in a share of its calls alone."""

    def __init__(self, settings: MixStyleSettings) -> None:
        super().__init__()
        self.probability = settings.probability
        self.share = torch.distributions.Beta(settings.alpha, settings.alpha)

    def forward(self, features: Tensor) -> Tensor:
        """As `mix_statistics`, the share of an image's own statistics drawn from a beta distribution."""
        if not self.training or torch.rand(()) >= self.probability:
            return features
        count = len(features)
        return mix_statistics(features, self.share.sample((count,)).to(features), torch.randperm(count))


def mix_statistics(features: Tensor, share: Tensor, order: Tensor) -> Tensor:
    """Features `(images, channels, height, width)` or `(images, tokens, channels)`, whose mean and standard deviation
    over places in each channel are replaced by `share` of their own and the rest of those of the image that `order` has
    in their place. No gradient flows through the statistics."""
    places = (2, 3) if features.dim() == 4 else (1,)
    mean = features.mean(places, keepdim=True).detach()
    deviation = (features.var(places, keepdim=True) + EPSILON).sqrt().detach()
    own = share.view(-1, *[1] * (features.dim() - 1))
    mixed_mean, mixed_deviation = (own * of + (1 - own) * of[order] for of in (mean, deviation))
    return (features - mean) / deviation * mixed_deviation + mixed_mean


def stages_of(backbone: Any) -> list[str]:
    """The names of a timm backbone's stages, or blocks, in their order; its stem is none."""
    return [info["module"] for info in backbone.feature_info if not info["module"].startswith(("act", "stem"))]


def mix_behind(backbone: Any, settings: MixStyleSettings) -> MixStyle:
    """Has the features behind the first stages of the backbone mixed from now on, by the module that is returned."""
    mixing = MixStyle(settings)
    for name in stages_of(backbone)[: settings.stages]:
        backbone.get_submodule(name).register_forward_hook(lambda module, inputs, output: mixing(output))
    return mixing
