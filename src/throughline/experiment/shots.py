"""The labelled examples of a unit: which stand before each of its questions, and what they alone would answer.

Called by `executors`, which knows the model: `features` gives what its decoder is given of images.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from statistics import fmean
from typing import cast

import numpy as np

from throughline.chains.outcomes import Outcome
from throughline.core.errors import ThroughlineError
from throughline.domains.samples import Sample
from throughline.domains.views import View, readable, view_of
from throughline.evaluation import examples
from throughline.evaluation.answers import prediction_of
from throughline.experiment.config import RunConfig
from throughline.experiment.engine.worker import Task
from throughline.questions.in_context import EachItsOwn, InOneTurn, WithExamples
from throughline.questions.probing import about_words
from throughline.questions.prompt import ImageThenText, PromptMaker
from throughline.questions.question import Question, Reading
from throughline.questions.question_set import QuestionSet
from throughline.questions.tampered import begun_for, with_hint, with_other_image
from throughline.runs.records import Prediction

Features = Callable[[Sequence[Sample]], examples.Embeddings]
Shown = Mapping[str, tuple[examples.Example, ...]]
"""By the id of each sample asked about, its examples with their classes."""


def choose(task: Task, asked: Sequence[Sample], features: Features | None = None) -> Shown:
    """The examples that the task's config asks for, of images that can be read; none for no shots and for what is
    described in words."""
    settings = task.config.evaluation.examples
    if settings is None or not settings.shots or task.config.evaluation.described:
        return {}
    pool, shots = examples.example_pool(task.images, task.unit.targets, settings.domains, asked), settings.shots
    if settings.choice == "random":
        draw = partial(
            examples.draw_examples, shots=shots, seed=settings.seed, shares=settings.shares, spurious=settings.spurious
        )
        while broken := readable(draw(pool))[1]:
            pool = tuple(sample for sample in pool if sample.id not in broken)
        chosen = dict.fromkeys(asked, draw(pool))
    else:
        assert features is not None, "an endpoint has no such unit"
        pool, rows = _readable(pool, features)
        chosen = dict.fromkeys(asked, examples.spread_examples(pool, rows, shots, settings.seed))
        if settings.choice == "nearest":
            shown, own_rows = _readable(asked, features)
            chosen |= zip(shown, examples.nearest_examples(pool, rows, own_rows, shots), strict=True)

    @cache
    def as_shown(own: tuple[Sample, ...]) -> tuple[examples.Example, ...]:
        labelled = examples.with_labels(examples.in_order(own, settings.order), settings.labels == "shuffled")
        blank = View("occlusion_grey", 1.0) if settings.pictures == "blank" else None
        return tuple((view_of(sample, blank) if blank else sample, label) for sample, label in labelled)

    return {sample.id: as_shown(own) for sample, own in chosen.items()}


def _readable(samples: Sequence[Sample], features: Features) -> tuple[tuple[Sample, ...], examples.Embeddings]:
    """The images that can be read, with their features: asking about another says what is wrong with it."""
    rows = {}
    for sample in samples:
        with contextlib.suppress(ThroughlineError):
            (rows[sample],) = features([sample])
    return tuple(rows), np.array(list(rows.values()))


def questions_behind(
    config: RunConfig, questions: QuestionSet, shown: Shown, seed: int, asked: Sequence[Sample] = ()
) -> tuple[Question, ...]:
    """What is asked behind the examples; about images or descriptions, options in their order or shuffled by `seed`.
    Whoever is misled sees the image of another one of those `asked` about."""
    settings, about = config.evaluation, cast(Callable[[str], PromptMaker], ImageThenText)
    names = dict(zip(questions.classes, questions.class_names, strict=True))
    if settings.described:
        about = partial(about_words, config.questions.descriptions)
    elif shown and settings.examples is not None:
        layout = InOneTurn if settings.examples.layout == "ordinal" else WithExamples
        named = {name: tuple((sample, names[label]) for sample, label in own) for name, own in shown.items()}
        about = partial(EachItsOwn, named, prompt=partial(layout, pictures=bool(settings.examples.pictures)))
    if settings.misled == "hint":
        about = partial(with_hint, names, about, seed)
    if settings.misled == "another_image":
        about = partial(with_other_image, asked, about, seed)
    built = questions.build(settings.answering, about, seed if settings.options == "shuffled" else None)
    if settings.begun is None:
        return built
    begin = partial(begun_for, settings.beginnings())
    return tuple(replace(own, prompt=begin(own.prompt)) if own.name == "reasoning" else own for own in built)


def votes(
    asked: Sequence[Sample], questions: Sequence[Question], shown: Shown, features: Features, neighbours: int
) -> Iterator[Prediction]:
    """The votes of the examples in the place of the model's answers to every question."""
    for sample in asked:
        samples, labels = zip(*shown[sample.id], strict=True)
        try:
            rows = features([sample, *samples])
            reading, text = Reading(examples.vote(rows[1:], labels, rows[0], neighbours), Outcome.OK), ""
        except ThroughlineError as error:
            reading, text = Reading(None, Outcome.ERROR), str(error)
        yield from (prediction_of(sample, question, reading, text) for question in questions)


def copied_accuracy(predictions: Sequence[Prediction], shown: Shown) -> float:
    """What a model is expected to score that copies the label of any one of its examples."""
    labels = {name: [label for _, label in own] for name, own in shown.items()}
    shares = (labels[line.sample_id].count(line.labels[0]) / len(labels[line.sample_id]) for line in predictions)
    return round(fmean(shares), 6)
