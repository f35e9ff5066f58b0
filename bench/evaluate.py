"""All three answers about drawn images — label path, reasoning path, likelihood — against three separate passes.

    python bench/evaluate.py --ablate --json

The passes are plain transformers: `generate` for the label, `generate` for the chain, one forward pass per label. The
pocket checkpoint, trained, so that chains end where chains end; same decoded pixels, same batches. What both sides
answered in the timed runs is compared before a row is made of them.
"""

import math
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import PositiveInt
from torch import Tensor

from bench_script import run_bench
from throughline.benchmarks.ablations import with_plan, without
from throughline.benchmarks.plain import Inputs, LabelQuestion, ask_labels, encode, one_pass_per_label, plainly, render
from throughline.benchmarks.settings import BenchSettings
from throughline.benchmarks.timing import BenchRow, OnProgress, machine_settings, measure_sides, on_threads
from throughline.chains.formats import FIVE_STAGE
from throughline.core.errors import ThroughlineError
from throughline.core.settings import AnswerSettings
from throughline.domains.folders import read_images
from throughline.domains.images import load_image
from throughline.domains.samples import Sample
from throughline.drawn.concepts import CLASSES
from throughline.drawn.styles import DOMAIN_STYLES
from throughline.drawn.world import write_world
from throughline.evaluation.answers import answer_samples
from throughline.mllm.checkpoints import POCKET
from throughline.mllm.images import ImageReader
from throughline.mllm.load import Mllm, load_mllm
from throughline.questions.question_set import QuestionSet, make_question_set
from throughline.questions.wording import class_name
from throughline.runs.records import Prediction

RIVAL = "three separate passes"

TOLERANCE = 1e-4
"""Largest difference of a class's log-probability, relative where it is beyond 1."""

SAME_TEXTS = 0.99
"""Least share of texts that are the same on both sides: batched arithmetic rounds differently, and a chain that takes
another word at a near tie goes on differently."""

TOGETHER = "asking together"


class EvaluateSettings(BenchSettings):
    """All three answers about drawn images against three passes of plain transformers."""

    images: PositiveInt = 1_000
    """Drawn images to ask about."""
    trials: PositiveInt = 2
    """Timed runs of each side."""
    batch: PositiveInt = AnswerSettings().batch
    """Images asked together."""
    # The pocket has no weight that is worth packing.
    ablate: tuple[Literal["all", "layouts", "leaving", "asking together"], ...] = ()
    """Adds rows of our own side without these"""


@dataclass(frozen=True, eq=False)
class Answers:
    """What a side said of every image: two texts, and `(images, classes)` log-probabilities over the classes."""

    label: tuple[str, ...]
    reasoning: tuple[str, ...]
    log_probability: Tensor


@dataclass(eq=False)
class Recorded:
    """A side that is timed: `answer` gives its answers, `latest` keeps those of the latest run."""

    answer: Callable[[], Answers]
    latest: Answers | None = field(default=None, init=False)

    def __call__(self) -> None:
        """What is timed."""
        self.latest = self.answer()


def measure(settings: EvaluateSettings, on_progress: OnProgress) -> list[BenchRow]:
    """One row, and one for each ablation. Raises ThroughlineError when two sides do not give the same answers."""
    answering = AnswerSettings(batch=settings.batch)
    questions = make_question_set(CLASSES, FIVE_STAGE)
    with on_threads(settings.threads), tempfile.TemporaryDirectory() as folder:
        mllm = load_mllm(POCKET)
        samples = draw_samples(Path(folder), settings.images)
        reader = ImageReader(mllm.chat)
        for sample in samples:
            reader.encode(sample)
        batches = plain_batches(mllm, samples, questions, answering)

        def ours(count: int) -> Answers:
            return answer_ours(mllm, samples[:count], questions, answering, reader)

        def ablated(thing: str) -> Answers:
            if thing == TOGETHER:
                return answer_apart(mllm, samples, questions, answering, reader)
            return answer_ours(with_plan(mllm, thing), samples, questions, answering, reader)

        def rival(count: int) -> Answers:
            return answer_plainly(mllm, batches[: math.ceil(count / answering.batch)], answering)

        name = f"evaluate {POCKET}, {len(samples)} images"
        few = min(answering.batch, len(samples))
        on_progress(f"{name}: a batch of each side first")
        check_answers(name, ours(few), rival(few))
        on_progress(name)
        rivals = {RIVAL: Recorded(plainly(mllm.model, lambda: rival(len(samples))))}
        rivals |= {without(thing): Recorded(partial(ablated, thing)) for thing in settings.ablations()}
        facts = {
            "geometry": POCKET,
            "images": len(samples),
            "classes": len(CLASSES),
            "batch": answering.batch,
            "label_tokens": answering.label_tokens,
            "chain_tokens": answering.chain_tokens,
            **machine_settings(mllm.model),
            "outside_timing": "pixel values of both sides; the rival's tokens",
        }
        return measure_answering(name, Recorded(lambda: ours(len(samples))), rivals, settings.trials, facts)


def measure_answering(
    name: str, ours: Recorded, rivals: Mapping[str, Recorded], trials: int, facts: dict[str, Any]
) -> list[BenchRow]:
    """Times all sides in turns and compares what they answered meanwhile: a row for each rival."""

    def compared(rival: str) -> dict[str, Any]:
        theirs = rivals[rival].latest
        assert ours.latest is not None and theirs is not None
        return check_answers(name, ours.latest, theirs)

    thousands = facts["images"] / 1000
    return measure_sides(
        name, ours, rivals, trials, facts, compared, count=thousands, unit="seconds per 1,000 images", warm_up=0
    )


def check_answers(name: str, ours: Answers, rival: Answers) -> dict[str, Any]:
    """How many texts differ and by how much log-probabilities do; ThroughlineError when it is too many or too much."""
    pairs = [
        pair
        for mine, theirs in ((ours.label, rival.label), (ours.reasoning, rival.reasoning))
        for pair in zip(mine, theirs, strict=True)
    ]
    differing = sum(mine != theirs for mine, theirs in pairs)
    gap = (ours.log_probability - rival.log_probability).abs() / rival.log_probability.abs().clamp(min=1)
    difference = float(gap.max())
    if differing > (1 - SAME_TEXTS) * len(pairs) or not difference <= TOLERANCE:
        raise ThroughlineError(
            f"{differing} of {len(pairs)} texts and log-probabilities by {difference:.1e} differ between both sides",
            name,
            "no time of it counts: report it",
        )
    return {"texts": len(pairs), "differing_texts": differing, "largest_difference": difference}


def draw_samples(folder: Path, count: int) -> tuple[Sample, ...]:
    """`count` images of a drawn world, spread over its styles and classes."""
    write_world(folder, per_class=math.ceil(count / (len(DOMAIN_STYLES) * len(CLASSES))), seed=0)
    samples = read_images(folder).samples
    return tuple(samples[i * len(samples) // count] for i in range(count))


def answer_ours(
    mllm: Mllm, samples: Sequence[Sample], questions: QuestionSet, answering: AnswerSettings, reader: ImageReader
) -> Answers:
    """Through `answer_samples`, as every verb asks; `reader` holds the images already."""
    return _answers(answer_samples(mllm, samples, questions.build(answering), answering.batch, reader=reader))


def answer_apart(
    mllm: Mllm, samples: Sequence[Sample], questions: QuestionSet, answering: AnswerSettings, reader: ImageReader
) -> Answers:
    """The same, one way of answering after the other: an ablation."""
    alone = [answering.model_copy(update={"answers": (answer,)}) for answer in answering.answers]
    return _answers(
        [p for part in alone for p in answer_samples(mllm, samples, questions.build(part), part.batch, reader=reader)]
    )


def _answers(predictions: Sequence[Prediction]) -> Answers:
    by_answer = {name: [p for p in predictions if p.answer == name] for name in ("label", "reasoning", "likelihood")}
    return Answers(
        tuple(p.text for p in by_answer["label"]),
        tuple(p.text for p in by_answer["reasoning"]),
        torch.tensor([p.probabilities for p in by_answer["likelihood"]], dtype=torch.float64).log(),
    )


# the rival ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class PlainBatch:
    """A batch of images for the rival's three passes; all take the same pixel values."""

    label: LabelQuestion
    reasoning: Inputs


def plain_batches(
    mllm: Mllm, samples: Sequence[Sample], questions: QuestionSet, answering: AnswerSettings
) -> list[PlainBatch]:
    """The samples in the batches that `answer_samples` asks together, encoded by the processor."""
    processor = mllm.chat.processor
    names = [class_name(label) for label in questions.classes]
    batches = []
    for start in range(0, len(samples), answering.batch):
        pictures = [load_image(sample.path) for sample in samples[start : start + answering.batch]]
        label = ask_labels(processor, questions.label, pictures, names)
        reasoning = encode(processor, render(processor, questions.reasoning), pictures)
        reasoning["pixel_values"] = label.prompt["pixel_values"]
        batches.append(PlainBatch(label, reasoning))
    return batches


def answer_plainly(mllm: Mllm, batches: Sequence[PlainBatch], answering: AnswerSettings) -> Answers:
    """One pass over all images for each answer, one after another, as three programs would."""
    label = [text for batch in batches for text in written(mllm, batch.label.prompt, answering.label_tokens)]
    reasoning = [text for batch in batches for text in written(mllm, batch.reasoning, answering.chain_tokens)]
    scores = torch.cat([one_pass_per_label(mllm.model, batch.label) for batch in batches])
    return Answers(tuple(label), tuple(reasoning), torch.log_softmax(scores.double(), dim=1))


def written(mllm: Mllm, prompt: Inputs, tokens: int) -> list[str]:
    """What `generate` writes behind a batch of prompts, greedily."""
    out = mllm.model.generate(**prompt, do_sample=False, max_new_tokens=tokens)
    new = out[:, prompt["input_ids"].shape[1] :]
    return [text.strip() for text in mllm.chat.processor.batch_decode(new, skip_special_tokens=True)]


if __name__ == "__main__":
    sys.exit(run_bench(EvaluateSettings, measure))
