"""Attention over layouts of ours, inside any decoder of transformers that passes its keyword arguments on.

transformers lets an attention function be registered by name. Ours leaves attention to the `layout` that the model was
called with; called without one, by `generate` or by a rival in a benchmark, it is plain SDPA. `batch` lays out
token trees (`TreeLayout`), `prefix` lays out continuations of prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "throughline"


class Layout(Protocol):
    """Which tokens of one model call attend to which."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, dropout: float) -> Tensor:
        """`(1, heads, tokens, width)` queries, keys and values (these with their own, fewer heads) to
        `(1, tokens, heads, width)`."""


def use_layouts(model: Any) -> None:
    """Lets the model's decoder take layouts, if its family looks up its attention function by name; the vision tower
    stays as it is."""
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.get_decoder().set_attn_implementation(NAME)


def layout_arguments(layout: Layout, like: Tensor) -> dict[str, Any]:
    """The arguments of a model call besides tokens and positions. transformers passes a 4-D mask on as it is: this one
    keeps it from making its own, and is not read."""
    return {"layout": layout, "attention_mask": torch.zeros(1, 1, 1, 1, device=like.device), "use_cache": False}


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    layout: Layout | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **rest: Any,
) -> tuple[Tensor, None]:
    if layout is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **rest
        )
    if rest.get("sliding_window") is not None or rest.get("softcap") is not None:
        raise NotImplementedError("a layout has neither sliding windows nor soft caps")
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    return layout.attend(module.layer_idx, query, key, value, scaling, dropout), None


@dataclass(frozen=True, eq=False)
class TreeLayout:
    """Token trees behind one another in a single row, without padding: all trunks, then all crowns.

    A trunk is a tree's root node; it is a plain causal sequence, so that the fast kernels take it, trunks of one length
    together. A crown is all that grows on it; its tokens see their trunk and, by `masks`, their ancestors and their own
    node. Nothing is computed between trees.
    """

    trunks: tuple[tuple[int, int], ...]
    """(number of trees, tokens of each of their trunks), as they lie in the row."""
    masks: tuple[Tensor | None, ...]
    """For every tree, in that order, `(1, 1, crown, trunk + crown)`, 0 or -inf; None for a tree that is one path."""

    def to(self, device: torch.device | str) -> TreeLayout:
        """The same with its masks on `device`."""
        return replace(self, masks=tuple(None if mask is None else mask.to(device) for mask in self.masks))

    def pairs(self) -> int:
        """Pairs of query and key that the kernels compute: what attention costs."""
        crowns = sum(mask.shape[2] * mask.shape[3] for mask in self.masks if mask is not None)
        return crowns + sum(count * length**2 for count, length in self.trunks)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, dropout: float) -> Tensor:
        """See `Layout`. Parts are made by `split` and `unbind`: their gradients are one copy, not one a part."""
        lengths = [count * length for count, length in self.trunks]
        lengths += [mask.shape[2] for mask in self.masks if mask is not None]
        parts = zip(*(x[0].split(lengths, dim=1) for x in (query, key, value)), strict=True)  # (heads, tokens, width)
        outputs: list[Tensor] = []
        trunks: list[tuple[Tensor, Tensor]] = []  # keys and values of every tree's trunk
        for shape, part in zip(self.trunks, parts, strict=False):
            q, k, v = (x.unflatten(1, shape).transpose(0, 1) for x in part)  # (count, heads, length, width)
            outputs.append(grouped_sdpa(q, k, v, None, scaling, dropout).transpose(1, 2).flatten(0, 1))
            trunks += zip(k.unbind(0), v.unbind(0), strict=True)
        for mask, (k_trunk, v_trunk) in zip(self.masks, trunks, strict=True):
            if mask is not None:
                q, k, v = next(parts)
                k, v = torch.cat([k_trunk, k], dim=1), torch.cat([v_trunk, v], dim=1)
                output = grouped_sdpa(q[None], k[None], v[None], mask.to(q.dtype), scaling, dropout)
                outputs.append(output[0].transpose(0, 1))
        return torch.cat(outputs)[None]


def tree_layout(trees: Sequence[tuple[int, Any]]) -> TreeLayout:
    """For `(tokens of the trunk, (n, n) visibility)` of trees that stand in the order of their trunks' lengths."""
    trunks: list[tuple[int, int]] = []
    masks: list[Tensor | None] = []
    for length, visible in trees:
        if trunks and trunks[-1][1] == length:
            trunks[-1] = (trunks[-1][0] + 1, length)
        else:
            trunks.append((1, length))
        if len(visible) == length:  # the trunk is all there is
            masks.append(None)
            continue
        crown = torch.from_numpy(visible[length:])
        masks.append(torch.zeros(crown.shape).masked_fill(~crown, -torch.inf)[None, None])
    return TreeLayout(tuple(trunks), tuple(masks))


def grouped_sdpa(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, dropout: float = 0.0
) -> Tensor:
    """SDPA, causal without a mask. Grouped heads go to the kernel as they are where it takes them without falling back
    to plain matrix products: on a CPU always, on a GPU without a mask."""
    groups = query.shape[1] // key.shape[1]
    if groups > 1 and mask is not None and query.device.type != "cpu":
        key, value, groups = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1), 1
    return scaled_dot_product_attention(
        query, key, value, mask, dropout, is_causal=mask is None, scale=scaling, enable_gqa=groups > 1
    )


def attend_grouped(
    query: Tensor,
    shared: tuple[Tensor, Tensor],
    own: tuple[Tensor, Tensor],
    each: int,
    beyond: Tensor | None,
    scaling: float,
) -> Tensor:
    """One new token of every branch against its prompt and its own past, the prompt's keys and values read once for all
    its `each` branches.

    query `(heads, branches, width)`; shared keys and values `(prompts, kv heads, tokens, width)`, own ones `(branches,
    kv heads, past, width)`; beyond 0 or -inf `(prompts, 1, 1, tokens)` or None. Gives `(branches, heads, width)`.
    """
    prompts, kv_heads, tokens, width = shared[0].shape
    past = own[0].shape[2]
    # (prompts, each, kv heads, group, width): the branches' queries, those of a prompt and key head together
    queries = query.transpose(0, 1).reshape(prompts, each, kv_heads, -1, width) * scaling
    by_prompt, by_branch = queries.transpose(1, 2).flatten(2, 3), queries.flatten(0, 1)
    # Scores in float32, as fused kernels keep them: a bfloat16 score of 30 would be off by a tenth.
    prompt_scores = by_prompt.float() @ shared[0].transpose(2, 3).float()  # (prompts, kv heads, each x group, tokens)
    if beyond is not None:
        prompt_scores = prompt_scores + beyond
    own_scores = by_branch.float() @ own[0].transpose(2, 3).float()
    own_scores = own_scores.unflatten(0, (prompts, each)).transpose(1, 2).flatten(2, 3)
    weights = torch.softmax(torch.cat([prompt_scores, own_scores], dim=-1), dim=-1).to(query.dtype)
    of_prompt = weights[..., :tokens] @ shared[1]
    own_weights = weights[..., tokens:].unflatten(2, (each, -1)).transpose(1, 2)
    of_own = own_weights.reshape(prompts * each, kv_heads, -1, past) @ own[1]  # (branches, kv heads, group, width)
    of_prompt = of_prompt.unflatten(2, (each, -1)).transpose(1, 2).reshape(of_own.shape)
    return (of_prompt + of_own).flatten(1, 2)
