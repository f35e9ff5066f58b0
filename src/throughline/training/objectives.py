"""What each method trains: a pure function from a sample to a token tree (which paths: a line in `methods`).

    L(sample) = [label marked] * -log p(y | x, q_cls)  +  [chain marked] * (1/T) sum_t -log p(r_t | r_<t, x, q_reason)

Eq. 1 of RD-MLDG (arXiv 2602.23777) marks both with equal weight; Eq. 2 is the same with the model's own chain for r.
The loss of a batch is the mean of L over its samples (`trainer`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from throughline.core.errors import ThroughlineError
from throughline.mllm.chat import Chat, EncodedImage, user_turn
from throughline.mllm.tree import Leaf, Reduce, Tree, merge_paths
from throughline.questions.question_set import QuestionSet
from throughline.training.methods import AnswerPath


@dataclass(frozen=True)
class Example:
    """What is known of one training image: its class as it is written in prompts, and a chain if one was accepted."""

    label: str
    chain: str | None = None


def sample_tree(
    chat: Chat,
    prompts: QuestionSet,
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
        noted = class_tokens(chat, prompts.label, example.label, example.label)
        leaves.append(Leaf(path, "label", 1.0, label_reduce, noted))
    if "chain" in marked:
        if example.chain is None:
            raise ValueError("a chain is marked, the example has none")
        path = chat.answered(user_turn(prompts.reasoning), [image], example.chain)
        noted = class_tokens(chat, prompts.reasoning, example.chain, example.label)
        leaves.append(Leaf(path, "chain", 1.0, "mean", noted))
    return merge_paths(leaves, chat.image_token_id)


@lru_cache(maxsize=1 << 15)  # the same texts in every epoch
def class_tokens(chat: Chat, question: str, answer: str, label: str) -> tuple[int, int]:
    """From which to which token of the answer the class is named for the last time; (0, 0) where it is not, or where
    the tokenizer does not tell which characters a token is: what is noted must not keep anybody from training."""
    named = list(re.finditer(re.escape(label), answer, re.IGNORECASE))
    if not named:
        return 0, 0
    found = named[-1]
    try:
        spans = chat.answer_spans(user_turn(question), answer)
    except ThroughlineError:
        return 0, 0
    within = [i for i, (start, end) in enumerate(spans) if max(start, found.start()) < min(end, found.end())]
    return (within[0], within[-1] + 1) if within else (0, 0)
