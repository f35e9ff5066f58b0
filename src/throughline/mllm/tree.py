"""The token tree: one image, many continuations.

Whole renderings of the same image (`chat.Path`) are merged at their longest common prefixes, so that image, question
and class list are computed once. A tree is plain arrays; `forward` turns rows of trees into one model call, and
`training`, `likelihood` and `analysis` only say which branches count and how.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from throughline.mllm.chat import EncodedImage, Path

Reduce = Literal["sum", "mean"]
Tokens = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Leaf:
    """A path that goes into a tree, and how its answer counts: weight 0 means scored, not trained. `watched` is the
    range of the answer's tokens whose probability is logged in training; it changes no loss."""

    path: Path
    name: str
    weight: float = 1.0
    reduce: Reduce = "mean"
    watched: tuple[int, int] = (0, 0)


@dataclass(frozen=True, eq=False)
class Branch:
    """The scored tokens of one path, as indices into the tree's tokens: `predictors[i]` is the token before
    `scored[i]` on the path, whose logits predict it. Both `(answer tokens,)`. `reference` is the reduced NLL of the
    answer under frozen weights, for objectives that compare with it."""

    name: str
    scored: Tokens
    predictors: Tokens
    weight: float
    reduce: Reduce
    watched: tuple[int, int]
    reference: float = 0.0


@dataclass(frozen=True, eq=False)
class Tree:
    """Tokens in depth-first order.

    tokens `(n,)`; positions `(axes, n)`, those each token has in a sequence of its own; node `(n,)`, the node of each
    token; parent `(nodes,)`, -1 for the root; `images` in token order, image_at `(images,)` their first placeholders.
    """

    tokens: Tokens
    positions: Tokens
    node: Tokens
    parent: Tokens
    images: tuple[EncodedImage, ...]
    image_at: Tokens
    branches: tuple[Branch, ...]

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def trunk_tokens(self) -> int:
        """Tokens of the root node, which all branches share."""
        return int((self.node == 0).sum())

    @property
    def content(self) -> list[object]:
        """All that its scores depend on besides the weights."""
        arrays = (self.tokens, self.positions, self.node, self.parent, self.image_at)
        branches = [[own.scored.tolist(), own.predictors.tolist(), own.reduce] for own in self.branches]
        return [[array.tolist() for array in arrays], [image.key for image in self.images], branches]

    def with_references(self, references: Sequence[float]) -> Tree:
        """The tree with these reduced NLLs of frozen weights on its branches, in their order."""
        pairs = zip(self.branches, references, strict=True)
        return replace(self, branches=tuple(replace(branch, reference=value) for branch, value in pairs))

    def ancestry(self) -> NDArray[np.bool_]:
        """`(nodes, nodes)`: whether column j is row i itself or one of its ancestors."""
        above = np.eye(len(self.parent), dtype=bool)
        for child, parent in enumerate(self.parent):  # parents come before children
            if parent >= 0:
                above[child] |= above[parent]
        return above

    def visible(self) -> NDArray[np.bool_]:
        """`(n, n)`: row i may attend to column j — earlier tokens of its own node, and all tokens of its ancestors."""
        allowed = self.ancestry()[self.node][:, self.node]
        return np.asarray(np.tril(allowed), dtype=bool)


def merge_paths(leaves: Sequence[Leaf], image_token_id: int) -> Tree:
    """Merges whole paths at their longest common prefixes.

    Two tokens are the same when ids, positions and, for placeholders, the images behind them are the same. A branch
    keeps every token of its answer, so branches that begin alike (a trie of labels) share tokens and still score each.
    """
    for leaf in leaves:
        if not 0 < leaf.path.answer_start < len(leaf.path.tokens):
            raise ValueError(f"branch {leaf.name!r} needs a prompt and an answer of at least one token each")
    image_ids: dict[str, int] = {}
    identities = [_identity(leaf.path, image_token_id, image_ids) for leaf in leaves]
    nodes: list[_Node] = []
    routes: list[list[Tokens]] = [[] for _ in leaves]  # of every leaf, the indices in the tree of its tokens
    stack, tokens = [(list(range(len(leaves))), 0, -1)], 0
    while stack:
        members, start, parent = stack.pop()
        first = identities[members[0]]
        end = start + min(_common_rows(first[start:], identities[member][start:]) for member in members)
        following: dict[bytes, list[int]] = {}  # the leaves that go on beyond the node, by their next token
        for member in members:
            routes[member].append(np.arange(tokens, tokens + end - start))
            if end < len(identities[member]):
                following.setdefault(identities[member][end].tobytes(), []).append(member)
        stack += [(children, end, len(nodes)) for children in reversed(following.values())]
        nodes.append(_Node(leaves[members[0]].path, start, end, parent, tokens))
        tokens += end - start
    images = [placed for node in nodes for placed in _images(node, image_token_id)]
    return Tree(
        tokens=np.concatenate([node.path.tokens[node.start : node.end] for node in nodes]),
        positions=np.concatenate([node.path.positions[:, node.start : node.end] for node in nodes], axis=1),
        node=np.repeat(np.arange(len(nodes)), [node.end - node.start for node in nodes]),
        parent=np.array([node.parent for node in nodes], dtype=np.int64),
        images=tuple(image for image, _ in images),
        image_at=np.array([place for _, place in images], dtype=np.int64),
        branches=tuple(_branch(leaf, np.concatenate(route)) for leaf, route in zip(leaves, routes, strict=True)),
    )


class _Node(NamedTuple):
    """Tokens `start:end` of a path, which stand at `place` in the tree; `parent` is the index of the node above."""

    path: Path
    start: int
    end: int
    parent: int
    place: int


def _images(node: _Node, image_token_id: int) -> list[tuple[EncodedImage, int]]:
    """The images of a node with their places in the tree; an image stands where its first placeholder stands."""
    firsts = [int(places[0]) for places in image_places(node.path, image_token_id)]
    return [
        (image, node.place + first - node.start)
        for image, first in zip(node.path.images, firsts, strict=True)
        if node.start <= first < node.end
    ]


def common_path(paths: Sequence[Path], image_token_id: int) -> Path:
    """The longest common prefix of these paths, at most up to where an answer starts, with the images in it."""
    image_ids: dict[str, int] = {}
    head = paths[0]
    first, *others = (_identity(path, image_token_id, image_ids) for path in paths)
    length = min(path.answer_start for path in paths)
    for other in others:
        length = min(length, _common_rows(first, other))
    shown = sum(int(places[0]) < length for places in image_places(head, image_token_id))
    return Path(head.tokens[:length], head.positions[:, :length], head.images[:shown], length)


def _identity(path: Path, image_token_id: int, image_ids: dict[str, int]) -> Tokens:
    """`(n, 2 + axes)`: id, image (0 for text) and positions of every token. `image_ids` numbers the images seen so far
    by their keys."""
    image = np.zeros(len(path.tokens), dtype=np.int64)
    for shown, places in zip(path.images, image_places(path, image_token_id), strict=True):
        image[places] = image_ids.setdefault(shown.key, len(image_ids) + 1)
    return np.concatenate([path.tokens[:, None], image[:, None], path.positions.T], axis=1)


def image_places(path: Path, image_token_id: int) -> list[Tokens]:
    """For each image of a path, the indices of its placeholder tokens."""
    placeholders = np.flatnonzero(path.tokens == image_token_id)
    counts = [image.placeholder_tokens for image in path.images]
    if sum(counts) != len(placeholders):
        raise ValueError(f"{len(placeholders)} image placeholders in the tokens, {sum(counts)} in the images")
    return (
        [np.asarray(part, dtype=np.int64) for part in np.split(placeholders, np.cumsum(counts)[:-1])] if counts else []
    )


def _branch(leaf: Leaf, route: Tokens) -> Branch:
    start = leaf.path.answer_start
    scored, predictors = route[start:], route[start - 1 : -1]
    return Branch(leaf.name, scored, predictors, leaf.weight, leaf.reduce, leaf.watched)


def _common_rows(a: Tokens, b: Tokens) -> int:
    length = min(len(a), len(b))
    different = (a[:length] != b[:length]).any(axis=1)
    return int(different.argmax()) if different.any() else length
