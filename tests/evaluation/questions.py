"""Fixed questions, and predictions written down by hand."""

from __future__ import annotations

from typing import Any

from throughline.chains.formats import FIVE_STAGE
from throughline.chains.prompts import make_prompts
from throughline.core.settings import AnswerSettings
from throughline.evaluation.answering import Prediction, Questions

CLASSES = ("cat", "cup", "dog")
QUESTIONS = Questions(make_prompts(CLASSES, FIVE_STAGE), CLASSES, FIVE_STAGE)
ANSWERS = ("label", "reasoning", "likelihood")


def asked(**changes: Any) -> AnswerSettings:
    """Short answers: a random model never stops by itself."""
    return AnswerSettings(**{"batch": 4, "label_tokens": 4, "chain_tokens": 6, **changes})


def predicted(sample_id: str, true: str, said: str | None, answer: str = "label", **rest: Any) -> Prediction:
    """One line of predictions.jsonl."""
    values = {"outcome": "ok" if said else "out_of_list", "text": said or "", **rest}
    return Prediction(sample_id, "sketch", (true,), answer, said, **values)
