"""Trees into the tensors of one model call, in three ways with the same numbers.

    packed   all trees in one row without padding, attention by a layout of ours (`attention`)
    masked   rows of trees, padded, a 4-D mask
    paths    every path a row of its own, the vision tower run once per image

Which of them a checkpoint family takes is found out once (`plan`); `forward` runs the model on what comes of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from throughline.mllm.attention import TreeLayout, tree_layout
from throughline.mllm.chat import EncodedImage, join_inputs
from throughline.mllm.tree import Branch, Tree


@dataclass(frozen=True)
class ImageReuse:
    """Which encoded image, and which of its tiles, stand at each use when one image serves several rows."""

    images: tuple[int, ...]
    tiles: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class TreeBatch:
    """What one model call needs. B rows of S tokens; `scored` and `predictors` are flat indices into B x S, branch
    after branch, `lengths` the number of scored tokens of each branch; `sample` says whose branch it is, `noted` from
    which to which of its tokens probabilities are wanted, `references` its reduced NLL under frozen weights."""

    input_ids: Tensor  # (B, S)
    position_ids: Tensor  # (B, S), or (axes, B, S) with multimodal RoPE
    attention: TreeLayout | Tensor  # packed; or (B, 1, S, S) bool: masked; or (B, S): paths
    image_inputs: dict[str, Tensor]
    reused: ImageReuse | None  # paths only
    scored: Tensor
    predictors: Tensor
    lengths: tuple[int, ...]
    names: tuple[str, ...]
    weights: tuple[float, ...]
    means: tuple[bool, ...]
    sample: tuple[int, ...]
    noted: tuple[tuple[int, int], ...]
    references: tuple[float, ...]
    whole_logits: bool = False  # of all marked positions at once, by the model's own call

    def to(self, device: torch.device | str) -> TreeBatch:
        """The same batch with its tensors on `device`."""
        return replace(
            self,
            input_ids=self.input_ids.to(device),
            position_ids=self.position_ids.to(device),
            attention=self.attention.to(device),
            image_inputs={name: value.to(device) for name, value in self.image_inputs.items()},
            scored=self.scored.to(device),
            predictors=self.predictors.to(device),
        )


def collate_packed(rows: Sequence[Sequence[Tree]]) -> TreeBatch:
    """All trees of all rows behind one another in one row: their trunks, those of one length together, then their
    crowns. Nothing is padded, and no tree costs another anything."""
    trees = [tree for row in rows for tree in row]
    trunks = [int((tree.node == 0).sum()) for tree in trees]
    order = sorted(range(len(trees)), key=lambda index: trunks[index])  # stable: equal trunks in the order they came
    crowns = [len(trees[index]) - trunks[index] for index in order]
    trunk_at = np.cumsum([0] + [trunks[index] for index in order])
    crown_at = trunk_at[-1] + np.cumsum([0, *crowns])
    places: dict[int, np.ndarray[Any, Any]] = {}
    for place, index in enumerate(order):
        trunk = trunk_at[place] + np.arange(trunks[index])
        places[index] = np.concatenate([trunk, crown_at[place] + np.arange(crowns[place])])
    ids = np.empty((1, crown_at[-1]), dtype=np.int64)
    positions = np.empty((trees[0].positions.shape[0], 1, crown_at[-1]), dtype=np.int64)
    marks = _Marks()
    images: list[tuple[int, EncodedImage]] = []
    for sample, tree in enumerate(trees):
        at = places[sample]
        ids[0, at] = tree.tokens
        positions[:, 0, at] = tree.positions
        for branch in tree.branches:
            marks.add(at[branch.scored], at[branch.predictors], branch, sample)
        images += zip(at[tree.image_at], tree.images, strict=True)
    images.sort(key=lambda placed: placed[0])  # features are put in where placeholders stand, in the order of the row
    layout = tree_layout([(trunks[index], trees[index].visible()) for index in order])
    return marks.batch(ids, positions, layout, join_inputs([image for _, image in images]), None)


def collate_masked(rows: Sequence[Sequence[Tree]], pad_id: int) -> TreeBatch:
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
                marks.add(branch.scored + offset, branch.predictors + offset, branch, sample)
            at += len(tree)
            sample += 1
    images = [image for row in rows for tree in row for image in tree.images]
    return marks.batch(ids, positions, torch.from_numpy(mask)[:, None], join_inputs(images), None)


def collate_paths(trees: Sequence[Tree], pad_id: int) -> TreeBatch:
    """Every branch of every tree as a row of its own, each image encoded once."""
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
        marks.add(scored, scored - 1, branch, sample)
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
        self.branches: list[Branch] = []
        self.sample: list[int] = []

    def add(self, scored: Any, predictors: Any, branch: Branch, sample: int) -> None:
        self.scored.append(scored)
        self.predictors.append(predictors)
        self.branches.append(branch)
        self.sample.append(sample)

    def batch(
        self,
        ids: Any,
        positions: Any,
        attention: TreeLayout | Tensor,
        images: dict[str, Tensor],
        reuse: ImageReuse | None,
    ) -> TreeBatch:
        position_ids = torch.from_numpy(positions)
        return TreeBatch(
            input_ids=torch.from_numpy(ids),
            position_ids=position_ids[0] if len(position_ids) == 1 else position_ids,
            attention=attention,
            image_inputs=images,
            reused=reuse,
            scored=torch.from_numpy(np.concatenate(self.scored)),
            predictors=torch.from_numpy(np.concatenate(self.predictors)),
            lengths=tuple(map(len, self.scored)),
            names=tuple(branch.name for branch in self.branches),
            weights=tuple(branch.weight for branch in self.branches),
            means=tuple(branch.reduce == "mean" for branch in self.branches),
            sample=tuple(self.sample),
            noted=tuple(branch.noted for branch in self.branches),
            references=tuple(branch.reference for branch in self.branches),
        )


def _routes(tree: Tree) -> list[np.ndarray[Any, Any]]:
    """For every branch the indices of all tokens of its path, prompt included."""
    visible = tree.visible()
    return [np.flatnonzero(visible[branch.scored[-1]]) for branch in tree.branches]
