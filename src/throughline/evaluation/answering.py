"""Asking a model about images in three ways, side by side: the label path, the reasoning path, and the likelihood of
every class. Every planned sample ends in one prediction; what cannot be read or parsed counts as wrong and is named.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from throughline.chains.answers import parse_answer
from throughline.chains.formats import ChainFormat
from throughline.chains.outcomes import Outcome
from throughline.chains.parsing import parse_chain
from throughline.chains.prompts import Prompts, class_name
from throughline.core.errors import ThroughlineError
from throughline.core.settings import AnswerSettings, SamplingSettings
from throughline.domains.samples import Sample
from throughline.mllm.chat import EncodedImage, user_turn
from throughline.mllm.constraints import StageConstraint
from throughline.mllm.images import ImageReader
from throughline.mllm.likelihood import label_log_likelihood
from throughline.mllm.load import Mllm
from throughline.mllm.prefix import Prefix, encode_prefix
from throughline.mllm.sampling import Continuation, sample
from throughline.mllm.tree import common_path

VERSION = 3
"""Raised when the same model and images would give other predictions."""


@dataclass(frozen=True, slots=True)  # a hundred thousand are held at once
class Prediction:
    """One line of predictions.jsonl. `predicted` is None when no class could be read from the answer."""

    sample_id: str
    domain: str
    labels: tuple[str, ...]
    answer: str
    predicted: str | None
    outcome: str
    text: str
    probabilities: tuple[float, ...] | None = None

    @property
    def correct(self) -> bool:
        """Whether the class read is one of the sample's."""
        return self.predicted in self.labels

    def to_json(self) -> dict[str, Any]:
        """The line without what this answer does not have."""
        return {key: value for key, value in asdict(self).items() if key != "probabilities" or value is not None}


@dataclass(frozen=True)
class Questions:
    """What a model is asked: both prompts, the classes they offer, and the format of chains."""

    prompts: Prompts
    classes: tuple[str, ...]
    format: ChainFormat


def answer_samples(
    mllm: Mllm,
    samples: Sequence[Sample],
    questions: Questions,
    settings: AnswerSettings,
    *,
    reader: ImageReader | None = None,
    told: Callable[[int, int], None] = lambda done, total: None,
    timed: Callable[[str, float], None] = lambda answer, seconds: None,
) -> list[Prediction]:
    """Predictions in the order of `samples`, for each sample one per way of answering, in the order of the settings.

    What the questions share is computed once for each image. `timed` is called for every batch and way with the seconds
    it took; what they share, reading the images included, is split evenly among them.
    """
    reader = reader or ImageReader(mllm.chat)
    constrained = settings.constrained and "reasoning" in settings.answers
    constraint = StageConstraint(mllm.chat, questions.format) if constrained else None
    predictions: list[Prediction] = []
    with mllm.asked():
        for start in range(0, len(samples), settings.batch):
            batch = samples[start : start + settings.batch]
            reader.expect(samples[start : start + 2 * settings.batch])  # read the next batch while this one is computed
            predictions += _answer_batch(mllm, reader, batch, questions, settings, constraint, timed)
            told(min(start + settings.batch, len(samples)), len(samples))
    return predictions


def _answer_batch(
    mllm: Mllm,
    reader: ImageReader,
    batch: Sequence[Sample],
    questions: Questions,
    settings: AnswerSettings,
    constraint: StageConstraint | None,
    timed: Callable[[str, float], None],
) -> Iterator[Prediction]:
    began = time.monotonic()
    readable: list[Sample] = []
    images: list[EncodedImage] = []
    faults: dict[str, str] = {}
    for one in batch:
        try:
            images.append(reader.encode(one))
            readable.append(one)
        except ThroughlineError as error:
            faults[one.id] = str(error)
    found: dict[tuple[str, str], Prediction] = {}
    if readable:
        asked = _Asked(mllm, readable, images, questions, settings, constraint)
        shared = (time.monotonic() - began) / len(settings.answers)
        for answer in settings.answers:
            began = time.monotonic()
            for prediction in _ASK[answer](asked):
                found[prediction.sample_id, answer] = prediction
            timed(answer, shared + time.monotonic() - began)
    for one in batch:
        for answer in settings.answers:
            failed = Prediction(one.id, one.domain, one.labels, answer, None, Outcome.ERROR, faults.get(one.id, ""))
            yield found.get((one.id, answer), failed)


class _Asked:
    """A batch about to be asked: every question's prompts, and what they share through the model already."""

    def __init__(
        self,
        mllm: Mllm,
        samples: Sequence[Sample],
        images: Sequence[EncodedImage],
        questions: Questions,
        settings: AnswerSettings,
        constraint: StageConstraint | None,
    ) -> None:
        self.mllm, self.samples, self.images, self.constraint = mllm, samples, images, constraint
        self.questions, self.settings = questions, settings
        asked = {questions.prompts.reasoning if a == "reasoning" else questions.prompts.label for a in settings.answers}
        self.prompts = {text: [mllm.chat.prompt(user_turn(text), [image]) for image in images] for text in asked}
        self.prefix: Prefix | None = None
        if mllm.plan.takes_layouts:
            self.prefix = encode_prefix(
                mllm.model, [common_path(paths) for paths in zip(*self.prompts.values(), strict=True)]
            )

    def greedy(self, text: str, tokens: int, constraint: StageConstraint | None = None) -> list[Continuation]:
        """The most likely answers to the question `text`."""
        settings = SamplingSettings(temperature=0.0, max_new_tokens=tokens, constrained=constraint is not None)
        said = sample(self.mllm, self.prompts[text], settings, prefix=self.prefix, constraint=constraint)
        return [row[0] for row in said]


def _ask_label(asked: _Asked) -> Iterator[Prediction]:
    questions = asked.questions
    said_by = asked.greedy(questions.prompts.label, asked.settings.label_tokens)
    for one, said in zip(asked.samples, said_by, strict=True):
        read = parse_answer(said.text, questions.classes)
        yield Prediction(one.id, one.domain, one.labels, "label", read.label, read.outcome, said.text)


def _ask_reasoning(asked: _Asked) -> Iterator[Prediction]:
    """A chain that is not well formed gives no class: a name somewhere in it is not its conclusion."""
    questions = asked.questions
    said_by = asked.greedy(questions.prompts.reasoning, asked.settings.chain_tokens, asked.constraint)
    for one, said in zip(asked.samples, said_by, strict=True):
        read = parse_chain(said.text, questions.format, questions.classes, said.finish_reason)
        label = read.label if read.outcome == Outcome.OK else None
        yield Prediction(one.id, one.domain, one.labels, "reasoning", label, read.outcome, said.text)


def _ask_likelihood(asked: _Asked) -> Iterator[Prediction]:
    """The most likely class; its probabilities are over the classes offered, in their order."""
    questions = asked.questions
    names = [class_name(label) for label in questions.classes]
    question = user_turn(questions.prompts.label)
    scores = label_log_likelihood(asked.mllm, question, asked.images, names, asked.prefix)
    for one, row in zip(asked.samples, torch.softmax(scores.double(), dim=1), strict=True):
        best = questions.classes[int(row.argmax())]
        probabilities = tuple(float(f"{p:.6g}") for p in row.tolist())  # digits, not places: log p has to stay
        yield Prediction(one.id, one.domain, one.labels, "likelihood", best, Outcome.OK, "", probabilities)


_ASK: dict[str, Callable[[_Asked], Iterator[Prediction]]] = {
    "label": _ask_label,
    "reasoning": _ask_reasoning,
    "likelihood": _ask_likelihood,
}
