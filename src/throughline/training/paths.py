"""Training examples as paths of a token tree: a question about images, and an answer behind it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from throughline.core.errors import ThroughlineError
from throughline.mllm.chat import Chat, EncodedImage, user_turn
from throughline.mllm.tree import Leaf, Reduce, Tree, merge_paths
from throughline.questions.question_set import QuestionSet


@dataclass(frozen=True)
class Example:
    """What is known of one training sample: its images, its class as it is written in prompts, and a chain if one was
    accepted. Of a preference pair it is the preferred side, `rejected` the other one, and `weight` how much the pair
    counts."""

    images: tuple[EncodedImage, ...]
    label: str
    chain: str | None = None
    rejected: Example | None = None
    weight: float = 1.0


@dataclass(frozen=True)
class PathRenderer:
    """Renders paths for objectives. `name` distinguishes the branches of a tree; losses are logged by it."""

    chat: Chat
    questions: QuestionSet
    label_reduce: Reduce = "sum"

    def label(self, example: Example, label: str | None = None, name: str = "label") -> Leaf:
        """The label question with the example's label, or another one, behind it."""
        return self.leaf(self.questions.label, example, label or example.label, name, self.label_reduce)

    def chain(self, example: Example, chain: str | None = None, name: str = "chain") -> Leaf:
        """The reasoning question with the example's chain, or another one, behind it; ValueError where it has none."""
        text = chain or example.chain
        if text is None:
            raise ValueError("a chain is marked, the example has none")
        return self.leaf(self.questions.reasoning, example, text, name, "mean")

    def leaf(self, question: str, example: Example, answer: str, name: str, reduce: Reduce) -> Leaf:
        """Any question with any answer behind it."""
        turn = user_turn(question, len(example.images))
        path = self.chat.answered(turn, example.images, answer)
        return Leaf(path, name, 1.0, reduce, class_tokens(self.chat, question, answer, example.label))

    def merge(self, leaves: Sequence[Leaf]) -> Tree:
        """The paths as one tree, what they share computed once."""
        return merge_paths(leaves, self.chat.image_token_id)


@lru_cache(maxsize=1 << 15)  # the same texts in every epoch
def class_tokens(chat: Chat, question: str, answer: str, label: str) -> tuple[int, int]:
    """From which to which token of the answer the class is named for the last time.

    (0, 0) where it is not, or where the tokenizer does not say which characters a token is: a note for the log must not
    keep anybody from training.
    """
    matches = list(re.finditer(re.escape(label), answer, re.IGNORECASE))
    if not matches:
        return 0, 0
    last = matches[-1]
    try:
        spans = chat.answer_spans(user_turn(question), answer)
    except ThroughlineError:
        return 0, 0
    within = [i for i, (start, end) in enumerate(spans) if max(start, last.start()) < min(end, last.end())]
    return (within[0], within[-1] + 1) if within else (0, 0)
