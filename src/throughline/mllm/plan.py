"""How a checkpoint family is run. This is found by trying, not by a list of names.

After loading, a small text tree is scored by the plainest way, and in each way that `batch` knows, the fastest
first. The first that gives the same numbers is taken.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from throughline.mllm.attention import use_layouts
from throughline.mllm.batch import TreeBatch, collate_masked, collate_packed, collate_paths
from throughline.mllm.chat import Path
from throughline.mllm.forward import score_trees
from throughline.mllm.switches import switched
from throughline.mllm.tree import Leaf, Tree, merge_paths

logger = logging.getLogger(__name__)

Collate = Callable[[Sequence[Sequence[Tree]]], TreeBatch]


@dataclass(frozen=True)
class Plan:
    """One way to run a tree. Every way gives the same numbers up to rounding."""

    rows: Literal["packed", "masked", "paths"] = "packed"
    whole_logits: bool = False
    """All logits at once from the model's own call, not chunk by chunk from its head."""
    regrid: float = 0.75
    """Ended continuations are removed once no more than this share is still going: the others are then copied together,
    and copying at every end costs more. 0: never."""
    packed_weights: bool = True
    """Long continuations are computed with packed copies of large weights where that is faster (`packed_weights`)."""

    @property
    def takes_layouts(self) -> bool:
        """Whether continuations can grow on a shared prefix (`prefix`)."""
        return self.rows == "packed" and not self.whole_logits

    @property
    def pads(self) -> bool:
        """Whether samples of different lengths are padded."""
        return self.rows != "packed"

    def collate(self, rows: Sequence[Sequence[Tree]], pad_id: int) -> TreeBatch:
        """The rows as this way lays them out."""
        if self.rows == "packed":
            batch = collate_packed(rows)
        elif self.rows == "masked":
            batch = collate_masked(rows, pad_id)
        else:
            batch = collate_paths([tree for row in rows for tree in row], pad_id)
        return replace(batch, whole_logits=self.whole_logits)


PLAINEST = Plan("paths", whole_logits=True)
_SLOWER = {
    "masked": "takes no attention layout: trees run in padded rows",
    "paths": "does not take a 4-D attention mask: paths run as separate rows",
}


def choose_plan(model: Any, pad_id: int, axes: int) -> Plan:
    """The fastest way that the model computes exactly. A slower one is named in one log line."""
    try:
        use_layouts(model)
    except (AttributeError, ValueError, NotImplementedError):  # no decoder of its own, or attention not looked up
        logger.debug("%s does not look its attention up", type(model).__name__)
    plans = [Plan(rows, whole_logits=whole) for whole in (False, True) for rows in ("packed", "masked", "paths")]
    if not sees_all(model.config.get_text_config()):
        plans = [plan for plan in plans if plan.rows == "paths"]
    plan = next((plan for plan in plans if agrees(model, plan, pad_id, axes)), PLAINEST)
    if plan.rows in _SLOWER:
        logger.warning("%s %s (slower, same numbers)", type(model).__name__, _SLOWER[plan.rows])
    return plan


def sees_all(decoder: Any) -> bool:
    """Whether every layer attends to all earlier tokens, by the decoder's configuration. Trees in one row keep to no
    window: transformers takes a 4-D mask as it is. A window of thousands would not show in the tree that is tried."""
    kinds = getattr(decoder, "layer_types", None) or (["window"] if getattr(decoder, "sliding_window", None) else [])
    return set(kinds) <= {"full_attention"}


@torch.no_grad()
def agrees(model: Any, plan: Plan, pad_id: int, axes: int) -> bool:
    """Whether a tree of two branches, run by `plan`, scores as its two paths do by themselves."""
    tree = _probe(axes, pad_id, model.get_input_embeddings().num_embeddings)

    def score(plan: Plan) -> torch.Tensor:
        return score_trees(model, plan.collate([[tree]], pad_id).to(model.device)).token_nll

    with switched(model.modules(), "training", False):
        separate = score(PLAINEST)
        try:
            planned = score(plan)
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError, NotImplementedError):
            return False
        if model.dtype == torch.float32:
            return bool(torch.allclose(separate, planned, atol=1e-4, rtol=1e-4))
        # Half precision rounds the two differently, by how much depends on the model. The bound is a share of the
        # difference that appears when branches see each other, as they do where a family ignores the mask.
        batch = Plan("masked").collate([[tree]], pad_id)
        batch = replace(batch, attention=torch.ones_like(batch.input_ids), whole_logits=True)
        unmasked = score_trees(model, batch.to(model.device)).token_nll
        return bool((planned - separate).norm() < 0.3 * (unmasked - separate).norm())


def _probe(axes: int, pad_id: int, vocabulary: int) -> Tree:
    rng = np.random.default_rng(0)
    words = rng.choice(np.arange(5, min(vocabulary, 200)), size=24, replace=False)
    prompt, *answers = np.split(words[words != pad_id][:23], [8, 11])
    leaves = []
    for answer in answers:
        tokens = np.concatenate([prompt, answer])
        positions = np.broadcast_to(np.arange(len(tokens)), (axes, len(tokens))).astype(np.int64)
        leaves.append(Leaf(Path(tokens, positions, (), len(prompt)), f"{len(answer)} tokens"))
    return merge_paths(leaves, image_token_id=-1)
