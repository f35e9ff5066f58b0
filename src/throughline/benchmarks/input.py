"""What feeding the model well is worth: each way that images and samples reach it, against our own side without it.

Pixel cache, reading ahead, folded adapters, loader workers, micro-batches by length. The rival is this system with that
one thing off; what both sides compute in the timed runs is compared before a row is made of it. `throughline bench
input` calls this.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from throughline.benchmarks.ablations import chosen, with_plan, without
from throughline.benchmarks.contenders import LORA, with_random_lora
from throughline.benchmarks.machine import machine_settings, on_threads
from throughline.benchmarks.timing import BenchRow, compare, take_turns
from throughline.benchmarks.workload import require_batch, tokenizer_texts, write_scenes
from throughline.chains.formats import FIVE_STAGE
from throughline.core.errors import ThroughlineError
from throughline.core.settings import AnswerSettings, StageSettings
from throughline.domains.folders import read_images
from throughline.domains.samples import Sample
from throughline.drawn.concepts import CLASSES
from throughline.evaluation.answers import answer_samples
from throughline.mllm.geometries import GEOMETRIES, random_mllm
from throughline.mllm.images import ImageReader
from throughline.mllm.load import Mllm
from throughline.mllm.pixel_cache import PixelCache, processor_settings
from throughline.mllm.tree import Tree
from throughline.questions.question_set import make_question_set
from throughline.questions.wording import class_name
from throughline.training.methods import BOTH
from throughline.training.paths import Example, PathRenderer
from throughline.training.trainer import TreeDataset, train_stage

TOLERANCE = 1e-4
"""Largest difference between two sides, relative where a number is beyond 1; the cache and reading ahead have none."""

QUESTIONS = make_question_set(CLASSES, FIVE_STAGE)


@dataclass(frozen=True)
class InputSettings:
    """What is measured; times are per 1,000 images. `threads` None leaves torch's own number."""

    geometries: tuple[str, ...] = ("pocket",)
    images: int = 96
    pixels: int = 768
    """A side of the drawn JPEG files."""
    trials: int = 5
    batch: int = 16
    """Images asked together, and samples behind an optimiser step."""
    micro_batch: int = 4
    threads: int | None = None
    ablate: tuple[str, ...] = ("all",)
    """Which of `INPUT`, or `all`."""


@dataclass(eq=False)
class Side:
    """What is timed: `run` gives all numbers that it came to, `found` keeps those of the latest run."""

    run: Callable[[], Tensor]
    found: Tensor | None = field(default=None, init=False)

    def __call__(self) -> None:
        """One run."""
        self.found = self.run()


@dataclass(frozen=True, eq=False)
class InputWork:
    """Image files with their chains by path, and a model with an adapter in it. `scratch` is an empty folder."""

    mllm: Mllm
    samples: Sequence[Sample]
    chains: Mapping[Path, str]
    scratch: Path
    settings: InputSettings

    def fresh_reader(self) -> ImageReader:
        """Has read nothing yet, and no cache."""
        return ImageReader(self.mllm.chat)

    def full_reader(self) -> ImageReader:
        """Holds every image."""
        reader = ImageReader(self.mllm.chat, limit_bytes=1 << 40)
        for one in self.samples:
            reader.encode(one)
        return reader


Sides = tuple[Side, Side]
"""With and without."""


def measure_input(settings: InputSettings, told: Callable[[str], None] = lambda line: None) -> list[BenchRow]:
    """A row for each geometry and each of `settings.ablate`. Raises ThroughlineError when two sides differ."""
    things = chosen(settings.ablate, INPUT)
    require_batch(settings.images)
    texts = tokenizer_texts()
    rows = []
    with on_threads(settings.threads), tempfile.TemporaryDirectory() as folder:
        chains = write_scenes(Path(folder) / "images", settings.images, settings.pixels)
        samples = read_images(Path(folder) / "images").samples
        for geometry in settings.geometries:
            bare = random_mllm(GEOMETRIES[geometry], texts)
            # Layouts of rows draw other elements: without dropout both sides compute the same.
            mllm = replace(bare, model=with_random_lora(bare, LORA.model_copy(update={"dropout": 0.0})))
            work = InputWork(mllm, samples, chains, Path(folder), settings)
            for thing in things:
                name = f"input {geometry}, {thing}"
                told(name)
                said = {"geometry": geometry, **_settings_of(settings), **machine_settings(mllm.model)}
                rows.append(measure_sides(name, thing, INPUT[thing](work), settings, said))
    return rows


def measure_sides(name: str, thing: str, sides: Sides, settings: InputSettings, said: dict[str, Any]) -> BenchRow:
    """Times both in turns, then compares what they came to."""
    ours, rival = sides
    seconds = take_turns({"ours": ours, "rival": rival}, settings.trials)
    assert ours.found is not None and rival.found is not None
    gap = (ours.found - rival.found).abs() / rival.found.abs().clamp(min=1)
    difference = float(gap.max())
    if not difference <= TOLERANCE:
        raise ThroughlineError(
            f"numbers with and without it differ by {difference:.1e}", name, "no time of it counts: report it"
        )
    per_thousand = {side: [taken * 1000 / settings.images for taken in turns] for side, turns in seconds.items()}
    return compare(
        name,
        without(thing),
        per_thousand["ours"],
        per_thousand["rival"],
        None,
        {**said, "largest_difference": difference},
        unit="seconds per 1,000 images",
    )


def _settings_of(settings: InputSettings) -> dict[str, Any]:
    left_out = ("geometries", "threads", "ablate")
    return {one.name: getattr(settings, one.name) for one in fields(settings) if one.name not in left_out}


# what is measured -----------------------------------------------------------------------------------------------------


def pixel_cache(work: InputWork) -> Sides:
    """Reading every image again, as the next unit does: from the cache on disk, or decoded and resized anew."""
    chat = work.mllm.chat
    cache = PixelCache(work.scratch / "pixels", 1 << 40, processor_settings(chat))

    def read(kept: PixelCache | None) -> Tensor:
        reader = ImageReader(chat, limit_bytes=0, cache=kept)
        return torch.stack([reader.encode(one).inputs["pixel_values"].sum() for one in work.samples])

    read(cache)
    return Side(lambda: read(cache)), Side(lambda: read(None))


class _InTurn(ImageReader):
    """Reads an image when it is asked for."""

    def expect(self, samples: Sequence[Sample]) -> None:
        """Leaves it."""


def reading_ahead(work: InputWork) -> Sides:
    """Asking about images that were not read yet: the next batch is read while this one is computed, or is not."""
    return (
        Side(lambda: _ask(work, work.mllm, work.fresh_reader())),
        Side(lambda: _ask(work, work.mllm, _InTurn(work.mllm.chat))),
    )


class _Unfolded(Mllm):
    """Asks through the adapter's own products."""

    @contextlib.contextmanager
    def asked(self) -> Iterator[None]:
        """The model is in evaluation mode already."""
        yield


def folded_adapters(work: InputWork) -> Sides:
    """Asking about images in memory, adapters folded into the weights meanwhile or not."""
    reader = work.full_reader()
    beside = _Unfolded(**{one.name: getattr(work.mllm, one.name) for one in fields(work.mllm)})
    return Side(lambda: _ask(work, work.mllm, reader)), Side(lambda: _ask(work, beside, reader))


def loader_workers(work: InputWork) -> Sides:
    """Training on images that were not read yet: a process reads ahead of the step, or the step waits."""
    return (
        Side(lambda: _train(work, work.mllm, work.fresh_reader(), loader_workers=1)),
        Side(lambda: _train(work, work.mllm, work.fresh_reader(), loader_workers=0)),
    )


def micro_batches_by_length(work: InputWork) -> Sides:
    """Training in padded rows, for families that need them: micro-batches cut by length, or as samples come."""
    reader, masked = work.full_reader(), with_plan(work.mllm, "packed rows")
    return (
        Side(lambda: _train(work, masked, reader, bucket_lengths=True)),
        Side(lambda: _train(work, masked, reader, bucket_lengths=False)),
    )


INPUT: dict[str, Callable[[InputWork], Sides]] = {
    "pixel cache": pixel_cache,
    "reading ahead": reading_ahead,
    "folded adapters": folded_adapters,
    "loader workers": loader_workers,
    "micro-batches by length": micro_batches_by_length,
}
"""What the bench can do without."""


def _ask(work: InputWork, mllm: Mllm, reader: ImageReader) -> Tensor:
    """`(images, classes)` log-probabilities; with random weights the other ways go on until they are cut off."""
    answering = AnswerSettings(answers=("likelihood",), batch=work.settings.batch)
    said = answer_samples(mllm, work.samples, QUESTIONS.build(answering), answering.batch, reader=reader)
    return torch.tensor([one.probabilities for one in said], dtype=torch.float64).log()


def _train(work: InputWork, mllm: Mllm, reader: ImageReader, **options: Any) -> Tensor:
    """The loss of every optimiser step of an epoch, from the adapter as it was, which it is again afterwards."""
    renderer = PathRenderer(mllm.chat, QUESTIONS)

    def tree(index: int) -> Tree:
        one = work.samples[index]
        return BOTH.tree(renderer, Example((reader.encode(one),), class_name(one.label), work.chains[one.path]))

    defaults = {"bucket_lengths": False, "loader_workers": 0}
    settings = StageSettings(
        epochs=1, batch=work.settings.batch, micro_batch=work.settings.micro_batch, **{**defaults, **options}
    )
    weights = [weight for weight in mllm.model.parameters() if weight.requires_grad]
    before = [weight.detach().clone() for weight in weights]
    dataset = TreeDataset(len(work.samples), tree)
    with tempfile.TemporaryDirectory(dir=work.scratch) as folder:
        _, lines = train_stage(
            mllm.model,
            dataset,
            mllm.collate,
            settings,
            objective=BOTH,
            seed=0,
            folder=Path(folder),
            log_steps=1,
        )
    with torch.no_grad():
        for weight, value in zip(weights, before, strict=True):
            weight.copy_(value)
    return torch.tensor([line.loss for line in lines])
