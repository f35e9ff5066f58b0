"""CoOp, context optimisation (arXiv 2109.01134): the words before a class are vectors that are learned."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from throughline.mllm.clip import Clip

DEVIATION = 0.02
"""Of the normal distribution that vectors begin with."""


class LearnedContext(nn.Module):
    """Embeddings of classes by their names behind `count` vectors, the same for all; these alone are trained."""

    def __init__(self, clip: Clip, names: Sequence[str], count: int) -> None:
        super().__init__()
        self.model, self.embed = clip.model, clip.embed
        rows = [clip.tokenizer(f"{name}.")["input_ids"] for name in names]
        self.start = int(rows[0][0] == clip.tokenizer.bos_token_id)
        # The vectors take the places of any token: of the first one of the class.
        held = [[*row[: self.start], *row[self.start : self.start + 1] * count, *row[self.start :]] for row in rows]
        self.tokens = clip.padded(held)
        self.context = nn.Parameter(DEVIATION * torch.randn(count, clip.model.config.text_config.hidden_size))

    def forward(self) -> Tensor:
        """`(classes, width)`."""

        def put(module: nn.Module, inputs: Any, words: Tensor) -> Tensor:
            before, behind = words[:, : self.start], words[:, self.start + len(self.context) :]
            return torch.cat([before, self.context.expand(len(words), -1, -1), behind], dim=1)

        with self.model.text_model.get_input_embeddings().register_forward_hook(put):
            return self.embed(self.tokens)
