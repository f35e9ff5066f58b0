"""What an image and a chain are to an encoder: one vector each, for `divergence`.

Without anything else at hand the model's own towers: an image is the mean over its projected image tokens, a text the
mean over the decoder's last states, read without image or question. CLIP, as in the paper, where a checkpoint is named;
its text tower takes 77 tokens, so a chain is the mean over its sentences (ours).
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from throughline.analysis.passages import Word
from throughline.core.errors import ThroughlineError
from throughline.domains.images import load_image
from throughline.domains.samples import Sample
from throughline.mllm.images import ImageReader
from throughline.mllm.load import Mllm
from throughline.mllm.lora import base_of

Rows = NDArray[np.float64]
Chosen = Callable[[Word], bool]
"""Which words of a chain count."""


class OwnTowers:
    """The checkpoint's own vision tower and decoder."""

    def __init__(self, mllm: Mllm, reader: ImageReader) -> None:
        self.mllm, self.reader, self.name = mllm, reader, f"{mllm.name}'s own towers"

    @torch.no_grad()
    def images(self, samples: Sequence[Sample]) -> Rows:
        """Mean over tiles and tokens of what the decoder is given."""
        rows = []
        with self.mllm.evaluating():
            for one in samples:
                inputs = {name: v.to(self.mllm.device) for name, v in self.reader.encode(one).inputs.items()}
                found = base_of(self.mllm.model).get_image_features(**inputs, return_dict=True).pooler_output
                pieces = [found] if isinstance(found, torch.Tensor) else list(found)
                rows.append(torch.cat([piece.flatten(0, -2) for piece in pieces]).float().mean(dim=0))
        return _array(rows)

    @torch.no_grad()
    def chains(self, texts: Sequence[str], words: Sequence[Sequence[Word]], chosen: Chosen) -> Rows:
        """Mean over the chosen words' last states, each read behind the words before it."""
        rows = []
        tokenizer = self.mllm.chat.tokenizer
        with self.mllm.evaluating():
            for text, said in zip(texts, words, strict=True):
                ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]], device=self.mllm.device)
                states = base_of(self.mllm.model).model(input_ids=ids, use_cache=False).last_hidden_state[0].float()
                kept = [place for place, word in enumerate(said) if chosen(word)]
                rows.append(states[kept].mean(dim=0) if kept else torch.zeros_like(states[0]))
        return _array(rows)


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
    def images(self, samples: Sequence[Sample]) -> Rows:
        """CLIP's image embedding."""
        rows = []
        for one in samples:
            inputs = self.processor(images=load_image(one.path), return_tensors="pt").to(self.model.device)
            rows.append(_pooled(self.model.get_image_features(**inputs))[0].float())
        return _array(rows)

    @torch.no_grad()
    def chains(self, texts: Sequence[str], words: Sequence[Sequence[Word]], chosen: Chosen) -> Rows:
        """Mean over sentences of CLIP's text embedding; of chosen words as many sentences as stages have some."""
        rows = []
        for said in words:
            sentences = [sentence for sentence in _sentences("".join(w.text for w in said if chosen(w))) if sentence]
            if not sentences:
                rows.append(torch.zeros(self.model.config.projection_dim))
                continue
            inputs = self.processor(text=sentences, return_tensors="pt", padding=True, truncation=True)
            found = _pooled(self.model.get_text_features(**inputs.to(self.model.device)))
            rows.append(found.float().mean(dim=0))
        return _array(rows)


Encoder = OwnTowers | ClipTowers
"""Gives rows `(n, d)`: one an image, and one a chain, over the words chosen, which are of the bare text's tokens; zeros
where none is. Images and texts need not share a space."""


def _pooled(found: Any) -> torch.Tensor:
    """transformers 5 wraps what 4 gave bare."""
    return torch.as_tensor(found if isinstance(found, torch.Tensor) else found.pooler_output)


def _sentences(text: str) -> list[str]:
    return [piece.strip() for piece in re.split(r"(?<=[.!?])\s|\n", text)]


def _array(rows: Sequence[torch.Tensor]) -> Rows:
    return np.asarray(torch.stack([row.cpu() for row in rows]).numpy(), dtype=np.float64)
