"""Merging paths into a tree loses nothing, repeats nothing and confuses no images: for any paths."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from throughline.mllm.chat import EncodedImage, Path
from throughline.mllm.tree import Leaf, Tree, merge_paths

IMAGE = 9
IMAGES = {
    key: EncodedImage(key, {"pixel_values": torch.full((1, 1), float(i))}, "", length)
    for i, (key, length) in enumerate([("a", 2), ("b", 2), ("c", 3)])
}


def path_of(pieces: list[int | str], answer: int, axes: int) -> Path:
    """Words and images in a row. With three axes an image takes one step of position, as in multimodal RoPE."""
    tokens: list[int] = []
    steps: list[int] = []
    for piece in pieces:
        length = IMAGES[piece].placeholder_tokens if isinstance(piece, str) else 1
        tokens += [IMAGE] * length if isinstance(piece, str) else [piece]
        steps += [1] + [0 if axes == 3 else 1] * (length - 1)
    positions = np.broadcast_to(np.cumsum(steps) - 1, (axes, len(tokens))).astype(np.int64)
    images = tuple(IMAGES[piece] for piece in pieces if isinstance(piece, str))
    return Path(np.array(tokens, dtype=np.int64), positions, images, len(tokens) - answer)


@st.composite
def leaves(draw: st.DrawFn) -> list[Leaf]:
    axes = draw(st.sampled_from([1, 3]))
    piece = st.one_of(st.integers(1, 3), st.integers(1, 3), st.sampled_from(sorted(IMAGES)))
    found = []
    for index in range(draw(st.integers(1, 6))):
        prompt = draw(st.lists(piece, min_size=1, max_size=6))
        answer = draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
        found.append(Leaf(path_of([*prompt, *answer], len(answer), axes), f"leaf {index}", float(index)))
    return found


def keys(path: Path) -> list[tuple[object, ...]]:
    """What makes each token of a path what it is: id, image behind it, positions."""
    behind = iter([image.key for image in path.images for _ in range(image.placeholder_tokens)])
    return [
        (int(token), next(behind) if token == IMAGE else None, *map(int, at))
        for token, at in zip(path.tokens, path.positions.T, strict=True)
    ]


def seen_by(tree: Tree, token: int) -> np.ndarray:
    return np.flatnonzero(tree.visible()[token])


@settings(max_examples=150, deadline=None)
@given(leaves())
def test_unrolling_a_branch_gives_its_path_back(leaves: list[Leaf]) -> None:
    tree = merge_paths(leaves, IMAGE)
    assert [b.name for b in tree.branches] == [leaf.name for leaf in leaves]
    for branch, leaf in zip(tree.branches, leaves, strict=True):
        route = seen_by(tree, int(branch.scored[-1]))
        assert tree.tokens[route].tolist() == leaf.path.tokens.tolist()
        assert tree.positions[:, route].tolist() == leaf.path.positions.tolist()
        assert branch.scored.tolist() == route[leaf.path.answer_start :].tolist()
        assert branch.predictors.tolist() == route[leaf.path.answer_start - 1 : -1].tolist()
        assert (branch.weight, branch.reduce) == (leaf.weight, leaf.reduce)


@settings(max_examples=150, deadline=None)
@given(leaves())
def test_a_tree_has_as_many_tokens_as_the_trie_of_its_paths(leaves: list[Leaf]) -> None:
    prefixes = {tuple(keys(leaf.path)[: n + 1]) for leaf in leaves for n in range(len(leaf.path.tokens))}
    assert len(merge_paths(leaves, IMAGE)) == len(prefixes)


@settings(max_examples=150, deadline=None)
@given(leaves())
def test_identical_images_merge_and_different_images_never_do(leaves: list[Leaf]) -> None:
    tree = merge_paths(leaves, IMAGE)
    for branch, leaf in zip(tree.branches, leaves, strict=True):
        route = seen_by(tree, int(branch.scored[-1]))
        on_route = [i.key for i, at in zip(tree.images, tree.image_at, strict=True) if at in route]
        assert on_route == [image.key for image in leaf.path.images]
    placed = set()
    for leaf in leaves:
        every, at = keys(leaf.path), np.flatnonzero(leaf.path.tokens == IMAGE)
        for image in leaf.path.images:
            placed.add(tuple(every[: at[0] + 1]))
            at = at[image.placeholder_tokens :]
    assert len(tree.images) == len(placed)
    assert sorted(tree.image_at) == list(tree.image_at)
    assert (tree.tokens == IMAGE).sum() == sum(image.placeholder_tokens for image in tree.images)


@settings(max_examples=60, deadline=None)
@given(leaves(), st.randoms(use_true_random=False))
def test_the_order_of_paths_changes_no_size(leaves: list[Leaf], random: np.random.Generator) -> None:
    tree = merge_paths(leaves, IMAGE)
    random.shuffle(leaves)  # type: ignore[arg-type]
    other = merge_paths(leaves, IMAGE)
    assert (len(tree), len(tree.parent), len(tree.images)) == (len(other), len(other.parent), len(other.images))


def test_a_token_sees_its_ancestors_and_no_sibling() -> None:
    paths = [[1, 2, 1, 1], [1, 2, 2, 1], [1, 2, 2, 2]]
    tree = merge_paths([Leaf(path_of([*p], 2, 1), str(p)) for p in paths], IMAGE)
    assert tree.tokens.tolist() == [1, 2, 1, 1, 2, 1, 2]
    seen = [seen_by(tree, i).tolist() for i in range(7)]
    assert seen == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 4], [0, 1, 4, 5], [0, 1, 4, 6]]


def test_tokens_at_different_positions_stay_apart() -> None:
    """Behind two images of different size the same words stand at different places."""
    first, second = path_of([1, "a", 2, 3], 1, 1), path_of([1, "c", 2, 3], 1, 1)
    assert len(merge_paths([Leaf(first, "a"), Leaf(second, "c")], IMAGE)) == len(first.tokens) + len(second.tokens) - 1


def test_the_same_path_twice_is_stored_once_and_scored_twice() -> None:
    path = path_of([1, "a", 2, 3], 2, 1)
    tree = merge_paths([Leaf(path, "once", 1.0), Leaf(path, "again", 2.0)], IMAGE)
    assert len(tree) == len(path.tokens)
    assert [b.weight for b in tree.branches] == [1.0, 2.0]
    assert tree.branches[0].scored.tolist() == tree.branches[1].scored.tolist()


@pytest.mark.parametrize("answer", [0, 3])
def test_a_branch_needs_a_prompt_and_an_answer(answer: int) -> None:
    with pytest.raises(ValueError, match="branch 'empty' needs a prompt and an answer"):
        merge_paths([Leaf(path_of([1, 2, 3], answer, 1), "empty")], IMAGE)
