"""Fixed questions, and predictions written down by hand."""

from collections.abc import Sequence
from typing import Any

from throughline.chains.formats import FIVE_STAGE
from throughline.core.settings import AnswerSettings
from throughline.domains.samples import Sample
from throughline.evaluation.answers import answer_samples
from throughline.mllm.load import Mllm
from throughline.questions.question_set import QuestionSet, make_question_set
from throughline.runs.records import Prediction

CLASSES = ("cat", "cup", "dog")
QUESTIONS = make_question_set(CLASSES, FIVE_STAGE)
ANSWERS = ("label", "reasoning", "likelihood")


def asked(**changes: Any) -> AnswerSettings:
    """Short answers: a random model never stops by itself."""
    return AnswerSettings(**{"batch": 4, "label_tokens": 4, "chain_tokens": 6, **changes})


def answers_of(
    mllm: Mllm, samples: Sequence[Sample], settings: AnswerSettings, questions: QuestionSet = QUESTIONS, **options: Any
) -> list[Prediction]:
    """The predictions of these settings' questions."""
    return answer_samples(mllm, samples, questions.build(settings), settings.batch, **options)


def predicted(sample_id: str, true: str, said: str | None, answer: str = "label", **rest: Any) -> Prediction:
    """One line of predictions.jsonl."""
    values = {"outcome": "ok" if said else "out_of_list", "text": said or "", **rest}
    return Prediction(sample_id, "sketch", (true,), answer, said, **values)
