"""CLIP and SigLIP checkpoints: images and texts in one space. Classifiers of `baselines` stand on them, and `analysis`
measures with them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer
from transformers.utils import logging

from throughline.core.errors import ThroughlineError
from throughline.domains.samples import Sample
from throughline.domains.views import load_sample
from throughline.mllm.checkpoints import checkpoint_folder, resolve_revision
from throughline.mllm.load import one_line_errors

FAMILIES = ("clip", "siglip")


@dataclass(frozen=True)
class Clip:
    """A frozen checkpoint with its tokenizer and image processor."""

    model: Any
    tokenizer: Any
    processor: Any

    def tokens(self, texts: Sequence[str]) -> Mapping[str, Tensor]:
        """Texts as rows of token ids, padded as the family was trained; what is too long is cut."""
        options = {"truncation": True, "max_length": self._longest, "padding": self._padding}
        return dict(self.tokenizer(list(texts), return_tensors="pt", **options))

    def padded(self, rows: Sequence[Sequence[int]]) -> Mapping[str, Tensor]:
        """As `tokens`, of rows of ids. ThroughlineError for one that is too long."""
        if max(map(len, rows)) > self._longest:
            what = f"a prompt has {max(map(len, rows))} tokens, and the checkpoint reads {self._longest}"
            raise ThroughlineError(what, "baselines.coop.context", "take fewer")
        options = {"max_length": self._longest, "padding": self._padding}
        return dict(self.tokenizer.pad({"input_ids": [*map(list, rows)]}, return_tensors="pt", **options))

    def embed(self, tokens: Mapping[str, Tensor]) -> Tensor:
        """Embeddings `(texts, width)`, each of length 1."""
        return F.normalize(self.features(tokens), dim=-1)

    def features(self, tokens: Mapping[str, Tensor]) -> Tensor:
        """Embeddings `(texts, width)`, of any length."""
        on_device = {name: value.to(self.model.device) for name, value in tokens.items()}
        features: Tensor = self.model.get_text_features(**on_device).pooler_output
        return features

    def read(self, sample: Sample) -> Tensor:
        """An image as the checkpoint's own processor prepares it, `(3, height, width)`."""
        prepared: Tensor = self.processor(images=load_sample(sample), return_tensors="pt")["pixel_values"][0]
        return prepared

    @property
    def side(self) -> int:
        """Of an image in pixels."""
        return int(self.model.config.vision_config.image_size)

    @property
    def scale(self) -> float:
        """What cosines are multiplied by. (SigLIP adds a bias, which is the same for all classes.)"""
        return float(self.model.logit_scale.exp())

    @property
    def width(self) -> int:
        """Of the common space."""
        config = self.model.config
        return int(getattr(config, "projection_dim", None) or config.vision_config.hidden_size)

    @property
    def _longest(self) -> int:
        return int(self.model.config.text_config.max_position_embeddings)

    @property
    def _padding(self) -> str:
        return "max_length" if self.model.config.model_type == "siglip" else "longest"


def open_clip(name: str, weights: bool = True, hub: bool = True) -> Clip:
    """A checkpoint in float32, from a folder or the hub, without `hub` from what this machine has fetched; or its
    outline on no device, without `weights`. Raises a ThroughlineError, in one line, where it cannot be had or is of
    another family."""
    folder = checkpoint_folder(name)
    source, commit = str(folder or name), resolve_revision(name, hub)
    logging.disable_progress_bar()  # the command line shows its own lines
    options: dict[str, Any] = {"revision": commit or "main", "trust_remote_code": False, "local_files_only": not hub}
    with one_line_errors(name):
        config = AutoConfig.from_pretrained(source, **options)
        if (family := config.model_type) not in FAMILIES:
            do = f"one of {' and '.join(FAMILIES)} is needed"
            raise ThroughlineError(f"a {family!r} checkpoint has no common space of images and texts", name, do)
        if weights:
            model = AutoModel.from_pretrained(source, dtype=torch.float32, **options)
        else:
            with torch.device("meta"):
                model = AutoModel.from_config(config)
        tokenizer, processor = (kind.from_pretrained(source, **options) for kind in (AutoTokenizer, AutoImageProcessor))
    return Clip(model.requires_grad_(False).eval(), tokenizer, processor)


class ImageEncoder(nn.Module):
    """Embeddings `(images, width)` of prepared images, of any length."""

    def __init__(self, clip: Clip) -> None:
        super().__init__()
        self.model = clip.model

    def forward(self, images: Tensor) -> Tensor:
        """`images` are `(images, 3, height, width)`."""
        embeddings: Tensor = self.model.get_image_features(pixel_values=images).pooler_output
        return embeddings
