"""SMOS (arXiv 2405.15961): a backbone that is kept near a frozen precursor, after fpsluozi/SMD-SMOS.

The published precursor, trained on SuperMarioDomains, cannot be had. Its substitute is the backbone as it is before
training. The divergence is that of Jensen and Shannon between softmax distributions; the published code hands raw
features to a KL divergence.
"""

import math
from copy import deepcopy
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from throughline.baselines.network import behind_stage
from throughline.baselines.settings import SmosSettings
from throughline.mllm.divergences import js_divergence

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
                behind_stage(model, stage, partial(_keep, kept, stage["module"]))

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
        divergence = js_divergence(features.log_softmax(-1), before.log_softmax(-1)).mean()
        return self.settings.weight * (torch.stack(near).sum() / self.settings.lr_factor + divergence)


def nearness(features: Tensor, before: Tensor, variances: Tensor) -> Tensor:
    """Half the mean of squared differences over variances `(channels,)` plus their logarithms (MIRO, arXiv 2203.10789);
    features are `(images, ..., channels)`."""
    return ((features - before).square() / variances + variances.log()).mean() / 2


def _keep(kept: dict[str, Tensor], name: str, stage: nn.Module, features: Tensor) -> Tensor:
    kept[name] = features
    return features
