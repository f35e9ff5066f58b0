"""The one forward pass over rows of token trees.

    positions  those of each root-to-leaf path in a sequence of its own
    attention  earlier tokens of the own node and all tokens of the ancestors, nothing else
    loss       sum over branches of weight x reduce(token NLL)

Checkpoint families that take a 4-D mask run a row as it is (`collate_trees`). Others get the slower plan with the same
numbers (`collate_paths`): every path a row of its own, the vision tower run once per image. `training`, `likelihood`
and `analysis` call `score_trees` and do not see which plan was used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from throughline.mllm.chat import join_inputs
from throughline.mllm.tree import Branch, Tree


@dataclass(frozen=True)
class ImageReuse:
    """Which encoded image, and which of its tiles, stand at each use when one image serves several rows."""

    images: tuple[int, ...]
    tiles: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class TreeBatch:
    """What one model call needs. B rows of S tokens; `scored` and `predictors` are flat indices into B x S, branch
    after branch, `lengths` the number of scored tokens of each branch; `sample` says whose branch it is."""

    input_ids: Tensor  # (B, S)
    position_ids: Tensor  # (B, S), or (axes, B, S) with multimodal RoPE
    attention_mask: Tensor  # (B, 1, S, S) bool, or (B, S) for the slower plan
    image_inputs: dict[str, Tensor]
    reused: ImageReuse | None  # slower plan only
    scored: Tensor
    predictors: Tensor
    lengths: tuple[int, ...]
    names: tuple[str, ...]
    weights: tuple[float, ...]
    means: tuple[bool, ...]
    sample: tuple[int, ...]

    def to(self, device: torch.device | str) -> TreeBatch:
        """The same batch with its tensors on `device`."""
        return replace(
            self,
            input_ids=self.input_ids.to(device),
            position_ids=self.position_ids.to(device),
            attention_mask=self.attention_mask.to(device),
            image_inputs={name: value.to(device) for name, value in self.image_inputs.items()},
            scored=self.scored.to(device),
            predictors=self.predictors.to(device),
        )


@dataclass(frozen=True, eq=False)
class TreeScores:
    """Per-token NLL of every branch, branch after branch `(scored tokens,)`, and the sums the objectives need."""

    token_nll: Tensor
    batch: TreeBatch

    def per_branch(self) -> Iterator[tuple[int, str, Tensor]]:
        """`(sample index, branch name, token NLL of its answer)` for every branch."""
        pieces = torch.split(self.token_nll, list(self.batch.lengths))
        yield from zip(self.batch.sample, self.batch.names, pieces, strict=True)

    def branch_nll(self) -> Tensor:
        """`(branches,)`: the reduced NLL of every branch, without weights."""
        index = torch.repeat_interleave(
            torch.arange(len(self.batch.lengths), device=self.token_nll.device),
            torch.tensor(self.batch.lengths, device=self.token_nll.device),
        )
        sums = torch.zeros(len(self.batch.lengths), device=self.token_nll.device).index_add(0, index, self.token_nll)
        counts = torch.tensor(
            [n if mean else 1 for n, mean in zip(self.batch.lengths, self.batch.means, strict=True)],
            device=self.token_nll.device,
        ).clamp(min=1)
        return sums / counts

    def loss_sum(self) -> Tensor:
        """The sum over branches of weight x reduced NLL: divide by the number of samples for Eq. 1."""
        return (self.branch_nll() * torch.tensor(self.batch.weights, device=self.token_nll.device)).sum()


def score_trees(model: Any, batch: TreeBatch) -> TreeScores:
    """One forward pass; logits at the predicting positions only. Gradients flow where the model's parameters ask."""
    keep = torch.zeros(batch.input_ids.shape, dtype=torch.bool, device=batch.input_ids.device)
    keep.view(-1)[batch.predictors] = True
    row_of = keep.view(-1).cumsum(0) - 1
    logits = model(
        input_ids=batch.input_ids,
        attention_mask=_as_model_mask(batch.attention_mask, model.dtype),
        position_ids=batch.position_ids,
        use_cache=False,
        logits_to_keep=keep,
        **_image_arguments(model, batch),
    ).logits.float()
    log_normaliser = torch.logsumexp(logits, dim=-1)
    rows = row_of[batch.predictors]
    targets = batch.input_ids.view(-1)[batch.scored]
    return TreeScores(log_normaliser[rows] - logits[rows, targets], batch)


def collate_trees(rows: Sequence[Sequence[Tree]], pad_id: int) -> TreeBatch:
    """Rows of trees, padded on the right. A pad token attends to itself alone, so that no row of the mask is empty."""
    length = max(sum(len(tree) for tree in row) for row in rows)
    axes = rows[0][0].positions.shape[0]
    ids = np.full((len(rows), length), pad_id, dtype=np.int64)
    positions = np.zeros((axes, len(rows), length), dtype=np.int64)
    mask = np.zeros((len(rows), length, length), dtype=bool)
    mask[:, np.arange(length), np.arange(length)] = True
    marks = _Marks()
    sample = 0
    for r, row in enumerate(rows):
        at = 0
        for tree in row:
            here = slice(at, at + len(tree))
            ids[r, here] = tree.tokens
            positions[:, r, here] = tree.positions
            mask[r, here, here] = tree.visible()
            for branch in tree.branches:
                offset = r * length + at
                marks.add(branch.name, branch.scored + offset, branch.predictors + offset, branch, sample)
            at += len(tree)
            sample += 1
    images = [image for row in rows for tree in row for image in tree.images]
    return marks.batch(ids, positions, torch.from_numpy(mask)[:, None], join_inputs(images), None)


def collate_paths(trees: Sequence[Tree], pad_id: int) -> TreeBatch:
    """The slower plan: every branch of every tree as a row of its own, each image encoded once."""
    unrolled = [
        (sample, branch, route, tree)
        for sample, tree in enumerate(trees)
        for branch, route in zip(tree.branches, _routes(tree), strict=True)
    ]
    length = max(len(route) for _, _, route, _ in unrolled)
    axes = trees[0].positions.shape[0]
    ids = np.full((len(unrolled), length), pad_id, dtype=np.int64)
    positions = np.zeros((axes, len(unrolled), length), dtype=np.int64)
    mask = np.zeros((len(unrolled), length), dtype=np.int64)
    marks = _Marks()
    images = [image for tree in trees for image in tree.images]
    first_image = np.cumsum([0] + [len(tree.images) for tree in trees])
    used: list[int] = []
    for r, (sample, branch, route, tree) in enumerate(unrolled):
        ids[r, : len(route)] = tree.tokens[route]
        positions[:, r, : len(route)] = tree.positions[:, route]
        mask[r, : len(route)] = 1
        last = r * length + len(route)
        scored = np.arange(last - len(branch.scored), last)
        marks.add(branch.name, scored, scored - 1, branch, sample)
        used += (first_image[sample] + np.flatnonzero(np.isin(tree.image_at, route))).tolist()
    tiles = [len(next(iter(image.inputs.values()))) for image in images]
    first_tile = np.cumsum([0, *tiles])
    reuse = ImageReuse(tuple(used), tuple(t for i in used for t in range(first_tile[i], first_tile[i + 1])))
    return marks.batch(ids, positions, torch.from_numpy(mask), join_inputs(images), reuse)


class _Marks:
    """Collects the scored tokens of all branches while rows are laid out."""

    def __init__(self) -> None:
        self.scored: list[np.ndarray[Any, Any]] = []
        self.predictors: list[np.ndarray[Any, Any]] = []
        self.rest: list[tuple[str, float, bool, int]] = []

    def add(self, name: str, scored: Any, predictors: Any, branch: Branch, sample: int) -> None:
        self.scored.append(scored)
        self.predictors.append(predictors)
        self.rest.append((name, branch.weight, branch.reduce == "mean", sample))

    def batch(
        self, ids: Any, positions: Any, mask: Tensor, images: dict[str, Tensor], reuse: ImageReuse | None
    ) -> TreeBatch:
        names, weights, means, sample = zip(*self.rest, strict=True)
        position_ids = torch.from_numpy(positions)
        return TreeBatch(
            input_ids=torch.from_numpy(ids),
            position_ids=position_ids[0] if len(position_ids) == 1 else position_ids,
            attention_mask=mask,
            image_inputs=images,
            reused=reuse,
            scored=torch.from_numpy(np.concatenate(self.scored)),
            predictors=torch.from_numpy(np.concatenate(self.predictors)),
            lengths=tuple(map(len, self.scored)),
            names=names,
            weights=weights,
            means=means,
            sample=sample,
        )


def _routes(tree: Tree) -> list[np.ndarray[Any, Any]]:
    """For every branch the indices of all tokens of its path, prompt included."""
    visible = tree.visible()
    return [np.flatnonzero(visible[branch.scored[-1]]) for branch in tree.branches]


def _as_model_mask(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """4-D boolean → additive in the model's dtype, which every attention implementation of transformers takes."""
    if mask.ndim == 2:
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)


def _image_arguments(model: Any, batch: TreeBatch) -> dict[str, Any]:
    if batch.reused is None or not batch.image_inputs:
        return dict(batch.image_inputs)
    encoded = model.get_image_features(**batch.image_inputs, return_dict=True)
    features = encoded.pooler_output
    if isinstance(features, Tensor):  # (tiles, tokens, hidden)
        encoded.pooler_output = features[list(batch.reused.tiles)]
    else:  # one (tokens, hidden) an image
        encoded.pooler_output = [features[i] for i in batch.reused.images]
    return {"mm_encoder_outputs": {"image": encoded}}
