"""SIMPLE+ (OpenReview BqrPeZ_e5P): a pool of frozen models, and for each sample a choice among them.

Ours where the published text or code leaves it open or needs what cannot be had: adapters read features in the place of
a model's own class scores, the matching network reads the features of the whole pool, and all are trained together.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from throughline.baselines.network import Network


class MatchedPool(Network):
    """For each model a linear adapter from its features to the classes, and a network that gives the models weights,
    sample by sample. `widths` are those of the models' features, which come behind one another."""

    def __init__(self, widths: Sequence[int], classes: int, hidden: int) -> None:
        super().__init__()
        self.widths = list(widths)
        self.adapters = nn.ModuleList(nn.Linear(width, classes) for width in widths)
        self.matching = nn.Sequential(nn.Linear(sum(widths), hidden), nn.ReLU(), nn.Linear(hidden, len(widths)))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities by each model `(images, models, classes)`, and those of their weighted mean, through which
        no gradient reaches an adapter: each learns as if it were alone."""
        parts = [F.layer_norm(part, part.shape[1:]) for part in features.split(self.widths, dim=1)]
        each = [adapter(part).log_softmax(-1) for adapter, part in zip(self.adapters, parts, strict=True)]
        by_model, weights = torch.stack(each, dim=1), self.matching(torch.cat(parts, dim=1)).log_softmax(-1)
        return by_model, torch.logsumexp(weights[:, :, None] + by_model.detach(), dim=1)
