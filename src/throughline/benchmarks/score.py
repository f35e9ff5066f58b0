"""The likelihood of every class name as the answer about an image, against three ways of plain transformers.

Same random model, question, images and class list. Ours builds its trie of labels inside the timing; the rivals' tokens
are ready before it. `throughline bench score` calls this.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from throughline.benchmarks.ablations import SCORING, chosen, with_plan, without
from throughline.benchmarks.machine import machine_settings, on_threads
from throughline.benchmarks.plain import (
    ROWS_AT_ONCE,
    LabelQuestion,
    ask_labels,
    batched_cache,
    loop_on_cache,
    one_pass_per_label,
    plainly,
)
from throughline.benchmarks.timing import BenchRow, compare, take_turns
from throughline.benchmarks.workload import class_list, drawn_pictures, tokenizer_texts
from throughline.core.errors import ThroughlineError
from throughline.mllm.chat import EncodedPrompt, user_turn
from throughline.mllm.geometries import GEOMETRIES, random_mllm
from throughline.mllm.likelihood import label_log_likelihood
from throughline.mllm.load import Mllm
from throughline.questions.question_set import make_question_set
from throughline.questions.wording import class_name

RIVALS: dict[str, Callable[[Any, LabelQuestion], Tensor]] = {
    "one forward pass per label": one_pass_per_label,
    "loop over labels on the cache": loop_on_cache,
    "batched cache": batched_cache,
}

TOLERANCE = 1e-4
"""Largest difference of a label's log-likelihood."""

OURS = "ours"

Scorer = Callable[[], Tensor]
"""Gives `(images, labels)` log-likelihoods."""


@dataclass(frozen=True)
class ScoreSettings:
    """What is measured, one row for every rival and number of images at a time; times are per image. Several images at
    a time are reported only, and timed once: they take minutes. `threads` None leaves torch's own number."""

    geometries: tuple[str, ...] = ("bench-40m",)
    classes: tuple[int, ...] = (65,)
    images: tuple[int, ...] = (1, 4)
    trials: int = 3
    threads: int | None = None
    ablate: tuple[str, ...] = ()
    """Names of `ablations.SCORING`, or `all`: rows of our own side without them, beside the rivals."""


@dataclass(frozen=True, eq=False)
class ScoreWork:
    """A class list asked of some images, ready for both sides."""

    ours: Scorer
    rivals: Mapping[str, Scorer]
    images: int
    settings: dict[str, Any]


def measure_score(settings: ScoreSettings, told: Callable[[str], None] = lambda line: None) -> list[BenchRow]:
    """Rows of every geometry, class list and number of images. Raises ThroughlineError when a rival's likelihoods are
    not ours, before anything is timed; UsageError on an unknown class list."""
    lists = [class_list(size) for size in settings.classes]
    left_out = chosen(settings.ablate, SCORING)
    texts = tokenizer_texts()
    rows = []
    with on_threads(settings.threads):
        for geometry in settings.geometries:
            mllm = random_mllm(GEOMETRIES[geometry], texts)
            for classes in lists:
                for images in settings.images:
                    name = f"score {geometry}, {len(classes)} classes, {images} image{'s' * (images > 1)} at a time"
                    told(name)
                    trials = settings.trials if images == 1 else 1
                    rows += measure_scoring(name, make_score_work(mllm, geometry, classes, images, left_out), trials)
    return rows


def make_score_work(
    mllm: Mllm, geometry: str, classes: tuple[str, ...], images: int, left_out: Sequence[str] = ()
) -> ScoreWork:
    """The label question about `images` drawn images; pixel values are made here, of the same pixels, by each side's
    own call of the processor. Ours without each of `left_out` is among the rivals."""
    pictures = drawn_pictures(images, GEOMETRIES[geometry].image_size)
    question, labels = make_question_set(classes).label, [class_name(name) for name in classes]
    encoded = [mllm.chat.encode_image(picture, f"picture {i}") for i, picture in enumerate(pictures)]
    prompts = [EncodedPrompt(user_turn(question), [image]) for image in encoded]
    asked = ask_labels(mllm.chat.processor, question, pictures, labels)
    return ScoreWork(
        ours=lambda: label_log_likelihood(mllm, prompts, labels),
        rivals={
            **{name: plainly(mllm.model, partial(score, mllm.model, asked)) for name, score in RIVALS.items()},
            **{
                without(thing): partial(label_log_likelihood, with_plan(mllm, thing), prompts, labels)
                for thing in left_out
            },
        },
        images=images,
        settings={
            "geometry": geometry,
            "classes": len(classes),
            "images_at_a_time": images,
            **machine_settings(mllm.model),
            "tokens_prompt": asked.prompt["input_ids"].shape[1],
            "tokens_labels": sum(map(len, asked.labels)),
            "rows_of_batched_cache": min(ROWS_AT_ONCE, len(labels)) * images,
            "outside_timing": "pixel values of both sides; the rivals' tokens",
        },
    )


def measure_scoring(name: str, work: ScoreWork, trials: int) -> list[BenchRow]:
    """Checks every rival against ours, which warms all of them up, then times them in turns: a row for each rival."""
    differences = check_scores(name, work)
    seconds = take_turns({OURS: work.ours, **work.rivals}, trials, warm_up=0)
    per_image = {side: [taken / work.images for taken in trial] for side, trial in seconds.items()}
    return [
        compare(
            name,
            rival,
            per_image[OURS],
            per_image[rival],
            None,
            {**work.settings, "trials": trials, "largest_difference": differences[rival]},
            unit="seconds per image",
        )
        for rival in work.rivals
    ]


def check_scores(name: str, work: ScoreWork) -> dict[str, float]:
    """The largest difference of any rival's log-likelihood from ours; ThroughlineError when one is not ours."""
    ours = work.ours()
    differences = {}
    for rival, score in work.rivals.items():
        differences[rival] = float((score() - ours).abs().max())
        if not differences[rival] <= TOLERANCE:
            raise ThroughlineError(
                f"{rival} differs by {differences[rival]:.1e} in log-likelihood, {TOLERANCE:.0e} is allowed",
                name,
                "nothing was timed: report it",
            )
    return differences
