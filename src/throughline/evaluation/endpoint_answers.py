"""Asking a model behind an OpenAI-compatible endpoint about samples: every answer on disk before the next is asked for.

The requests are those of a chain store (`teaching`), which is why a killed run asks for nothing twice. Called by
`experiment.executors`; `answers` asks a checkpoint in this process.
"""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from throughline.chains.formats import ChainFormat
from throughline.chains.outcomes import Outcome
from throughline.chains.records import Candidate
from throughline.chains.store import read_store
from throughline.core.files import content_hash
from throughline.core.settings import ModelSettings
from throughline.domains.samples import ImageSet, Sample
from throughline.evaluation.answers import prediction_of
from throughline.mllm.checkpoints import endpoint_of
from throughline.questions.prompt import Prompt
from throughline.questions.question import Generated, Question, Reading
from throughline.runs.records import Prediction
from throughline.teaching.building import build
from throughline.teaching.endpoint import Endpoints, EndpointTeacher
from throughline.teaching.plan import BuildPlan
from throughline.teaching.prices import price_of
from throughline.teaching.recorder import Progress
from throughline.teaching.teachers import Brief


def ask_endpoint(
    model: ModelSettings,
    images: ImageSet,
    questions: Sequence[Question],
    format: ChainFormat,
    store: Path,
    *,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    seconds: Counter[str] | None = None,
) -> list[Prediction]:
    """Predictions in the order of the questions, for each question one a sample of `images`, in their order; all
    answers are kept in `store`.

    A request that fails for good is a prediction with the outcome `error`. Raises a ThroughlineError where no request
    could go well.
    """
    briefs = {question.name: _brief(model, images.samples, question) for question in questions}
    taken = Counter[str]() if seconds is None else seconds
    asyncio.run(_ask(model, images, briefs, format, store, on_progress, taken))
    said = {(line.prompt_sha256, line.sample_id): line for line in _candidates(store)}
    return [
        _prediction(question, sample, said[briefs[question.name].prompt_sha256, sample.id])
        for question in questions
        for sample in images.samples
    ]


async def _ask(
    model: ModelSettings,
    images: ImageSet,
    briefs: dict[str, Brief],
    format: ChainFormat,
    store: Path,
    on_progress: Callable[[int, int], None],
    seconds: Counter[str],
) -> None:
    named, urls = endpoint_of(model.checkpoint) or ("", ())
    endpoints = Endpoints(
        urls, os.environ.get(model.endpoint.key_env, "").strip() or None, at_once=model.endpoint.at_once
    )
    try:
        for number, (name, brief) in enumerate(briefs.items()):
            began = time.monotonic()

            def report(progress: Progress, before: int = number * len(images.samples)) -> None:
                on_progress(before + progress.done, len(briefs) * len(images.samples))

            plan = BuildPlan(_told_apart(images, brief), format, rule="format", candidates=1, enough=None, go_on=True)
            await build(plan, EndpointTeacher(brief, endpoints, price_of(named)), store, on_progress=report)
            seconds.update({name: time.monotonic() - began})
    finally:
        await endpoints.close()


def _brief(model: ModelSettings, samples: Sequence[Sample], question: Question) -> Brief:
    """What all requests of a question have in common."""
    first, *others = map(question.prompt, samples)
    alike = all((own.messages, own.images[:-1]) == (first.messages, first.images[:-1]) for own in others)
    assert isinstance(question.answer, Generated), "an endpoint gives texts"
    params: dict[str, Any] = {
        "temperature": 0.0,
        "max_tokens": question.answer.max_new_tokens,
        **model.endpoint.params,
        "image_side": model.endpoint.image_side,
    }
    named, _ = endpoint_of(model.checkpoint) or ("", ())
    given = {name: value for name, value in params.items() if value is not None}
    shared = Prompt(first.messages, first.images[:-1])
    return Brief("endpoint", named, shared, given, own=None if alike else question.prompt)


def _told_apart(images: ImageSet, brief: Brief) -> ImageSet:
    """The images with what a prompt of their own shows besides in their hash: requests are known by it."""
    if brief.own is None:
        return images
    shown = [(list(p.messages), [image.image_sha256 for image in p.images]) for p in map(brief.own, images.samples)]
    samples = zip(images.samples, map(content_hash, shown), strict=True)
    return replace(images, samples=tuple(replace(sample, image_sha256=own) for sample, own in samples))


def _candidates(store: Path) -> list[Candidate]:
    folded = read_store(store)
    return list(folded.read(folded.requests.index))


def _prediction(question: Question, sample: Sample, line: Candidate) -> Prediction:
    assert isinstance(question.answer, Generated)
    reading = Reading(None, Outcome.ERROR)
    if not line.failed:
        reading = question.answer.read(line.text, line.finish_reason or "stop")
    return prediction_of(sample, question, reading, line.text)
