"""The token tree: one image, many continuations.

Whole renderings of the same image (`chat.Path`) are merged at their longest common prefixes, so that image, question
and class list are computed once. A tree is plain arrays; `forward` turns rows of trees into one model call, and
`training`, `likelihood` and `analysis` only say which branches count and how.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from throughline.mllm.chat import EncodedImage, Path

Reduce = Literal["sum", "mean"]
Tokens = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Leaf:
    """A path that goes into a tree, and how its answer counts: weight 0 means scored, not trained. `noted` is the range
    of the answer's tokens whose probability whoever trains wants to see; it changes no loss. `reference` is the
    reduced NLL that frozen weights give the answer, for objectives that compare with it."""

    path: Path
    name: str
    weight: float = 1.0
    reduce: Reduce = "mean"
    noted: tuple[int, int] = (0, 0)
    reference: float = 0.0


@dataclass(frozen=True, eq=False)
class Branch:
    """The scored tokens of one path, as indices into the tree's tokens: `predictors[i]` is the token before
    `scored[i]` on the path, whose logits predict it. Both `(answer tokens,)`."""

    name: str
    scored: Tokens
    predictors: Tokens
    weight: float
    reduce: Reduce
    noted: tuple[int, int]
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
    builder = _Builder(image_token_id)
    for leaf in leaves:
        builder.add(leaf)
    return builder.build()


class _Node:
    """Tokens `start:end` of the path that first came this way."""

    def __init__(self, path: int, start: int, end: int) -> None:
        self.path, self.start, self.end = path, start, end
        self.children: list[_Node] = []


class _Builder:
    def __init__(self, image_token_id: int) -> None:
        self.image_token_id = image_token_id
        self.image_ids: dict[str, int] = {}
        self.leaves: list[Leaf] = []
        self.identities: list[Tokens] = []
        self.routes: list[list[_Node]] = []
        self.root: _Node | None = None

    def add(self, leaf: Leaf) -> None:
        index, identity = len(self.leaves), _identity(leaf.path, self.image_token_id, self.image_ids)
        self.leaves.append(leaf)
        self.identities.append(identity)
        if self.root is None:
            self.root = _Node(index, 0, len(identity))
        node, at = self.root, 0
        while True:
            known = self.identities[node.path][node.start : node.end]
            shared = _common_rows(known, identity[at:])
            if shared < len(known):
                self._split(node, shared)
            at += shared
            if at == len(identity):
                break
            following = next((c for c in node.children if self._starts(c, identity[at])), None)
            if following is None:
                following = _Node(index, at, len(identity))
                node.children.append(following)
            node = following

    def _starts(self, node: _Node, row: Tokens) -> bool:
        return bool((self.identities[node.path][node.start] == row).all())

    @staticmethod
    def _split(node: _Node, shared: int) -> None:
        tail = _Node(node.path, node.start + shared, node.end)
        tail.children, node.children, node.end = node.children, [tail], node.start + shared

    def build(self) -> Tree:
        assert self.root is not None, "a tree needs at least one path"
        order: list[_Node] = []
        parent: list[int] = []
        stack = [(self.root, -1)]
        while stack:
            node, above = stack.pop()
            parent.append(above)
            index = len(order)
            order.append(node)
            stack += [(child, index) for child in reversed(node.children)]
        lengths = np.array([node.end - node.start for node in order])
        starts = dict(zip(map(id, order), np.cumsum(lengths) - lengths, strict=True))
        pieces = [(self.leaves[node.path].path, slice(node.start, node.end)) for node in order]
        images = self._images(order, starts)
        return Tree(
            tokens=np.concatenate([path.tokens[piece] for path, piece in pieces]),
            positions=np.concatenate([path.positions[:, piece] for path, piece in pieces], axis=1),
            node=np.repeat(np.arange(len(order)), lengths),
            parent=np.array(parent, dtype=np.int64),
            images=tuple(image for image, _ in images),
            image_at=np.array([at for _, at in images], dtype=np.int64),
            branches=tuple(
                _branch(leaf, self._route(identity, starts))
                for leaf, identity in zip(self.leaves, self.identities, strict=True)
            ),
        )

    def _images(self, order: list[_Node], starts: dict[int, int]) -> list[tuple[EncodedImage, int]]:
        """The images in token order with their places; an image stands where its first placeholder stands."""
        found: list[tuple[EncodedImage, int]] = []
        for node in order:
            path = self.leaves[node.path].path
            for image, places in zip(path.images, image_places(path, self.image_token_id), strict=True):
                if node.start <= places[0] < node.end:
                    found.append((image, starts[id(node)] + int(places[0]) - node.start))
        return found

    def _route(self, identity: Tokens, starts: dict[int, int]) -> Tokens:
        """Where in the tree each token of a path lies `(n,)`."""
        assert self.root is not None
        node, at, route = self.root, 0, []
        while True:
            length = node.end - node.start
            route.append(np.arange(starts[id(node)], starts[id(node)] + length))
            at += length
            if at == len(identity):
                return np.concatenate(route).astype(np.int64)
            node = next(child for child in node.children if self._starts(child, identity[at]))


def common_path(paths: Sequence[Path], image_token_id: int) -> Path:
    """What these paths begin with in common, at most up to where an answer starts, with the images that it shows."""
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
    return Branch(leaf.name, scored, predictors, leaf.weight, leaf.reduce, leaf.noted, leaf.reference)


def _common_rows(a: Tokens, b: Tokens) -> int:
    length = min(len(a), len(b))
    different = (a[:length] != b[:length]).any(axis=1)
    return int(different.argmax()) if different.any() else length
