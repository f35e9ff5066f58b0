"""What feeding the model well is worth: each way that images and samples reach it, against our own side without it.

    python bench/input.py --json

Pixel cache, reading ahead, folded adapters, loader workers, micro-batches by length. The rival is this system with that
one thing off; what both sides compute in the timed runs is compared before a row is made of it.
"""

import contextlib
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import PositiveInt
from torch import Tensor

from bench_script import run_bench
from throughline.benchmarks.ablations import with_plan, without
from throughline.benchmarks.settings import BenchSettings, Geometries
from throughline.benchmarks.timing import (
    BenchRow,
    OnProgress,
    machine_settings,
    measure_sides,
    on_threads,
    require_close,
)
from throughline.benchmarks.workload import LORA, described_scenes, random_model, require_batch, with_random_lora
from throughline.chains.formats import FIVE_STAGE
from throughline.core.settings import AnswerSettings, StageSettings
from throughline.domains.folders import read_images
from throughline.domains.samples import Sample
from throughline.drawn.concepts import CLASSES
from throughline.drawn.styles import render
from throughline.evaluation.answers import answer_samples
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


Ablation = Literal["pixel cache", "reading ahead", "folded adapters", "loader workers", "micro-batches by length"]


class InputSettings(BenchSettings):
    """What feeds the model — cache, reading ahead, loader workers — against our own side without it."""

    geometry: Geometries = ("pocket",)
    """Shapes of the model, random weights: pocket, bench-40m or bench-40m-151k."""
    images: PositiveInt = 96
    """Drawn images, at most 300."""
    pixels: PositiveInt = 768
    """A side of their JPEG files."""
    trials: PositiveInt = 5
    """Timed runs of each side."""
    batch: PositiveInt = 16
    """Images asked together, and samples behind an optimiser step."""
    micro_batch: PositiveInt = 4
    """Samples in a forward pass of training."""
    ablate: tuple[Literal["all", Ablation], ...] = ("all",)
    """Measures these alone"""


@dataclass(eq=False)
class Recorded:
    """A side that is timed: `run` gives all numbers that it came to, `latest` keeps those of the latest run."""

    run: Callable[[], Tensor]
    latest: Tensor | None = field(default=None, init=False)

    def __call__(self) -> None:
        """One run."""
        self.latest = self.run()


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
        for sample in self.samples:
            reader.encode(sample)
        return reader


Sides = tuple[Recorded, Recorded]
"""With and without."""


def measure(settings: InputSettings, on_progress: OnProgress) -> list[BenchRow]:
    """A row for each geometry and each of `settings.ablate`. Raises ThroughlineError when two sides differ."""
    require_batch(settings.images)
    rows = []
    with on_threads(settings.threads), tempfile.TemporaryDirectory() as folder:
        chains = write_scenes(Path(folder) / "images", settings.images, settings.pixels)
        samples = read_images(Path(folder) / "images").samples
        for geometry in settings.geometry:
            bare = random_model(geometry)
            # Layouts of rows draw other elements: without dropout both sides compute the same.
            mllm = replace(bare, model=with_random_lora(bare, LORA.model_copy(update={"dropout": 0.0})))
            work = InputWork(mllm, samples, chains, Path(folder), settings)
            facts = {"geometry": geometry, **machine_settings(mllm.model)}
            facts |= settings.model_dump(exclude={"geometry", "threads", "ablate"})
            for thing in settings.ablations():
                name = f"input {geometry}, {thing}"
                on_progress(name)
                rows += measure_pair(name, thing, WAYS[thing](work), facts)
    return rows


def measure_pair(name: str, thing: str, sides: Sides, facts: dict[str, Any]) -> list[BenchRow]:
    """Times both in turns, then compares what they came to."""
    ours, rival = sides

    def compared(_: str) -> dict[str, Any]:
        assert ours.latest is not None and rival.latest is not None
        gap = (ours.latest - rival.latest).abs() / rival.latest.abs().clamp(min=1)
        return {
            "largest_difference": require_close(name, float(gap.max()), TOLERANCE, "numbers with and without differ")
        }

    thousands, unit = facts["images"] / 1000, "seconds per 1,000 images"
    return measure_sides(name, ours, {without(thing): rival}, facts["trials"], facts, compared, thousands, unit)


def write_scenes(root: Path, count: int, image_size: int) -> dict[Path, str]:
    """`count` of the pool's scenes as JPEG files, `image_size` pixels a side, by domain: the chain of each file."""
    chains = {}
    for index, (style, scene, chain) in enumerate(described_scenes()[:count]):
        path = root / style / CLASSES[index % len(CLASSES)] / f"{index:03}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        render(scene, style, image_size).save(path, quality=90)
        chains[path] = chain
    return chains


# what is measured -----------------------------------------------------------------------------------------------------


def pixel_cache(work: InputWork) -> Sides:
    """Reading every image again, as the next unit does: from the cache on disk, or decoded and resized anew."""
    chat = work.mllm.chat
    cache = PixelCache(work.scratch / "pixels", 1 << 40, processor_settings(chat))

    def read(kept: PixelCache | None) -> Tensor:
        reader = ImageReader(chat, limit_bytes=0, cache=kept)
        return torch.stack([reader.encode(sample).inputs["pixel_values"].sum() for sample in work.samples])

    read(cache)
    return Recorded(lambda: read(cache)), Recorded(lambda: read(None))


class _InTurn(ImageReader):
    """Reads an image when it is asked for."""

    def expect(self, samples: Sequence[Sample]) -> None:
        """Leaves it."""


def reading_ahead(work: InputWork) -> Sides:
    """Asking about images that were not read yet: the next batch is read while this one is computed, or is not."""
    return (
        Recorded(lambda: _ask(work, work.mllm, work.fresh_reader())),
        Recorded(lambda: _ask(work, work.mllm, _InTurn(work.mllm.chat))),
    )


class _Unfolded(Mllm):
    """Asks through the adapter's own products."""

    @contextlib.contextmanager
    def evaluating(self, fold: bool = True) -> Iterator[None]:
        """Nothing is folded, whatever `fold` says; the model is in evaluation mode already."""
        yield


def folded_adapters(work: InputWork) -> Sides:
    """Asking about images in memory, adapters folded into the weights meanwhile or not."""
    reader = work.full_reader()
    beside = _Unfolded(**{item.name: getattr(work.mllm, item.name) for item in fields(work.mllm)})
    return Recorded(lambda: _ask(work, work.mllm, reader)), Recorded(lambda: _ask(work, beside, reader))


def loader_workers(work: InputWork) -> Sides:
    """Training on images that were not read yet: a process reads ahead of the step, or the step waits."""
    return (
        Recorded(lambda: _train(work, work.mllm, work.fresh_reader(), loader_workers=1)),
        Recorded(lambda: _train(work, work.mllm, work.fresh_reader(), loader_workers=0)),
    )


def micro_batches_by_length(work: InputWork) -> Sides:
    """Training in padded rows, for families that need them: micro-batches cut by length, or as samples come."""
    reader, masked = work.full_reader(), with_plan(work.mllm, "packed rows")
    return (
        Recorded(lambda: _train(work, masked, reader, bucket_lengths=True)),
        Recorded(lambda: _train(work, masked, reader, bucket_lengths=False)),
    )


WAYS: dict[str, Callable[[InputWork], Sides]] = {
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
    predictions = answer_samples(mllm, work.samples, QUESTIONS.build(answering), answering.batch, reader=reader)
    return torch.tensor([prediction.probabilities for prediction in predictions], dtype=torch.float64).log()


def _train(work: InputWork, mllm: Mllm, reader: ImageReader, **options: Any) -> Tensor:
    """The loss of every optimiser step of an epoch, from the adapter as it was, which it is again afterwards."""
    renderer = PathRenderer(mllm.chat, QUESTIONS)

    def tree(index: int) -> Tree:
        sample = work.samples[index]
        return BOTH.tree(
            renderer, Example((reader.encode(sample),), class_name(sample.label), work.chains[sample.path])
        )

    defaults = {"bucket_lengths": False, "loader_workers": 0}
    settings = StageSettings(
        epochs=1, batch=work.settings.batch, micro_batch=work.settings.micro_batch, **{**defaults, **options}
    )
    weights = [weight for weight in mllm.model.parameters() if weight.requires_grad]
    before = [weight.detach().clone() for weight in weights]
    dataset = TreeDataset(len(work.samples), tree)
    with tempfile.TemporaryDirectory(dir=work.scratch) as folder:
        _, lines = train_stage(
            mllm.model, dataset, mllm.collate, settings, objective=BOTH, seed=0, folder=Path(folder), log_steps=1
        )
    with torch.no_grad():
        for weight, value in zip(weights, before, strict=True):
            weight.copy_(value)
    return torch.tensor([line.loss for line in lines])


if __name__ == "__main__":
    sys.exit(run_bench(InputSettings, measure))
