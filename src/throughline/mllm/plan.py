"""Which of the two plans of `forward` a checkpoint family takes: found by trying, not by a list of names.

A small text tree is scored both ways once after loading. Equal: rows of trees. Unequal or refused: every path a row.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from throughline.mllm.chat import Path
from throughline.mllm.forward import TreeBatch, collate_paths, collate_trees, score_trees
from throughline.mllm.tree import Leaf, Tree, merge_paths

logger = logging.getLogger(__name__)

Collate = Callable[[Sequence[Sequence[Tree]]], TreeBatch]


def choose_collate(model: Any, pad_id: int, axes: int) -> Collate:
    """`collate_trees` where the model computes a tree exactly, else the slower plan, which is named in one log line."""
    if takes_tree_mask(model, pad_id, axes):
        return lambda rows: collate_trees(rows, pad_id)
    logger.warning(
        "%s does not take a 4-D attention mask: paths run as separate rows (slower, same numbers)",
        type(model).__name__,
    )
    return lambda rows: collate_paths([tree for row in rows for tree in row], pad_id)


@torch.no_grad()
def takes_tree_mask(model: Any, pad_id: int, axes: int) -> bool:
    """Whether a tree of two branches scores as its two paths do."""
    tree = _probe(axes, pad_id, model.get_input_embeddings().num_embeddings)
    was_training = model.training
    model.eval()
    try:
        apart = score_trees(model, collate_paths([tree], pad_id).to(model.device)).token_nll
        batch = collate_trees([[tree]], pad_id).to(model.device)
        try:
            together = score_trees(model, batch).token_nll
        except (RuntimeError, ValueError, TypeError, IndexError):
            return False
        if model.dtype == torch.float32:
            return bool(torch.allclose(apart, together, atol=1e-4, rtol=1e-4))
        # Half precision rounds the two differently, by how much depends on the model: the measure is what the
        # branches would lose if they saw each other, as they do where the mask is ignored.
        ones = torch.ones_like(batch.input_ids)
        ignored = score_trees(model, replace(batch, attention_mask=ones)).token_nll
        return bool((together - apart).norm() < 0.3 * (ignored - apart).norm())
    finally:
        model.train(was_training)


def _probe(axes: int, pad_id: int, vocabulary: int) -> Tree:
    rng = np.random.default_rng(0)
    words = [int(t) for t in rng.choice(np.arange(5, min(vocabulary, 200)), size=24, replace=False) if t != pad_id]
    prompt, short, long = words[:8], words[8:11], words[11:23]

    def path(answer: list[int]) -> Path:
        tokens = np.array(prompt + answer, dtype=np.int64)
        positions = np.broadcast_to(np.arange(len(tokens)), (axes, len(tokens))).astype(np.int64)
        return Path(tokens, positions, (), len(prompt))

    return merge_paths([Leaf(path(short), "short"), Leaf(path(long), "long")], image_token_id=-1)
