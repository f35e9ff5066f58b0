"""The measures of drift along one chain about one image, a row for each token.

    p_j  the distribution of token j behind image, question and the tokens before it
    z_j  the distribution of the answer behind the same: each class as the conclusion of the chain cut off there

A chain goes through the model once; all of its beginnings share its keys and values, and the classes grow on them as
one trie (`mllm.prefix`, `mllm.likelihood`). Drift of arXiv 2505.13081 and 2604.15705 is a change of p or z from one
token to the next; entropy and divergence of p are those of arXiv 2602.02863, over the whole vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from throughline.analysis.passages import chain_words
from throughline.chains.parsing import parse_chain
from throughline.core.errors import ThroughlineError
from throughline.domains.samples import Sample
from throughline.drift.places import Place, closing, places_of, read_at
from throughline.mllm.chat import EncodedImage, user_turn
from throughline.mllm.divergences import entropy, js_divergence, kl_divergence
from throughline.mllm.head import LOGITS_AT_ONCE
from throughline.mllm.likelihood import Crown, crown_log_likelihood, crown_of
from throughline.mllm.load import Mllm
from throughline.mllm.lora import base_of
from throughline.mllm.prefix import Prefix, encode_beginnings
from throughline.questions.question_set import QuestionSet

VERSION = 1
"""Raised when the same model, images and chains would give other rows."""
TOKEN_MEASURES = ("nll", "entropy", "jsd")
"""Of each token: its NLL, the entropy of p_j, the Jensen-Shannon divergence of p_j from p_(j-1), 0 at the first."""
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("sample_id", "chain", "label", "concluded", "text", "stage", "ended")),
        *((name, pa.int32()) for name in ("place", "token_id")),
        *((name, pa.float32()) for name in (*TOKEN_MEASURES, "image_kl", "answer_jsd")),
        ("answers", pa.list_(pa.float32())),
    ]
)
"""`concluded` is the class that the chain names, null for none; `ended` the stage that ends right before the token;
`image_kl` the KL divergence of p_j from the one behind another image; `answers` z_j and `answer_jsd` its divergence
from the z read before it, null where the answer was not read."""


@dataclass(frozen=True)
class Chain:
    """A chain about an image. `key` tells the chains of an image apart."""

    sample: Sample
    key: str
    text: str
    finish_reason: str | None = None


@dataclass(frozen=True)
class Meter:
    """A model with its questions; the answer is read at every `every`-th token (see `places.read_at`). ThroughlineError
    for a model whose continuations cannot share a prefix."""

    mllm: Mllm
    questions: QuestionSet
    every: int = 1
    _crowns: dict[tuple[str | None, bool], Crown] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.mllm.plan.takes_layouts:
            what = "continuations of this model cannot share a prefix, so its drift is not measured"
            raise ThroughlineError(what, self.mllm.name, "take a checkpoint of another family")

    def measure(self, chain: Chain, image: EncodedImage, other: EncodedImage | None) -> pa.Table:
        """The rows of `SCHEMA`; `other` is the image to compare with."""
        chat, form = self.mllm.chat, self.questions.format
        question = user_turn(self.questions.reasoning)
        spans = chat.answer_spans(question, chain.text)
        path = chat.answered(question, [image], chain.text)
        with torch.no_grad(), self.mllm.evaluating():
            prefix = encode_beginnings(self.mllm.model, path)
            beside = None
            if other is not None:
                beside = encode_beginnings(self.mllm.model, chat.answered(question, [other], chain.text))
            ids = torch.from_numpy(path.tokens[path.answer_start :]).to(self.mllm.device)
            measured = self._token_measures(prefix, ids, beside).tolist()
            places = read_at(places_of(chain.text, spans, form), self.every)
            answers = self.answers(prefix, places)
        moved = [None, *(float(js_divergence(before, after)) for before, after in pairwise(answers))]
        found = zip(places, moved, answers.exp().tolist(), strict=True)
        read = {place.token: {"ended": place.ended, "answer_jsd": jsd, "answers": z} for place, jsd, z in found}
        parsed = parse_chain(chain.text, form, self.questions.classes, chain.finish_reason, self.questions.names)
        known = {
            "sample_id": chain.sample.id,
            "chain": chain.key,
            "label": chain.sample.label,
            "concluded": parsed.label,
        }
        words = chain_words(chain.text, spans, form, self.questions.class_names)
        rows: list[dict[str, Any]] = []
        for place, (word, token_id, values) in enumerate(zip(words, ids.tolist(), measured, strict=True)):
            of_token: dict[str, Any] = {"place": place, "token_id": token_id, "text": word.text, "stage": word.stage}
            of_token |= zip((*TOKEN_MEASURES, "image_kl"), values, strict=False)
            rows.append({**known, **of_token, **read.get(place, {})})  # what lacks is null
        return pa.Table.from_pylist(rows, SCHEMA)

    def _token_measures(self, prefix: Prefix, ids: Tensor, beside: Prefix | None) -> Tensor:
        """`(tokens, 3 or 4)`: `TOKEN_MEASURES` and, with another image, the divergence from what follows behind it."""
        head, parts, before = base_of(self.mllm.model).get_output_embeddings(), [], None
        size = max(1, LOGITS_AT_ONCE // len(head.weight))
        for rows in torch.split(torch.arange(len(ids), device=ids.device), size):
            log_p = torch.log_softmax(head(prefix.state[rows]).double(), dim=-1)
            shifted = torch.cat([log_p[:1] if before is None else before, log_p[:-1]])
            before = log_p[-1:]
            measures = [-log_p.gather(1, ids[rows, None])[:, 0], entropy(log_p), js_divergence(log_p, shifted)]
            if beside is not None:
                log_q = torch.log_softmax(head(beside.state[rows]).double(), dim=-1)
                measures.append(kl_divergence(log_p, log_q))
            parts.append(torch.stack(measures, dim=1))
        return torch.cat(parts)

    def answers(self, prefix: Prefix, places: list[Place]) -> Tensor:
        """`(places, classes)`: log z at each place. Those that are closed alike go together."""
        alike: dict[tuple[str | None, bool], list[int]] = {}
        for number, place in enumerate(places):
            alike.setdefault((place.opened, place.at_line_start), []).append(number)
        logs = torch.empty(len(places), len(self.questions.classes), dtype=torch.float64)
        for kind, numbers in alike.items():
            if kind not in self._crowns:
                texts = [closing(self.questions.format, places[numbers[0]], c) for c in self.questions.class_names]
                self._crowns[kind] = crown_of([self.tokens_of(text) for text in texts])
            chosen = prefix.chosen(torch.tensor([places[n].token for n in numbers], device=self.mllm.device))
            sums = crown_log_likelihood(self.mllm, chosen, self._crowns[kind]).double()
            logs[numbers] = torch.log_softmax(sums, dim=-1)
        return logs

    def tokens_of(self, text: str) -> list[int]:
        """The tokens of what follows a text, and of the end of the turn. Some tokenizers put a blank before what they
        take for a beginning, so a letter stands there."""
        chat = self.mllm.chat

        def cut(text: str) -> list[int]:
            return list(chat.tokenizer(text, add_special_tokens=False)["input_ids"])

        before, whole = cut("x"), cut("x" + text + chat.end_of_turn)
        return whole[len(before) :] if whole[: len(before)] == before else cut(text + chat.end_of_turn)
