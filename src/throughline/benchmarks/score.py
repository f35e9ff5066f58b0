"""The likelihood of every class name as the answer about an image, against three ways of plain transformers.

Same random model, question, images and class list. Ours builds its trie of labels inside the timing; the rivals' tokens
are ready before it.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from throughline.benchmarks.ablations import with_plan, without
from throughline.benchmarks.plain import (
    ROWS_AT_ONCE,
    LabelQuestion,
    ask_labels,
    batched_cache,
    loop_on_cache,
    one_pass_per_label,
    plainly,
)
from throughline.benchmarks.settings import ScoreSettings
from throughline.benchmarks.timing import (
    BenchRow,
    OnProgress,
    machine_settings,
    measure_sides,
    on_threads,
    require_close,
)
from throughline.benchmarks.workload import class_list, drawn_pictures, random_model
from throughline.mllm.chat import EncodedPrompt, user_turn
from throughline.mllm.geometries import GEOMETRIES
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

Scorer = Callable[[], Tensor]
"""Gives `(images, labels)` log-likelihoods."""


@dataclass(frozen=True, eq=False)
class ScoreWork:
    """A class list asked of some images, ready for all sides."""

    ours: Scorer
    rivals: Mapping[str, Scorer]
    settings: dict[str, Any]


def measure(settings: ScoreSettings, on_progress: OnProgress) -> list[BenchRow]:
    """Rows of every geometry, class list and number of images. Raises ThroughlineError when a rival's likelihoods are
    not ours, before anything is timed; UsageError on an unknown class list."""
    lists = [class_list(size) for size in settings.classes]
    rows = []
    with on_threads(settings.threads):
        for geometry in settings.geometry:
            mllm = random_model(geometry)
            for classes, images in itertools.product(lists, settings.images):
                name = f"score {geometry}, {len(classes)} classes, {images} image{'s' * (images > 1)} at a time"
                on_progress(name)
                work = make_score_work(mllm, geometry, classes, images, settings.ablations())
                rows += measure_scoring(name, work, settings.trials if images == 1 else 1)
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
    encoded_labels = ask_labels(mllm.chat.processor, question, pictures, labels)

    settings = {
        "geometry": geometry,
        "classes": len(classes),
        "images_at_a_time": images,
        **machine_settings(mllm.model),
        "tokens_prompt": encoded_labels.prompt["input_ids"].shape[1],
        "tokens_labels": sum(map(len, encoded_labels.labels)),
        "rows_of_batched_cache": min(ROWS_AT_ONCE, len(labels)) * images,
        "outside_timing": "pixel values of both sides; the rivals' tokens",
    }
    rivals = {name: plainly(mllm.model, partial(score, mllm.model, encoded_labels)) for name, score in RIVALS.items()}
    rivals |= {
        without(thing): partial(label_log_likelihood, with_plan(mllm, thing), prompts, labels) for thing in left_out
    }
    return ScoreWork(partial(label_log_likelihood, mllm, prompts, labels), rivals, settings)


def measure_scoring(name: str, work: ScoreWork, trials: int) -> list[BenchRow]:
    """Checks every rival against ours, which warms all of them up, then times them in turns: a row for each rival."""
    ours, differences = work.ours(), {}
    for rival, score in work.rivals.items():
        difference, what = float((score() - ours).abs().max()), f"log-likelihoods of {rival} and ours differ"
        differences[rival] = {"largest_difference": require_close(name, difference, TOLERANCE, what)}
    images, unit = work.settings["images_at_a_time"], "seconds per image"
    own_settings = differences.__getitem__
    return measure_sides(
        name, work.ours, work.rivals, trials, work.settings, own_settings, count=images, unit=unit, warm_up=0
    )
