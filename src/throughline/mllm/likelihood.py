"""The probability of each class as an answer: all C labels as one trie behind the prompt, scored in one pass.

log p(label | image, question) is the sum of its tokens' log-probabilities, the end of the turn included, so that `cat`
and `cat tower` are complete answers and do not share mass; `evaluation` normalises over the classes it offers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from throughline.mllm.chat import EncodedImage, Message
from throughline.mllm.forward import score_trees
from throughline.mllm.load import Mllm
from throughline.mllm.tree import Leaf, Tree, merge_paths


def label_trie(mllm: Mllm, messages: Sequence[Message], image: EncodedImage, labels: Sequence[str]) -> Tree:
    """Prompt and image as the trunk, the labels' tokens as the crown; branches in the order of `labels`."""
    chat = mllm.chat
    leaves = [Leaf(chat.answered(messages, [image], label), label, 0.0, "sum") for label in labels]
    return merge_paths(leaves, chat.image_token_id)


@torch.no_grad()
def label_log_likelihood(
    mllm: Mllm, messages: Sequence[Message], images: Sequence[EncodedImage], labels: Sequence[str]
) -> Tensor:
    """`(images, labels)` log-probabilities of each label as the whole answer, fp32 on the CPU; one pass for all."""
    trees = [label_trie(mllm, messages, image, labels) for image in images]
    batch = mllm.collate([[tree] for tree in trees]).to(mllm.device)
    with mllm.asked():
        nll = score_trees(mllm.model, batch).branch_nll()
    return -nll.cpu().unflatten(0, (len(images), len(labels)))
