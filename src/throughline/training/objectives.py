"""What each method trains: a pure function from a sample to a token tree (which paths: a line in `methods`).

    L(sample) = [label marked] * -log p(y | x, q_cls)  +  [chain marked] * (1/T) sum_t -log p(r_t | r_<t, x, q_reason)

Eq. 1 of RD-MLDG (arXiv 2602.23777) marks both with equal weight; Eq. 2 is the same with the model's own chain for r.
The loss of a batch is the mean of L over its samples (`trainer`).
"""

from __future__ import annotations

from dataclasses import dataclass

from throughline.chains.prompts import Prompts
from throughline.mllm.chat import Chat, EncodedImage, user_turn
from throughline.mllm.tree import Leaf, Reduce, Tree, merge_paths
from throughline.training.methods import AnswerPath


@dataclass(frozen=True)
class Example:
    """What is known of one training image: its class as it is written in prompts, and a chain if one was accepted."""

    label: str
    chain: str | None = None


def sample_tree(
    chat: Chat,
    prompts: Prompts,
    image: EncodedImage,
    example: Example,
    marked: tuple[AnswerPath, ...],
    label_reduce: Reduce = "sum",
) -> Tree:
    """image + question → label · instruction + chain, as far as `marked` asks; equal weights.

    A marked chain that the example does not have is a bug of the caller: methods that need chains are refused earlier.
    """
    leaves = []
    if "label" in marked:
        path = chat.answered(user_turn(prompts.label), [image], example.label)
        leaves.append(Leaf(path, "label", 1.0, label_reduce))
    if "chain" in marked:
        if example.chain is None:
            raise ValueError("a chain is marked, the example has none")
        path = chat.answered(user_turn(prompts.reasoning), [image], example.chain)
        leaves.append(Leaf(path, "chain", 1.0, "mean"))
    return merge_paths(leaves, chat.image_token_id)
