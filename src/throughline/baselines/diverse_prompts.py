"""Diverse text prompts, for DGCLDTP (CVPR 2025, pages 9559-9569), whose details are not known: this is a method of ours
after its title.

Prompts of each class in several manners (a photo, a sketch ...) stand for domains. What tells the manners apart in the
text encoder is a direction of the common space; images are moved along it in training, and their answers have to stay.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from throughline.baselines.clip import Prompts
from throughline.baselines.network import Network
from throughline.mllm.clip import Clip


class DiversePrompts(Network):
    """Image features `(images, width)` against classes. Trained are how much of each direction in which manners differ
    is suppressed, in images and classes, and a linear change of image features, which begins with none."""

    manners: Tensor
    basis: Tensor
    classes: Tensor

    def __init__(self, clip: Clip, templates: Sequence[str], names: Sequence[str]) -> None:
        super().__init__()
        with torch.no_grad():
            prompts = torch.stack([Prompts(clip, [template], names)() for template in templates])
        manners = prompts.mean(1) - prompts.mean((0, 1))
        basis = torch.linalg.svd(manners, full_matrices=False).Vh[: len(templates) - 1]
        for name, value in {"manners": manners, "basis": basis, "classes": prompts.mean(0)}.items():
            self.register_buffer(name, value, persistent=False)
        self.gates, self.scale = nn.Parameter(torch.zeros(len(basis))), clip.scale
        self.change = nn.Linear(prompts.shape[-1], prompts.shape[-1], bias=False)
        nn.init.zeros_(self.change.weight)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features of length 1 and logits `(images, classes)`; in training, in the place of features, the logits of
        each image moved to a manner drawn at random."""
        features = F.normalize(images, dim=-1)
        logits = self._logits(features)
        if not self.training:
            return features, logits
        drawn = torch.randint(len(self.manners), (len(images),))
        return self._logits(features + self.manners[drawn]), logits

    def _logits(self, features: Tensor) -> Tensor:
        kept = self._suppressed(features)
        images = F.normalize(kept + self.change(kept), dim=-1)
        return self.scale * images @ F.normalize(self._suppressed(self.classes), dim=-1).T

    def _suppressed(self, rows: Tensor) -> Tensor:
        return rows - (rows @ self.basis.T * self.gates.sigmoid()) @ self.basis
