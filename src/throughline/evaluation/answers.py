"""Asking a model questions about samples, side by side.

Every planned sample ends in one prediction for each question; what cannot be read or parsed counts as wrong and is
named. What the prompts about a sample begin with in common goes through the model once.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from throughline.chains.outcomes import Outcome
from throughline.core.errors import ThroughlineError
from throughline.core.files import content_hash
from throughline.core.settings import SamplingSettings
from throughline.domains.samples import Sample
from throughline.mllm.chat import EncodedPrompt, Path
from throughline.mllm.constraints import StageConstraint
from throughline.mllm.images import ImageReader
from throughline.mllm.likelihood import label_log_likelihood
from throughline.mllm.load import Mllm
from throughline.mllm.prefix import Prefix, encode_prefix
from throughline.mllm.sampling import sample as continuations_of
from throughline.mllm.tree import common_path
from throughline.questions.prompt import PromptMaker
from throughline.questions.question import Generated, Likelihood, Question, Reading
from throughline.runs.records import Prediction


def answer_samples(
    mllm: Mllm,
    samples: Sequence[Sample],
    questions: Sequence[Question],
    batch: int,
    *,
    reader: ImageReader | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    seconds: Counter[str] | None = None,
) -> list[Prediction]:
    """Predictions in the order of `samples`, for each sample one a question, in the order of the questions.

    `batch` samples are asked about together. To `seconds` is added what each question takes; what the questions share,
    reading the images included, is split evenly among them.
    """
    asking = _Asking(mllm, questions, reader or ImageReader(mllm.chat), Counter() if seconds is None else seconds)
    predictions: list[Prediction] = []
    with mllm.evaluating():
        for start in range(0, len(samples), batch):
            asking.expect(samples[start : start + 2 * batch])  # the next batch is read while this one is computed
            predictions += asking.answer(samples[start : start + batch])
            on_progress(min(start + batch, len(samples)), len(samples))
    return predictions


class _Asking:
    """The questions about to be asked, each prompt of theirs once."""

    def __init__(self, mllm: Mllm, questions: Sequence[Question], reader: ImageReader, seconds: Counter[str]) -> None:
        self.mllm, self.questions, self.reader, self.seconds = mllm, questions, reader, seconds
        self._last: tuple[object, tuple[str, ...], Tensor] | None = None  # prompts, continuations, their likelihood
        self._priors: dict[str, Tensor] = {}
        self.makers: tuple[PromptMaker, ...] = tuple(dict.fromkeys(question.prompt for question in questions))
        self.constraints = {
            question.name: StageConstraint(mllm.chat, question.answer.format)
            for question in questions
            if isinstance(question.answer, Generated) and question.answer.format is not None
        }

    def expect(self, samples: Sequence[Sample]) -> None:
        """Has the images of these samples' prompts read in the background."""
        prompts = (make(sample) for sample in samples for make in self.makers)
        self.reader.expect([image for prompt in prompts for image in prompt.images])

    def answer(self, samples: Sequence[Sample]) -> Iterator[Prediction]:
        """A prediction for every sample and question. A sample one of whose images cannot be read fails for all."""
        began = time.monotonic()
        readable: list[Sample] = []
        encoded: list[list[EncodedPrompt]] = []
        predictions: dict[tuple[str, str], Prediction] = {}
        for sample in samples:
            try:
                encoded.append([make(sample).encode(self.reader) for make in self.makers])
            except ThroughlineError as error:
                failed = Reading(None, Outcome.ERROR)
                predictions |= {
                    (sample.id, q.name): prediction_of(sample, q, failed, str(error)) for q in self.questions
                }
                continue
            readable.append(sample)
        if readable:
            prompts = dict(zip(self.makers, zip(*encoded, strict=True), strict=True))
            paths = {make: [prompt.path(self.mllm.chat) for prompt in own] for make, own in prompts.items()}
            prefixes = _shared_prefixes(self.mllm, paths)
            shared = (time.monotonic() - began) / len(self.questions)
            for question in self.questions:
                began, make = time.monotonic(), question.prompt
                replies = self._ask(question, prompts[make], paths[make], prefixes.get(make))
                for sample, (reading, text) in zip(readable, replies, strict=True):
                    predictions[sample.id, question.name] = prediction_of(sample, question, reading, text)
                self.seconds.update({question.name: shared + time.monotonic() - began})
        for sample in samples:
            yield from (predictions[sample.id, question.name] for question in self.questions)

    def _ask(
        self, question: Question, prompts: Sequence[EncodedPrompt], paths: Sequence[Path], prefix: Prefix | None
    ) -> Iterator[tuple[Reading, str]]:
        """What is read of each answer, and its text."""
        answer = question.answer
        if isinstance(answer, Likelihood):
            scores = self._scores(answer, prompts, prefix)
            if scores.isnan().any():
                what = "the model's probabilities are not numbers: its training may have diverged"
                raise ThroughlineError(what, self.mllm.name, "train it again with a lower learning rate")
            for probabilities in torch.softmax(scores.double(), dim=1).tolist():
                yield answer.read(probabilities), ""
            return
        constraint = self.constraints.get(question.name)
        settings = SamplingSettings(max_new_tokens=answer.max_new_tokens, constrained=constraint is not None)
        replies = continuations_of(self.mllm, paths, settings, prefix=prefix, constraint=constraint)
        for prompt, (reply,) in zip(prompts, replies, strict=True):
            text = f"{prompt.begun}\n{reply.text}" if prompt.begun else reply.text
            yield answer.read(text, reply.finish_reason), text

    def _scores(self, answer: Likelihood, prompts: Sequence[EncodedPrompt], prefix: Prefix | None) -> Tensor:
        """`(prompts, continuations)`, what `Likelihood.score` says; the paths that count the same one differently share
        it."""
        if answer.score == "prior":
            return self._priors_of(answer, prompts)
        last = self._last
        if last is None or last[0] is not prompts or last[1] != answer.continuations:
            sums = label_log_likelihood(self.mllm, prompts, answer.continuations, prefix)
            self._last = last = prompts, answer.continuations, sums
        sums = last[2]
        if answer.score == "mean":
            paths = [prompts[0].answered(self.mllm.chat, words) for words in answer.continuations]
            return sums / torch.tensor([len(path.tokens) - path.answer_start for path in paths])
        if answer.score == "contrast":
            return sums - self._priors_of(answer, prompts)
        return sums

    def _priors_of(self, answer: Likelihood, prompts: Sequence[EncodedPrompt]) -> Tensor:
        """`(prompts, continuations)` behind the prompts without the images asked about, of which many are the same."""
        blind = [prompt.without_last_image() for prompt in prompts]
        shown = ([list(own.messages), [image.key for image in own.images], answer.continuations] for own in blind)
        keys = list(map(content_hash, shown))
        new = {key: own for key, own in zip(keys, blind, strict=True) if key not in self._priors}
        if new:
            found = label_log_likelihood(self.mllm, list(new.values()), answer.continuations)
            self._priors |= zip(new, found, strict=True)
        return torch.stack([self._priors[key] for key in keys])


def prediction_of(sample: Sample, question: Question, reading: Reading, text: str) -> Prediction:
    """The line about a sample: what was read of the answer to a question, and its text."""
    return Prediction(
        sample_id=sample.id,
        domain=sample.domain,
        labels=sample.labels,
        answer=question.name,
        predicted=reading.predicted,
        outcome=reading.outcome,
        text=text,
        probabilities=reading.probabilities,
    )


def _shared_prefixes(mllm: Mllm, paths: Mapping[PromptMaker, Sequence[Path]]) -> dict[PromptMaker, Prefix]:
    """What the prompts about each sample begin with, through the model once: of the prompts that can grow on it."""
    if not mllm.plan.takes_layouts:
        return {}
    beginnings = [common_path(together, mllm.chat.image_token_id) for together in zip(*paths.values(), strict=True)]
    growing = [make for make, own in paths.items() if _can_grow(own, beginnings)]
    if not growing:
        return {}
    of_all = common_path(beginnings, mllm.chat.image_token_id)  # examples that all samples are asked behind
    return dict.fromkeys(growing, encode_prefix(mllm.model, beginnings, of_all))


def _can_grow(paths: Sequence[Path], beginnings: Sequence[Path]) -> bool:
    """Whether each prompt continues its beginning, which is not empty, with as many tokens, and with no image."""
    rests = {
        (len(path.tokens) - len(begun.tokens), len(path.images) - len(begun.images))
        for path, begun in zip(paths, beginnings, strict=True)
    }
    return all(len(begun.tokens) for begun in beginnings) and len(rests) == 1 and rests.pop()[1] == 0
