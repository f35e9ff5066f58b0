"""SMOS (arXiv 2405.15961): a backbone that is kept near a frozen precursor, after fpsluozi/SMD-SMOS.

The published precursor, trained on SuperMarioDomains, cannot be had. Its substitute is the backbone as it is before
training. The divergence is that of Jensen and Shannon between softmax distributions; the published code hands raw
features to a KL divergence.
"""

import math
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from throughline.baselines.settings import SmosSettings

FIRST_VARIANCE, EPSILON = 0.1, 1e-5


class Precursor(nn.Module):
    """A frozen copy of the backbone, and for each of its stages a variance of each channel, which is trained."""

    def __init__(self, backbone: Any, settings: SmosSettings) -> None:
        super().__init__()
        self.settings, self.frozen = settings, deepcopy(backbone).eval().requires_grad_(False)
        raw = math.log(math.expm1(FIRST_VARIANCE - EPSILON))  # before the softplus
        stages = backbone.feature_info
        self.raw_variances = nn.ParameterList(torch.full((stage["num_chs"],), raw) for stage in stages)
        self._trained_features: dict[str, Tensor] = {}
        self._frozen_features: dict[str, Tensor] = {}
        for model, kept in ((backbone, self._trained_features), (self.frozen, self._frozen_features)):
            for stage in stages:
                _keep_output(model.get_submodule(stage["module"]), kept, stage["module"])

    def forward(self, images: Tensor, features: Tensor) -> Tensor:
        """What is added to the cross-entropy, right after the backbone made these features `(images, width)` of these
        images."""
        with torch.no_grad():
            before = self.frozen(images)
        names = self._frozen_features
        near = [
            nearness(self._trained_features[name], self._frozen_features[name], F.softplus(raw) + EPSILON)
            for name, raw in zip(names, self.raw_variances, strict=True)
        ]
        divergence = jensen_shannon(features, before)
        return self.settings.weight * (torch.stack(near).sum() / self.settings.lr_factor + divergence)


def nearness(features: Tensor, before: Tensor, variances: Tensor) -> Tensor:
    """Half the mean of squared differences over variances `(channels,)` plus their logarithms (MIRO, arXiv 2203.10789);
    features are `(images, channels, height, width)` or `(images, tokens, channels)`."""
    variances = variances.view(-1, 1, 1) if features.dim() == 4 else variances
    return ((features - before).square() / variances + variances.log()).mean() / 2


def jensen_shannon(first: Tensor, second: Tensor) -> Tensor:
    """The divergence of the softmax of rows `(rows, width)`, in nats, a mean over rows."""
    logs = first.log_softmax(-1), second.log_softmax(-1)
    middle = torch.logaddexp(*logs) - math.log(2)
    return sum((F.kl_div(middle, log, reduction="batchmean", log_target=True) for log in logs), torch.zeros(())) / 2


def _keep_output(module: nn.Module, kept: dict[str, Tensor], name: str) -> None:
    def keep(_: nn.Module, inputs: Any, output: Tensor) -> None:
        kept[name] = output

    module.register_forward_hook(keep)
