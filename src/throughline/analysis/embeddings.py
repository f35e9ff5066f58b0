"""What an image and a chain are to an encoder: one vector each, for `divergence`.

Without anything else at hand the model's own towers: an image is the mean over its projected image tokens, a text the
mean over the decoder's last states, read without image or question. CLIP, as in the paper, where a checkpoint is named;
its text tower takes 77 tokens, so a chain is the mean over its sentences (ours).
"""

import re
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from throughline.analysis.passages import Word
from throughline.domains.samples import Sample
from throughline.mllm.checkpoints import checkpoint_name
from throughline.mllm.clip import ImageEncoder, open_clip
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
    """A CLIP or SigLIP checkpoint, from a folder or, with `hub`, by its name."""

    def __init__(self, name: str, hub: bool = False, device: str = "cpu") -> None:
        self.clip, self.name = open_clip(name, hub=hub), f"CLIP ({checkpoint_name(name)})"
        self.images = ImageEncoder(self.clip).to(device)

    @torch.no_grad()
    def image(self, sample: Sample) -> torch.Tensor:
        """CLIP's image embedding."""
        embedding: torch.Tensor = self.images(self.clip.read(sample)[None].to(self.clip.model.device))[0]
        return embedding

    @torch.no_grad()
    def chain(self, text: str, words: Sequence[Word], chosen: Chosen) -> torch.Tensor:
        """Mean over sentences of CLIP's text embedding; of chosen words as many sentences as stages have some."""
        said = "".join(word.text for word in words if chosen(word))
        sentences = [piece.strip() for piece in re.split(r"(?<=[.!?])\s|\n", said) if piece.strip()]
        if not sentences:
            return torch.zeros(self.clip.width)
        return self.clip.features(self.clip.tokens(sentences)).mean(dim=0)


Encoder = OwnTowers | ClipTowers
"""Gives vectors `(d,)`: of an image, and of a chain over the words chosen, which are of the bare text's tokens; zeros
where none is. Images and texts need not share a space."""


def rows_of(vectors: Iterable[torch.Tensor]) -> NDArray[np.float64]:
    """`(n, d)`, a row a vector."""
    return np.asarray(torch.stack([vector.cpu() for vector in vectors]).numpy(), dtype=np.float64)
