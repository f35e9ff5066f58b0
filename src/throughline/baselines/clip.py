"""The classifier that a CLIP or SigLIP checkpoint makes: images and prompts in one space.

Zero-shot classification is that classifier untrained, its prompts averaged over templates; `coop` and `clip_lora` train
a part of it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from throughline.baselines.network import Network
from throughline.mllm.clip import Clip


class Prompts(nn.Module):
    """What the text encoder makes of classes by their names, each a mean over the templates."""

    def __init__(self, clip: Clip, templates: Sequence[str], names: Sequence[str]) -> None:
        super().__init__()
        self.model, self.embed, self.templates = clip.model, clip.embed, len(templates)
        self.tokens = clip.tokens([template.replace("{}", name) for name in names for template in templates])

    def forward(self) -> Tensor:
        """`(classes, width)`."""
        return self.embed(self.tokens).unflatten(0, (-1, self.templates)).mean(1)


class ClipClassifier(Network):
    """Logits are scaled cosines of images and classes. `images` embeds an image, or is `Identity` where that was done.
    Its state has what is trained alone."""

    def __init__(self, clip: Clip, prompts: nn.Module, images: nn.Module | None = None) -> None:
        super().__init__()
        self.prompts, self.images, self.scale = prompts, images or nn.Identity(), clip.scale
        self._classes: Tensor | None = None

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings `(images, width)` of length 1, and logits `(images, classes)`."""
        features = F.normalize(self.images(images), dim=-1)
        if self.training or self._classes is None:
            self._classes = F.normalize(self.prompts(), dim=-1)
        return features, self.scale * features @ self._classes.T

    def train(self, mode: bool = True) -> "ClipClassifier":
        """As usual; in evaluation the prompts are then embedded once."""
        self._classes = None
        super().train(mode)
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As usual, of the weights that are trained."""
        trained = {name for name, weight in self.named_parameters() if weight.requires_grad}
        return {name: value for name, value in super().state_dict(*args, **kwargs).items() if name in trained}

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As usual; whatever is not trained stays."""
        self._classes = None
        return super().load_state_dict({**super().state_dict(), **state}, strict, assign)
