"""Passages through a model: one token tree an image, so that image and question are computed once for all its texts."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch

from throughline.analysis.passages import Passages, Word, chain_words, label_words
from throughline.analysis.records import Source
from throughline.analysis.tokens import COLUMNS
from throughline.chains.formats import ChainFormat
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
    """A model with its questions. `classes` are what they offer."""

    mllm: Mllm
    reader: ImageReader
    prompts: QuestionSet
    form: ChainFormat
    classes: tuple[str, ...]

    def score(
        self, passages: Sequence[Passages], on_progress: Callable[[int, int], None] = lambda done, total: None
    ) -> Iterator[dict[str, list[Any]]]:
        """Columns of `tokens.COLUMNS`, piece by piece, in the order of the passages."""
        size = max(1, AT_ONCE // self.mllm.chat.tiles)
        for start in range(0, len(passages), size):
            piece = passages[start : start + size]
            self.reader.expect([one.sample for one in passages[start : start + 2 * size]])
            with self.mllm.evaluating():
                yield self._columns(piece)
            on_progress(start + len(piece), len(passages))

    def question(self, source: Source) -> list[Message]:
        """What a text of this source answers."""
        return user_turn(self.prompts.label if source == "label" else self.prompts.reasoning)

    def words(self, source: Source, text: str) -> list[Word]:
        """What each token of an answer is."""
        spans = self.mllm.chat.answer_spans(self.question(source), text)
        return label_words(text, spans) if source == "label" else chain_words(text, spans, self.form, self.classes)

    def _columns(self, passages: Sequence[Passages]) -> dict[str, list[Any]]:
        batch = self.mllm.collate([[self._tree(one)] for one in passages]).to(self.mllm.device)
        scores, entropy = measure_trees(self.mllm.model, batch)
        ids = batch.input_ids.view(-1)[batch.scored]
        pieces = (torch.split(value.cpu(), batch.lengths) for value in (ids, scores.token_nll, entropy))
        rows: dict[str, list[Any]] = {name: [] for name in COLUMNS.names}
        for sample, name, tokens, nll, uncertain in zip(batch.samples, batch.names, *pieces, strict=True):
            source = cast(Source, name)  # branches are named after their sources
            one = passages[sample]
            words = self.words(source, one.texts[source])
            count = len(words)
            rows["sample_id"] += [one.sample.id] * count
            rows["domain"] += [one.sample.domain] * count
            rows["source"] += [source] * count
            rows["place"] += range(count)
            rows["token_id"] += tokens.tolist()
            rows["text"] += [word.text for word in words]
            rows["stage"] += [word.stage for word in words]
            rows["kind"] += [word.kind for word in words]
            rows["nll"] += nll.tolist()
            rows["entropy"] += uncertain.tolist()
        return rows

    def _tree(self, one: Passages) -> Tree:
        chat, image = self.mllm.chat, self.reader.encode(one.sample)
        leaves = [
            Leaf(chat.answered(self.question(source), [image], text), source, 0.0, "sum")
            for source, text in one.texts.items()
        ]
        return merge_paths(leaves, chat.image_token_id)
