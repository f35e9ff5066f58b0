"""What `throughline ood` takes an image, from its file to its numbers, against plain transformers.

    python bench/ood.py --json

Three rows: the label path zero-shot, label likelihoods behind examples that all images share, features for probes at
every point of the model. A rival is measured on a part of the images; on these, both sides have to say the same.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from pydantic import PositiveInt
from torch import Tensor

from bench_script import run_bench
from evaluate import SAME_TEXTS, TOLERANCE, written
from scale import write_images
from throughline.benchmarks.plain import Inputs, LabelQuestion, batched_cache, encode, plainly, render
from throughline.benchmarks.settings import BenchSettings
from throughline.benchmarks.timing import (
    OURS,
    BenchRow,
    OnProgress,
    compare,
    machine_settings,
    on_threads,
    require_close,
    take_turns,
)
from throughline.core.errors import ThroughlineError
from throughline.core.settings import AnswerSettings
from throughline.domains.folders import read_images
from throughline.domains.samples import Sample, spread
from throughline.evaluation.answers import answer_samples
from throughline.mllm.checkpoints import POCKET
from throughline.mllm.images import ImageReader
from throughline.mllm.load import Mllm, load_mllm
from throughline.ood.probe import read_features
from throughline.questions.in_context import WithExamples
from throughline.questions.prompt import ImageThenText, PromptMaker
from throughline.questions.question_set import QuestionSet, make_question_set

GENERATE = "generate loop"
WHOLE_PROMPTS = "whole prompts, batched cache"
PASS_PER_POINT, ONE_PASS = "a batched pass for each point", "one batched pass"
Numbers = dict[str, Tensor]
"""By name, `(images, ...)`."""


class OodSettings(BenchSettings):
    """Zero-shot answers, likelihoods behind shared examples and probe features against plain transformers."""

    images: PositiveInt = 10_000
    """Drawn images to ask zero-shot."""
    fewer: PositiveInt = 2_000
    """Of these, the images asked behind examples, and those whose features are read."""
    rival_images: PositiveInt = 500
    """Of these, the images that a rival is measured on."""
    shots: PositiveInt = 8
    """Examples."""
    trials: PositiveInt = 3
    """Timed runs of each side."""
    batch: PositiveInt = AnswerSettings().batch
    """Images asked together."""


@dataclass(eq=False)
class Side:
    """One way to do a row's work on `images` of the samples: texts, or numbers by name. `latest` is of its latest
    run."""

    work: Callable[[Sequence[Sample]], Any]
    samples: Sequence[Sample]
    latest: Any = field(default=None, init=False)

    def __call__(self) -> None:
        """What is timed."""
        self.latest = self.work(self.samples)


@dataclass(frozen=True, eq=False)
class Work:
    """The model, the samples and the questions of all rows; both sides open the files inside the timing."""

    mllm: Mllm
    samples: Sequence[Sample]
    questions: QuestionSet
    settings: OodSettings

    @property
    def answering(self) -> AnswerSettings:
        """How both sides ask."""
        return AnswerSettings(batch=self.settings.batch)

    @property
    def examples(self) -> tuple[tuple[Sample, str], ...]:
        """Labelled images that are not asked about, of as many classes as there are."""
        return tuple((sample, sample.label) for sample in spread(self.samples, self.settings.shots))

    @property
    def asked(self) -> tuple[Sample, ...]:
        """The samples that are no examples."""
        shown = {sample.id for sample, _ in self.examples}
        return tuple(sample for sample in self.samples if sample.id not in shown)

    def answers(self, samples: Sequence[Sample], answer: str, about: Callable[[str], PromptMaker]) -> list[Any]:
        """Our predictions on one answer path, as every verb asks."""
        settings = self.answering.model_copy(update={"answers": (answer,)})
        asked = self.questions.build(settings, about)
        return answer_samples(self.mllm, samples, asked, settings.batch, reader=ImageReader(self.mllm.chat))

    def batches(self, samples: Sequence[Sample]) -> Iterator[Sequence[Sample]]:
        """The samples that a rival asks about together."""
        for start in range(0, len(samples), self.settings.batch):
            yield samples[start : start + self.settings.batch]


def measure(settings: OodSettings, on_progress: OnProgress) -> list[BenchRow]:
    """A row for each rival. Raises a ThroughlineError when two sides do not say the same."""
    with on_threads(settings.threads), tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder), settings.images + settings.shots)
        images = read_images(Path(folder))
        work = Work(load_mllm(POCKET), images.samples, make_question_set(images.classes), settings)
        return [
            *_rows(work, "zero-shot label path", settings.images, zero_shot, {GENERATE: generated}, on_progress),
            *_rows(
                work, f"{settings.shots} examples", settings.fewer, behind_examples, {WHOLE_PROMPTS: whole}, on_progress
            ),
            *_rows(
                work,
                "probe features",
                settings.fewer,
                features,
                {PASS_PER_POINT: pass_per_point, ONE_PASS: one_pass},
                on_progress,
            ),
        ]


def _rows(
    work: Work,
    what: str,
    images: int,
    ours: Callable[[Work, Sequence[Sample]], Any],
    rivals: Mapping[str, Callable[[Work, Sequence[Sample]], Any]],
    on_progress: OnProgress,
) -> list[BenchRow]:
    """Times all sides in turns, after a batch of each, and compares what they said meanwhile."""
    name, model, asked = f"ood {POCKET}, {what}", work.mllm.model, work.asked[:images]
    part = asked[: work.settings.rival_images]
    sides = {OURS: Side(partial(ours, work), asked)} | {
        rival: Side(plainly(model, partial(run, work)), part) for rival, run in rivals.items()
    }
    for side in sides.values():
        side.work(asked[: work.settings.batch])
    on_progress(name)
    seconds = take_turns(sides, work.settings.trials, warm_up=0)
    for_one = {side: [1000 * s / len(sides[side].samples) for s in times] for side, times in seconds.items()}
    facts = {
        "geometry": POCKET,
        "images": len(asked),
        "rival_images": len(part),
        "classes": len(work.questions.classes),
        "batch": work.settings.batch,
        "trials": work.settings.trials,
        **machine_settings(model),
    }
    return [
        compare(
            name,
            rival,
            for_one[OURS],
            for_one[rival],
            {**facts, **check(name, sides[OURS].latest, sides[rival].latest)},
            unit="seconds per 1,000 images",
        )
        for rival in rivals
    ]


def check(name: str, ours: Any, rival: Any) -> dict[str, Any]:
    """How far the rival's texts or numbers are from ours about the same images; ThroughlineError where too far."""
    if isinstance(rival, list):
        differing = sum(mine != theirs for mine, theirs in zip(ours, rival, strict=False))
        if differing > (1 - SAME_TEXTS) * len(rival):
            raise ThroughlineError(f"{differing} of {len(rival)} texts differ", name, "no time of it counts: report it")
        return {"differing_texts": differing}
    if ours.keys() != rival.keys():
        raise ThroughlineError("the two sides have different numbers", name, "no time of it counts: report it")
    gaps = [(ours[key][: len(row)] - row).abs() / row.abs().clamp(min=1) for key, row in rival.items()]
    largest = max(float(gap.max()) for gap in gaps)
    return {"largest_difference": require_close(name, largest, TOLERANCE, "numbers of both sides differ")}


# zero-shot ------------------------------------------------------------------------------------------------------------


def zero_shot(work: Work, samples: Sequence[Sample]) -> list[str]:
    """Ours: the texts of the label path."""
    return [prediction.text for prediction in work.answers(samples, "label", ImageThenText)]


def generated(work: Work, samples: Sequence[Sample]) -> list[str]:
    """The documented loop: batches, padded on the left, through processor and `generate`."""
    processor, texts = work.mllm.chat.processor, list[str]()
    question = render(processor, work.questions.label)
    for batch in work.batches(samples):
        prompt = encode(processor, question, opened(batch))
        texts += written(work.mllm, prompt, work.answering.label_tokens)
    return texts


def opened(samples: Sequence[Sample]) -> list[Image.Image]:
    """The pictures of these files."""
    return [Image.open(sample.path).convert("RGB") for sample in samples]


# behind examples ------------------------------------------------------------------------------------------------------


def behind_examples(work: Work, samples: Sequence[Sample]) -> Numbers:
    """Ours: the likelihood path behind examples."""
    predictions = work.answers(samples, "likelihood", partial(WithExamples, work.examples))
    return {"log_probability": torch.tensor([p.probabilities for p in predictions], dtype=torch.float64).log()}


def whole(work: Work, samples: Sequence[Sample]) -> Numbers:
    """Each image's whole prompt through the model, in batches; its cache is copied for every label. Tokens, and the
    pixel values of the examples, are made once."""
    processor = work.mllm.chat.processor
    shown = opened([sample for sample, _ in work.examples])
    (blank,) = opened(samples[:1])
    messages = list(WithExamples(work.examples, work.questions.label)(samples[0]).messages)
    prompt = _tokens(processor, messages, [*shown, blank])
    labels = []
    for label in work.questions.class_names:
        turn = {"role": "assistant", "content": [{"type": "text", "text": label}]}
        tokens = _tokens(processor, [*messages, turn], [*shown, blank])
        assert torch.equal(tokens[:, : prompt.shape[1]], prompt), "a label's tokens begin where the prompt ends"
        labels.append(tokens[0, prompt.shape[1] :])
    examples, parts = _pixels(processor, shown), []
    for batch in work.batches(samples):
        asked = _pixels(processor, opened(batch))
        pixels = torch.cat([examples[None].expand(len(batch), *examples.shape), asked[:, None]], dim=1).flatten(0, 1)
        inputs = {"input_ids": prompt.expand(len(batch), -1), "pixel_values": pixels}
        parts.append(batched_cache(work.mllm.model, LabelQuestion(inputs, (), tuple(labels))))
    return {"log_probability": torch.log_softmax(torch.cat(parts).double(), dim=1)}


def _tokens(processor: Any, messages: list[dict[str, Any]], pictures: list[Image.Image]) -> Tensor:
    """`(1, tokens)` of a conversation, up to where the model speaks or to the end of its turn."""
    speaks = messages[-1]["role"] == "user"
    text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=speaks)
    encoded = processor(text=[text if speaks else text.rstrip()], images=pictures, crop_to_patches=False)
    return torch.tensor(encoded["input_ids"])


def _pixels(processor: Any, pictures: list[Image.Image]) -> Tensor:
    """`(images, 3, height, width)`."""
    return torch.as_tensor(processor.image_processor(pictures, crop_to_patches=False, return_tensors="pt").pixel_values)


# features -------------------------------------------------------------------------------------------------------------


def features(work: Work, samples: Sequence[Sample]) -> Numbers:
    """Ours: every point, as `ood probe` reads them."""
    reader, make = ImageReader(work.mllm.chat), ImageThenText(work.questions.label)
    found, _ = read_features(work.mllm, samples, lambda sample: make(sample).encode(reader))
    return {point: torch.tensor(rows) for point, rows in found.points.items()}


def pass_per_point(work: Work, samples: Sequence[Sample]) -> Numbers:
    """A pass over all images for the tower, one for the projector, and one for each layer of the decoder with
    `output_hidden_states`; files are opened and encoded once."""
    batches = _encoded(work, samples)
    layers = range(work.mllm.model.config.text_config.num_hidden_layers + 1)
    passes = [_of_image("tower"), _of_image("projector"), *(_of_layers([layer]) for layer in layers)]
    return {name: rows for run in passes for name, rows in _joined([run(work, batch) for batch in batches]).items()}


def one_pass(work: Work, samples: Sequence[Sample]) -> Numbers:
    """The same from one pass of the decoder."""
    layers = range(work.mllm.model.config.text_config.num_hidden_layers + 1)
    return _joined(
        [
            {**_of_image("tower", "projector")(work, batch), **_of_layers(layers)(work, batch)}
            for batch in _encoded(work, samples)
        ]
    )


def _encoded(work: Work, samples: Sequence[Sample]) -> list[Inputs]:
    processor = work.mllm.chat.processor
    question = render(processor, work.questions.label)
    return [encode(processor, question, opened(batch)) for batch in work.batches(samples)]


def _of_image(*points: str) -> Callable[[Work, Inputs], Numbers]:
    @torch.no_grad()
    def run(work: Work, batch: Inputs) -> Numbers:
        found = work.mllm.model.get_image_features(pixel_values=batch["pixel_values"], return_dict=True)
        means = {"tower": found.last_hidden_state.mean(dim=1), "projector": found.pooler_output.mean(dim=1)}
        return {point: means[point].double() for point in points}

    return run


def _of_layers(layers: Sequence[int]) -> Callable[[Work, Inputs], Numbers]:
    @torch.no_grad()
    def run(work: Work, batch: Inputs) -> Numbers:
        output = work.mllm.model.model(**batch, output_hidden_states=True, use_cache=False)
        shown = (batch["input_ids"] == work.mllm.chat.image_token_id).double()
        means = shown / shown.sum(dim=1, keepdim=True)
        return {
            name: rows
            for layer in layers
            for states in [output.hidden_states[layer].double()]
            for name, rows in (
                (f"layer {layer}, image", torch.einsum("bt,btw->bw", means, states)),
                (f"layer {layer}, last", states[:, -1]),
            )
        }

    return run


def _joined(parts: Sequence[Numbers]) -> Numbers:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


if __name__ == "__main__":
    sys.exit(run_bench(OodSettings, measure))
