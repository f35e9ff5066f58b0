"""Token by token behind prompts, in two ways with the same numbers.

    OnPrefix  prompts once for all their rows; rows that have ended leave when enough of them have (`prefix`)
    OnCache   transformers' own key-value cache, prompts copied for each row: for families that take no layout

`sampling` steps through whichever the model takes and chooses the tokens.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

from throughline.mllm.chat import Path, join_inputs
from throughline.mllm.load import Mllm
from throughline.mllm.lora import base_of
from throughline.mllm.prefix import CACHE, Branches, Prefix, encode_prefix


class OnPrefix:
    """Branches on a prefix: a grid of prompts by rows of each, `prefix` that of the prompts' beginnings where it has
    been computed already. Places of rows that have ended are computed, but not read, until the grid is made smaller."""

    def __init__(self, mllm: Mllm, prompts: Sequence[Path], each: int, prefix: Prefix | None) -> None:
        self.model, self.pad_id, self.regrid = mllm.model, mllm.chat.pad_id, mllm.plan.regrid
        self.head = base_of(mllm.model).get_output_embeddings()
        prefix = encode_prefix(mllm.model, prompts) if prefix is None else prefix
        self.rest = prefix.rest_of(prompts)
        self.each = each
        self.branches = Branches(prefix, each)
        self.row_at: list[int] = list(range(len(self.branches)))
        """The row in each place of the grid."""

    def begin(self) -> Tensor:
        """`(rows, vocabulary)` logits of every row's first token."""
        if self.rest.shape[1] == 0:
            return self.head(self.branches.prefix.state).float().repeat_interleave(self.each, dim=0)
        states = self.branches.grow(self.model, self.rest.repeat_interleave(self.each, dim=0))
        return torch.as_tensor(self.head(states[:, -1]).float())

    def step(self, going: Sequence[int], tokens: Tensor) -> Tensor:
        """The next token `(going,)` of the rows still going to `(going, vocabulary)` logits of the one after. A row
        that was left out once has ended for good."""
        self._shrink(going)
        places = torch.tensor(self._places(going), device=tokens.device)
        all_tokens = torch.full((len(self.branches), 1), self.pad_id, device=tokens.device)
        all_tokens[places, 0] = tokens
        states = self.branches.grow(self.model, all_tokens)[:, 0]
        return torch.as_tensor(self.head(states[places]).float())

    def _shrink(self, going: Sequence[int]) -> None:
        of_prompt = [list(rows) for _, rows in itertools.groupby(going, key=lambda row: row // self.each)]
        widest = max(map(len, of_prompt))
        if len(of_prompt) * widest > self.regrid * len(self.branches):
            return
        # a prompt with fewer rows left is filled up with copies of one: every prompt has as many
        kept = [row for rows in of_prompt for row in rows + rows[:1] * (widest - len(rows))]
        self.branches.keep(self._places(kept), widest)
        self.row_at = kept

    def _places(self, rows: Sequence[int]) -> list[int]:
        """Where these rows are in the grid; of a row and its copies, the first, which is the one that goes on."""
        first = {row: place for place, row in reversed(list(enumerate(self.row_at)))}
        return [first[row] for row in rows]


class OnCache:
    """Prompts padded on the left in transformers' `DynamicCache`; rows that have ended leave at once."""

    def __init__(self, mllm: Mllm, prompts: Sequence[Path], each: int) -> None:
        self.mllm, self.prompts, self.each = mllm, prompts, each
        self.cache = DynamicCache()
        self.going: list[int] = list(range(len(prompts) * each))

    def begin(self) -> Tensor:
        """See `OnPrefix`."""
        device = self.mllm.device

        def padded(rows: list[Tensor], value: int = 0) -> Tensor:
            return pad_sequence(rows, batch_first=True, padding_value=value, padding_side="left").to(device)

        ids = padded([torch.from_numpy(prompt.tokens) for prompt in self.prompts], self.mllm.chat.pad_id)
        self.mask = padded([torch.ones(len(prompt.tokens), dtype=torch.long) for prompt in self.prompts])
        by_token = [torch.tensor(prompt.positions.T) for prompt in self.prompts]
        position_ids = padded(by_token).permute(2, 0, 1).contiguous()  # (axes, prompts, tokens)
        images = join_inputs([image for prompt in self.prompts for image in prompt.images])
        logits = self._logits(ids, position_ids, images)
        # the token after a prompt stands one past its largest position, on every axis
        following = position_ids.amax(dim=(0, 2))[None].expand(len(position_ids), -1) + 1
        self.position = following.repeat_interleave(self.each, dim=1)
        self.mask = self.mask.repeat_interleave(self.each, dim=0)
        self.cache.batch_repeat_interleave(self.each)
        return logits.repeat_interleave(self.each, dim=0)

    def step(self, going: Sequence[int], tokens: Tensor) -> Tensor:
        """See `OnPrefix`."""
        if len(going) < len(self.going):
            place_of = {row: place for place, row in enumerate(self.going)}
            kept = torch.tensor([place_of[row] for row in going], device=tokens.device)
            self.cache.batch_select_indices(kept)
            self.position, self.mask = self.position[:, kept], self.mask[kept]
            self.going = list(going)
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], dim=1)
        logits = self._logits(tokens[:, None], self.position[..., None], {})
        self.position = self.position + 1
        return logits

    def _logits(self, ids: Tensor, positions: Tensor, images: dict[str, Any]) -> Tensor:
        logits = self.mllm.model(
            input_ids=ids,
            attention_mask=self.mask,
            position_ids=positions[0] if len(positions) == 1 else positions,
            use_cache=True,
            logits_to_keep=1,
            **{CACHE: self.cache},
            **{name: value.to(ids.device) for name, value in images.items()},
        ).logits[:, -1]
        return torch.as_tensor(logits).float()


Decoder = OnPrefix | OnCache
"""Rows in flat order, as many for every prompt."""
