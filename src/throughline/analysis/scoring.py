"""Passages through a model: one token tree an image, so that image and question are computed once for all its texts."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pandas as pd
import torch

from throughline.analysis.passages import Passages, Word, chain_words, label_words
from throughline.analysis.records import Source
from throughline.analysis.tokens import COLUMNS
from throughline.mllm.chat import Message, user_turn
from throughline.mllm.forward import measure_trees
from throughline.mllm.images import ImageReader
from throughline.mllm.load import Mllm
from throughline.mllm.tree import Leaf, Tree, merge_paths
from throughline.questions.question_set import QuestionSet

VERSION = 2
"""Raised when the same weights and texts would give other rows."""

AT_ONCE = 16
"""Tiles, or images of one tile, in one pass."""


@dataclass(frozen=True)
class Scorer:
    """A model with its questions."""

    mllm: Mllm
    reader: ImageReader
    questions: QuestionSet

    def score(
        self, passages: Sequence[Passages], on_progress: Callable[[int, int], None] = lambda done, total: None
    ) -> Iterator[pd.DataFrame]:
        """Rows of `tokens.COLUMNS`, piece by piece, in the order of the passages."""
        size = max(1, AT_ONCE // self.mllm.chat.tiles)
        for start in range(0, len(passages), size):
            piece = passages[start : start + size]
            self.reader.expect([one.sample for one in passages[start : start + 2 * size]])
            with self.mllm.evaluating():
                yield self._rows(piece)
            on_progress(start + len(piece), len(passages))

    def question(self, source: Source) -> list[Message]:
        """What a text of this source answers."""
        return user_turn(self.questions.label if source == "label" else self.questions.reasoning)

    def words(self, source: Source, text: str) -> list[Word]:
        """What each token of an answer is."""
        spans = self.mllm.chat.answer_spans(self.question(source), text)
        if source == "label":
            return label_words(text, spans)
        return chain_words(text, spans, self.questions.format, self.questions.class_names)

    def _rows(self, passages: Sequence[Passages]) -> pd.DataFrame:
        batch = self.mllm.collate([[self._tree(one)] for one in passages]).to(self.mllm.device)
        scores, entropy = measure_trees(self.mllm.model, batch)
        ids = batch.input_ids.view(-1)[batch.scored]
        pieces = (torch.split(value.cpu(), batch.lengths) for value in (ids, scores.token_nll, entropy))
        rows: list[tuple[Any, ...]] = []
        for number, name, *values in zip(batch.samples, batch.names, *pieces, strict=True):
            source, sample = cast(Source, name), passages[number].sample  # branches are named after their sources
            words = self.words(source, passages[number].texts[source])
            rows += [
                (sample.id, sample.domain, source, place, token_id, word.text, word.stage, word.kind, *measured)
                for place, (word, token_id, *measured) in enumerate(
                    zip(words, *(value.tolist() for value in values), strict=True)
                )
            ]
        return pd.DataFrame(rows, columns=COLUMNS.names)

    def _tree(self, one: Passages) -> Tree:
        chat, image = self.mllm.chat, self.reader.encode(one.sample)
        leaves = [
            Leaf(chat.answered(self.question(source), [image], text), source, 0.0, "sum")
            for source, text in one.texts.items()
        ]
        return merge_paths(leaves, chat.image_token_id)
