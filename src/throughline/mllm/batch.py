"""Trees into the tensors of one model call, in three ways with the same numbers.

    packed   all trees in one row without padding, attention by a layout of ours (`attention`)
    masked   rows of trees, padded, a 4-D mask
    paths    every path a row of its own, the vision tower run once per image

Which of them a checkpoint family takes is tried once, after loading (`plan`). `forward` runs the model on the batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from throughline.mllm.attention import TreeLayout, tree_layout
from throughline.mllm.chat import EncodedImage, join_inputs
from throughline.mllm.tree import Branch, Tokens, Tree


@dataclass(frozen=True)
class ImageReuse:
    """For every use of an image in a row, which of the encoded images it is, and which of their tiles."""

    images: tuple[int, ...]
    tiles: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class TreeBatch:
    """The arguments of one model call over B rows of S tokens, and which of these tokens are scored.

    `scored` and `predictors` are flat indices into B x S, branch after branch; `branches` are those they belong to, and
    `samples` say for each of these which of the trees it is from.
    """

    input_ids: Tensor  # (B, S)
    position_ids: Tensor  # (B, S), or (axes, B, S) with multimodal RoPE
    attention: TreeLayout | Tensor  # packed; or (B, 1, S, S) bool: masked; or (B, S): paths
    image_inputs: dict[str, Tensor]
    reused: ImageReuse | None  # paths only
    scored: Tensor
    predictors: Tensor
    branches: tuple[Branch, ...]
    samples: tuple[int, ...]
    whole_logits: bool = False  # of all marked positions at once, by the model's own call

    @property
    def names(self) -> tuple[str, ...]:
        """The name of every branch."""
        return tuple(branch.name for branch in self.branches)

    @property
    def lengths(self) -> list[int]:
        """The number of scored tokens of every branch."""
        return [len(branch.scored) for branch in self.branches]

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


@dataclass(frozen=True, eq=False)
class _Piece:
    """Tokens of a tree and where they go: `tokens` `(n,)` are their indices in the tree, ascending, `places` `(n,)`
    their flat indices in the batch. `branches` are those scored here."""

    sample: int
    tree: Tree
    tokens: Tokens
    places: Tokens
    branches: Sequence[Branch]

    def at(self, tokens: Tokens) -> Tokens:
        """The places of some of these tokens, given by their indices in the tree."""
        return self.places[np.searchsorted(self.tokens, tokens)]


def collate_packed(rows: Sequence[Sequence[Tree]]) -> TreeBatch:
    """All trees of all rows behind one another in one row: their trunks, those of one length together, then their
    crowns. Nothing is padded, and no tree costs another anything."""
    trees = [tree for row in rows for tree in row]
    order = sorted(range(len(trees)), key=lambda sample: trees[sample].trunk_tokens)  # stable among equal trunks
    lengths = [trees[sample].trunk_tokens for sample in order]
    lengths += [len(trees[sample]) - trees[sample].trunk_tokens for sample in order]
    parts = np.split(np.arange(sum(lengths)), np.cumsum(lengths)[:-1])
    places = {
        sample: np.concatenate([trunk, crown])
        for sample, trunk, crown in zip(order, parts[: len(order)], parts[len(order) :], strict=True)
    }
    pieces = [_Piece(s, tree, np.arange(len(tree)), places[s], tree.branches) for s, tree in enumerate(trees)]
    placed = [pair for s, tree in enumerate(trees) for pair in zip(places[s][tree.image_at], tree.images, strict=True)]
    placed.sort(key=lambda pair: pair[0])  # features are put in where placeholders stand, in the order of the row
    layout = tree_layout([(trees[sample].trunk_tokens, trees[sample].visible()) for sample in order])
    return _batch(pieces, (1, sum(lengths)), 0, layout, [image for _, image in placed])


def collate_masked(rows: Sequence[Sequence[Tree]], pad_id: int) -> TreeBatch:
    """Rows of trees, padded on the right. A pad token attends to itself alone, so that no row of the mask is empty."""
    length = max(sum(len(tree) for tree in row) for row in rows)
    mask = np.repeat(np.eye(length, dtype=bool)[None], len(rows), axis=0)
    pieces: list[_Piece] = []
    for index, row in enumerate(rows):
        start = 0
        for tree in row:
            tokens = np.arange(len(tree))
            mask[index, start : start + len(tree), start : start + len(tree)] = tree.visible()
            pieces.append(_Piece(len(pieces), tree, tokens, index * length + start + tokens, tree.branches))
            start += len(tree)
    images = [image for piece in pieces for image in piece.tree.images]
    return _batch(pieces, (len(rows), length), pad_id, torch.from_numpy(mask)[:, None], images)


def collate_paths(trees: Sequence[Tree], pad_id: int) -> TreeBatch:
    """Every branch of every tree as a row of its own, each image encoded once."""
    routes = [
        (sample, tree, branch, np.flatnonzero(visible[branch.scored[-1]]))
        for sample, tree in enumerate(trees)
        for visible in [tree.visible()]
        for branch in tree.branches
    ]
    length = max(len(route) for *_, route in routes)
    pieces = [
        _Piece(sample, tree, route, row * length + np.arange(len(route)), (branch,))
        for row, (sample, tree, branch, route) in enumerate(routes)
    ]
    lengths = np.array([len(piece.places) for piece in pieces])
    mask = (np.arange(length) < lengths[:, None]).astype(np.int64)
    images = [image for tree in trees for image in tree.images]
    first_image = np.cumsum([0] + [len(tree.images) for tree in trees])
    used = [
        int(first_image[piece.sample] + image)
        for piece in pieces
        for image in np.flatnonzero(np.isin(piece.tree.image_at, piece.tokens))
    ]
    first_tile = np.cumsum([0] + [len(next(iter(image.inputs.values()))) for image in images])
    tiles = tuple(tile for image in used for tile in range(first_tile[image], first_tile[image + 1]))
    reuse = ImageReuse(tuple(used), tiles)
    return _batch(pieces, (len(pieces), length), pad_id, torch.from_numpy(mask), images, reuse)


def _batch(
    pieces: Sequence[_Piece],
    shape: tuple[int, int],
    pad_id: int,
    attention: TreeLayout | Tensor,
    images: Sequence[EncodedImage],
    reused: ImageReuse | None = None,
) -> TreeBatch:
    """Puts all pieces in their places of `(rows, tokens)`, and marks the scored tokens of their branches."""
    axes = len(pieces[0].tree.positions)
    ids = np.full(math.prod(shape), pad_id, dtype=np.int64)
    positions = np.zeros((axes, math.prod(shape)), dtype=np.int64)
    for piece in pieces:
        ids[piece.places] = piece.tree.tokens[piece.tokens]
        positions[:, piece.places] = piece.tree.positions[:, piece.tokens]
    marks = [(piece, branch) for piece in pieces for branch in piece.branches]
    position_ids = torch.from_numpy(positions.reshape(axes, *shape))
    return TreeBatch(
        input_ids=torch.from_numpy(ids.reshape(shape)),
        position_ids=position_ids[0] if axes == 1 else position_ids,
        attention=attention,
        image_inputs=join_inputs(images),
        reused=reused,
        scored=torch.from_numpy(np.concatenate([piece.at(branch.scored) for piece, branch in marks])),
        predictors=torch.from_numpy(np.concatenate([piece.at(branch.predictors) for piece, branch in marks])),
        branches=tuple(branch for _, branch in marks),
        samples=tuple(piece.sample for piece, _ in marks),
    )
