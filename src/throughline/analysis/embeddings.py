"""What an image and a chain are to an encoder: one vector each, for `divergence`.

Without anything else at hand the model's own towers: an image is the mean over its projected image tokens, a text the
mean over the decoder's last states, read without image or question. CLIP, as in the paper, where a checkpoint is named;
its text tower takes 77 tokens, so a chain is the mean over its sentences (ours).
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from throughline.analysis.passages import Word
from throughline.core.errors import ThroughlineError
from throughline.domains.samples import Sample
from throughline.domains.views import load_sample
from throughline.mllm.features import PROJECTOR, image_features
from throughline.mllm.images import ImageReader
from throughline.mllm.load import Mllm
from throughline.mllm.lora import base_of

Chosen = Callable[[Word], bool]
"""Which words of a chain count."""


class OwnTowers:
    """The checkpoint's own vision tower and decoder."""

    def __init__(self, mllm: Mllm, reader: ImageReader) -> None:
        self.mllm, self.reader, self.name = mllm, reader, f"{mllm.name}'s own towers"

    def image(self, sample: Sample) -> torch.Tensor:
        """Mean over tiles and tokens of what the decoder is given."""
        return image_features(self.mllm, self.reader.encode(sample))[PROJECTOR]

    @torch.no_grad()
    def chain(self, text: str, words: Sequence[Word], chosen: Chosen) -> torch.Tensor:
        """Mean over the chosen words' last states, each read behind the words before it."""
        ids = self.mllm.chat.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        with self.mllm.evaluating():
            states = base_of(self.mllm.model).model(input_ids=ids.to(self.mllm.device), use_cache=False)
        kept = [place for place, word in enumerate(words) if chosen(word)]
        last = states.last_hidden_state[0].float()
        return last[kept].mean(dim=0) if kept else torch.zeros_like(last[0])


class ClipTowers:
    """A CLIP checkpoint of transformers, from a folder or, with `hub`, by its name."""

    def __init__(self, name: str, hub: bool = False, device: str = "cpu") -> None:
        from transformers import AutoProcessor, CLIPModel

        try:
            self.model: Any = CLIPModel.from_pretrained(name, local_files_only=not hub, use_safetensors=True)
            self.processor: Any = AutoProcessor.from_pretrained(name, local_files_only=not hub)
        except (OSError, ValueError) as error:
            first = str(error).strip().splitlines()[0]
            raise ThroughlineError(f"no CLIP checkpoint: {first}", name, "name a folder, or allow --hub") from None
        self.model.to(device).eval()
        self.name = f"CLIP ({name.rstrip('/').rsplit('/', 1)[-1]})"

    @torch.no_grad()
    def image(self, sample: Sample) -> torch.Tensor:
        """CLIP's image embedding."""
        inputs = self.processor(images=load_sample(sample), return_tensors="pt").to(self.model.device)
        return _pooled(self.model.get_image_features(**inputs))[0].float()

    @torch.no_grad()
    def chain(self, text: str, words: Sequence[Word], chosen: Chosen) -> torch.Tensor:
        """Mean over sentences of CLIP's text embedding; of chosen words as many sentences as stages have some."""
        said = "".join(word.text for word in words if chosen(word))
        sentences = [piece.strip() for piece in re.split(r"(?<=[.!?])\s|\n", said) if piece.strip()]
        if not sentences:
            return torch.zeros(self.model.config.projection_dim)
        inputs = self.processor(text=sentences, return_tensors="pt", padding=True, truncation=True)
        return _pooled(self.model.get_text_features(**inputs.to(self.model.device))).float().mean(dim=0)


Encoder = OwnTowers | ClipTowers
"""Gives vectors `(d,)`: of an image, and of a chain over the words chosen, which are of the bare text's tokens; zeros
where none is. Images and texts need not share a space."""


def rows_of(vectors: Iterable[torch.Tensor]) -> NDArray[np.float64]:
    """`(n, d)`, a row a vector."""
    return np.asarray(torch.stack([vector.cpu() for vector in vectors]).numpy(), dtype=np.float64)


def _pooled(embedding: Any) -> torch.Tensor:
    """transformers 5 wraps what 4 gave bare."""
    return torch.as_tensor(embedding if isinstance(embedding, torch.Tensor) else embedding.pooler_output)
