"""What `throughline ood` takes an image, from its file to its numbers, against plain transformers.

    python bench/ood.py --json

The label path zero-shot, the same with label likelihoods, these behind examples that all images share, and features
for probes at every point of the model. A rival is measured on a part of the images; on these, both sides have to say
the same.
"""

import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from pydantic import PositiveInt
from torch import Tensor

from bench_script import run_bench
from evaluate import SAME_TEXTS, TOLERANCE, draw_samples, written
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
from throughline.domains.samples import Sample, spread
from throughline.drawn.concepts import CLASSES
from throughline.evaluation.answers import answer_samples
from throughline.mllm.checkpoints import POCKET
from throughline.mllm.images import ImageReader
from throughline.mllm.load import Mllm, load_mllm
from throughline.ood.probe import read_features
from throughline.questions.in_context import WithExamples
from throughline.questions.prompt import ImageThenText, PromptMaker
from throughline.questions.question_set import QuestionSet, make_question_set

Said = dict[str, Any]
"""What a side said about some images: a list of texts, or a tensor `(images, ...)`, by name."""
Way = Callable[["Work", Sequence[Sample]], Said]


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
    trials: PositiveInt = 2
    """Timed runs of each side."""
    batch: PositiveInt = AnswerSettings().batch
    """Images asked together."""


@dataclass(eq=False)
class Side:
    """One way to do a row's work on some samples. `latest` is what it said in its latest run."""

    work: Callable[[Sequence[Sample]], Said]
    samples: Sequence[Sample]
    latest: Said = field(default_factory=dict, init=False)

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

    @cached_property
    def examples(self) -> tuple[tuple[Sample, str], ...]:
        """Labelled images that are not asked about, of as many classes as there are."""
        return tuple((sample, sample.label) for sample in spread(self.samples, self.settings.shots))

    @cached_property
    def asked(self) -> tuple[Sample, ...]:
        """The samples that are no examples."""
        shown = {sample.id for sample, _ in self.examples}
        return tuple(sample for sample in self.samples if sample.id not in shown)

    def answers(
        self, samples: Sequence[Sample], *answers: str, about: Callable[[str], PromptMaker] = ImageThenText
    ) -> Said:
        """Ours on these answer paths, as every verb asks."""
        settings = self.answering.model_copy(update={"answers": answers})
        asked, reader = self.questions.build(settings, about), ImageReader(self.mllm.chat)
        rows = answer_samples(self.mllm, samples, asked, settings.batch, reader=reader)
        said: Said = {"text": [row.text for row in rows if row.answer == "label"]} if "label" in answers else {}
        if "likelihood" in answers:
            likely = [row.probabilities for row in rows if row.answer == "likelihood"]
            said["log_probability"] = torch.tensor(likely, dtype=torch.float64).log()
        return said

    def batches(self, samples: Sequence[Sample]) -> Iterator[Sequence[Sample]]:
        """The samples that a rival asks about together."""
        for start in range(0, len(samples), self.settings.batch):
            yield samples[start : start + self.settings.batch]


def measure(settings: OodSettings, on_progress: OnProgress) -> list[BenchRow]:
    """A row for each rival. Raises a ThroughlineError when two sides do not say the same."""
    with on_threads(settings.threads), tempfile.TemporaryDirectory() as folder:
        samples = draw_samples(Path(folder), settings.images + settings.shots)
        work = Work(load_mllm(POCKET), samples, make_question_set(CLASSES), settings)
        shots, most, fewer = f"behind {settings.shots} examples", settings.images, settings.fewer
        return [
            *_rows(work, "label path", most, label, {LOOP: one_by_one, BATCHES: in_batches}, on_progress),
            *_rows(work, "label path and likelihood", most, both, {TWO_PASSES: two_passes}, on_progress),
            *_rows(work, f"likelihood {shots}", fewer, behind_examples, {WHOLE_PROMPTS: whole_prompts}, on_progress),
            *_rows(
                work, "features", fewer, features, {PASS_PER_POINT: pass_per_point, ONE_PASS: one_pass}, on_progress
            ),
        ]


def _rows(
    work: Work,
    what: str,
    images: int,
    ours: Way,
    rivals: Mapping[str, Way],
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


def check(name: str, ours: Said, rival: Said) -> dict[str, Any]:
    """How far the rival's texts and numbers are from ours about the same images; ThroughlineError where too far."""
    if ours.keys() != rival.keys():
        raise ThroughlineError("the two sides say different things", name, "no time of it counts: report it")
    found: dict[str, Any] = {}
    for key, theirs in rival.items():
        if isinstance(theirs, list):
            differing = sum(mine != other for mine, other in zip(ours[key], theirs, strict=False))
            if differing > (1 - SAME_TEXTS) * len(theirs):
                what = f"{differing} of {len(theirs)} texts differ"
                raise ThroughlineError(what, name, "no time of it counts: report it")
            found["differing_texts"] = differing
        else:
            gap = float(((ours[key][: len(theirs)] - theirs).abs() / theirs.abs().clamp(min=1)).max())
            require_close(name, gap, TOLERANCE, f"{key} of both sides differ")
            found["largest_difference"] = max(gap, found.get("largest_difference", 0.0))
    return found


# answers --------------------------------------------------------------------------------------------------------------


def label(work: Work, samples: Sequence[Sample]) -> Said:
    """Ours: the label path."""
    return work.answers(samples, "label")


def both(work: Work, samples: Sequence[Sample]) -> Said:
    """Ours: the label path and label likelihoods."""
    return work.answers(samples, "label", "likelihood")


def behind_examples(work: Work, samples: Sequence[Sample]) -> Said:
    """Ours: label likelihoods behind examples."""
    return work.answers(samples, "likelihood", about=partial(WithExamples, work.examples))


LOOP = "generate loop, one image at a time"
BATCHES = "generate loop, batches padded on the left"
TWO_PASSES = "generate, then likelihoods on a batched cache"
WHOLE_PROMPTS = "whole prompts, likelihoods on a batched cache"


def one_by_one(work: Work, samples: Sequence[Sample]) -> Said:
    """`generate` as model cards call it."""
    return _generated(work, [[sample] for sample in samples])


def in_batches(work: Work, samples: Sequence[Sample]) -> Said:
    """The documented way to generate for many."""
    return _generated(work, work.batches(samples))


def two_passes(work: Work, samples: Sequence[Sample]) -> Said:
    """Label and likelihoods by a program each."""
    return in_batches(work, samples) | _likelihoods(work, samples)


def whole_prompts(work: Work, samples: Sequence[Sample]) -> Said:
    """Likelihoods with the examples in every image's prompt; tokens, and the examples' pixel values, are made once."""
    return _likelihoods(work, samples, work.examples)


def _generated(work: Work, batches: Iterable[Sequence[Sample]]) -> Said:
    processor, texts = work.mllm.chat.processor, list[str]()
    question = render(processor, work.questions.label)
    for batch in batches:
        texts += written(work.mllm, encode(processor, question, opened(batch)), work.answering.label_tokens)
    return {"text": texts}


def _likelihoods(work: Work, samples: Sequence[Sample], examples: tuple[tuple[Sample, str], ...] = ()) -> Said:
    """Each image's whole prompt through the model, in batches; its cache is copied for every label."""
    processor, parts = work.mllm.chat.processor, []
    shown = opened([sample for sample, _ in examples])
    pictures = [*shown, *opened(samples[:1])]  # all images give as many tokens as this one
    messages = list(WithExamples(examples, work.questions.label)(samples[0]).messages)
    prompt = _tokens(processor, messages, pictures)
    labels = []
    for name in work.questions.class_names:
        turn = {"role": "assistant", "content": [{"type": "text", "text": name}]}
        tokens = _tokens(processor, [*messages, turn], pictures)
        assert torch.equal(tokens[:, : prompt.shape[1]], prompt), "a label's tokens begin where the prompt ends"
        labels.append(tokens[0, prompt.shape[1] :])
    before = _pixels(processor, shown) if shown else torch.empty(0)
    for batch in work.batches(samples):
        pixels = _pixels(processor, opened(batch))
        if shown:
            pixels = torch.cat([before.expand(len(batch), *before.shape), pixels[:, None]], dim=1).flatten(0, 1)
        inputs = {"input_ids": prompt.expand(len(batch), -1), "pixel_values": pixels}
        parts.append(batched_cache(work.mllm.model, LabelQuestion(inputs, (), tuple(labels))))
    return {"log_probability": torch.log_softmax(torch.cat(parts).double(), dim=1)}


def opened(samples: Sequence[Sample]) -> list[Image.Image]:
    """The pictures of these files."""
    return [Image.open(sample.path).convert("RGB") for sample in samples]


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


PASS_PER_POINT, ONE_PASS = "a batched pass for each point", "one batched pass for all"


def features(work: Work, samples: Sequence[Sample]) -> Said:
    """Ours: every point, as `ood probe` reads them."""
    reader, make = ImageReader(work.mllm.chat), ImageThenText(work.questions.label)
    found, _ = read_features(work.mllm, samples, lambda sample: make(sample).encode(reader))
    return {point: torch.tensor(rows) for point, rows in found.points.items()}


def pass_per_point(work: Work, samples: Sequence[Sample]) -> Said:
    """A pass over all images for the tower, one for the projector, and one for each layer of the decoder with
    `output_hidden_states`; files are opened and encoded once."""
    batches = _encoded(work, samples)
    layers = range(work.mllm.model.config.text_config.num_hidden_layers + 1)
    passes = [_of_image("tower"), _of_image("projector"), *(_of_layers([layer]) for layer in layers)]
    return {name: rows for run in passes for name, rows in _joined([run(work, batch) for batch in batches]).items()}


def one_pass(work: Work, samples: Sequence[Sample]) -> Said:
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


def _of_image(*points: str) -> Callable[[Work, Inputs], Said]:
    @torch.no_grad()
    def run(work: Work, batch: Inputs) -> Said:
        found = work.mllm.model.get_image_features(pixel_values=batch["pixel_values"], return_dict=True)
        means = {"tower": found.last_hidden_state.mean(dim=1), "projector": found.pooler_output.mean(dim=1)}
        return {point: means[point].double() for point in points}

    return run


def _of_layers(layers: Sequence[int]) -> Callable[[Work, Inputs], Said]:
    @torch.no_grad()
    def run(work: Work, batch: Inputs) -> Said:
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


def _joined(parts: Sequence[Said]) -> Said:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


if __name__ == "__main__":
    sys.exit(run_bench(OodSettings, measure))
