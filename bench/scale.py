"""Whether ten times as many images cost ten times as much: seconds an image and peak memory at two sizes.

    python bench/scale.py --json

Each size runs in a fresh process: `data check`, the split, filling and reading the pixel cache, and label-path
evaluation with the pocket checkpoint. The rival is this system with fewer images.
"""

import contextlib
import functools
import io
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import PositiveInt

from bench_script import run_bench
from fresh_process import in_a_fresh_process, peak_megabytes
from throughline.benchmarks.settings import BenchSettings
from throughline.benchmarks.timing import BenchRow, OnProgress, compare, machine_settings, on_threads
from throughline.core.errors import ThroughlineError, UsageError
from throughline.core.settings import AnswerSettings
from throughline.domains.checks import check_images
from throughline.domains.folders import read_images
from throughline.domains.samples import ImageSet
from throughline.domains.splits import split_domains
from throughline.drawn.concepts import CLASSES
from throughline.drawn.scenes import sample_scene
from throughline.drawn.styles import DOMAIN_STYLES, render
from throughline.evaluation.assessment import assess
from throughline.evaluation.saved_model import OpenedModel, open_model
from throughline.mllm.images import ImageReader
from throughline.mllm.pixel_cache import PixelCache, processor_settings

GEOMETRY = "pocket"
SHOWN = CLASSES[:10]
SIDE = 64
SCENES = 8
"""Different pictures of each class and style; files differ in bytes behind the picture."""

STAGES = ("check", "split", "cache fill", "cache read", "label evaluation")


class ScaleSettings(BenchSettings):
    """What an image costs when there are ten times as many: check, split, cache, label-path evaluation, memory."""

    few: PositiveInt = 10_000
    """Images that many are set against."""
    many: PositiveInt = 100_000
    """Images; 100,000 take half an hour or more and 4 GB of disk."""
    cached_share: float = 0.5
    """Room in the cache as a share of what all images take, so that filling it takes old images out at both sizes."""
    batch: PositiveInt = AnswerSettings().batch
    """Images asked together."""


@dataclass(frozen=True)
class Measured:
    """One process: seconds for 1,000 images of each stage, megabytes at most, and what the numbers rest on."""

    seconds: dict[str, float]
    megabytes: float
    facts: dict[str, Any]


def measure(settings: ScaleSettings, on_progress: OnProgress) -> list[BenchRow]:
    """A row for each stage, in seconds for 1,000 images, and one for memory, whose ratio is ours over the rival's.

    In turns, the few before and after the many: a machine that slows down shows in the spread. Raises UsageError
    where the few are not fewer, ThroughlineError where a process fails or does not answer for every image.
    """
    few, many = settings.few, settings.many
    if few >= many:
        raise UsageError(f"--few {few:,} against --many {many:,}", do="the few have to be fewer")
    with tempfile.TemporaryDirectory() as folder:
        roots = {count: Path(folder) / str(count) for count in (few, many)}
        for count, root in roots.items():
            on_progress(f"writing {count:,} images")
            write_images(root, count)
        measured: dict[int, list[Measured]] = {few: [], many: []}
        for count in (few, many, few, many, few):
            on_progress(f"{count:,} images")
            measured[count].append(in_a_fresh_process(measure_images, roots[count], settings))
    facts = {**measured[many][0].facts, "few": few, "many": many, "cached_share": settings.cached_share}
    rows = [_stage_row(stage, measured[many], measured[few], facts) for stage in STAGES]
    return [*rows, _memory_row(measured[many], measured[few], facts)]


def measure_images(root: Path, settings: ScaleSettings) -> Measured:
    """All stages on the images in `root`, in this process. ThroughlineError where an image is left out."""
    with on_threads(settings.threads):
        return _measured(root, settings)


def _measured(root: Path, settings: ScaleSettings) -> Measured:
    watch = _Watch()
    with watch.stage("check"):
        errors = check_images(root).errors
    with watch.stage("split"):
        images = read_images(root)
        split_domains(images, trial_seed=0)
    model = open_model(GEOMETRY, images.classes)
    model = replace(model, answering=AnswerSettings(answers=("label",), batch=settings.batch))
    _warm_up(model, images)
    hits = _through_the_cache(model, images, settings, watch)
    with watch.stage("label evaluation"):
        (*_, line) = assess(model, images).lines
    count = len(images.samples)
    if errors or line.n != count:
        raise ThroughlineError(
            f"{line.n} of {count} images answered, {len(errors)} faults", root, "nothing was measured: report it"
        )
    watch.images |= {stage: count for stage in STAGES if stage != "cache read"}
    facts = {
        "geometry": GEOMETRY,
        "pixels": SIDE,
        "batch": settings.batch,
        "cache_hits": hits,
        **machine_settings(model.mllm.model),
    }
    return Measured(watch.for_1000(), peak_megabytes(), facts)


def write_images(root: Path, count: int) -> None:
    """`count` drawn images of four domains and ten classes; every file has bytes of its own."""
    kinds = [(style, label) for style in DOMAIN_STYLES for label in SHOWN]
    for style, label in kinds:
        (root / style / label).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        style, label = kinds[number % len(kinds)]
        picture = _jpeg(style, label, number // len(kinds) % SCENES)
        (root / style / label / f"{number:07}.jpg").write_bytes(picture + number.to_bytes(8, "big"))


@functools.cache
def _jpeg(style: str, label: str, number: int) -> bytes:
    file = io.BytesIO()
    render(sample_scene(0, style, label, number), style, SIDE).save(file, "JPEG", quality=90)
    return file.getvalue()


class _Watch:
    """Seconds and images by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.images: dict[str, int] = {}

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - began

    def for_1000(self) -> dict[str, float]:
        return {stage: 1000 * self.seconds[stage] / self.images[stage] for stage in STAGES}


def _warm_up(model: OpenedModel, images: ImageSet) -> None:
    """The first calls of every kind are slower, and weigh more on fewer images."""
    assess(model, replace(images, samples=images.samples[: model.answering.batch]))


def _through_the_cache(model: OpenedModel, images: ImageSet, settings: ScaleSettings, watch: _Watch) -> float:
    """Stores all images, then reads the last quarter of them; gives the share of these that were still there.

    Halfway, when the cache is full, the system has to put on disk what it put off: it does so by itself after half a
    minute, which many images take and few do not, and a file on disk costs ten times as much to take out.
    """
    chat, samples = model.mllm.chat, images.samples
    with tempfile.TemporaryDirectory() as folder:
        probe = PixelCache(Path(folder) / "probe", 1 << 30, "size of an image")
        probe.put(ImageReader(chat).encode(samples[0]))
        (path,) = (Path(folder) / "probe").rglob("*.safetensors")
        room = int(settings.cached_share * len(samples) * path.stat().st_size)
        cache = PixelCache(Path(folder) / "all", room, processor_settings(chat))
        reader = ImageReader(chat, cache=cache)
        os.sync()
        with watch.stage("cache fill"):
            for number, sample in enumerate(samples):
                reader.encode(sample)
                if number == len(samples) // 2:
                    os.sync()
        latest = samples[-len(samples) // 4 :]
        with watch.stage("cache read"):
            hits = sum(cache.get(sample.image_sha256) is not None for sample in latest)
    watch.images["cache read"] = len(latest)
    return hits / len(latest)


def _stage_row(stage: str, many: list[Measured], few: list[Measured], facts: dict[str, Any]) -> BenchRow:
    ours, theirs = ([run.seconds[stage] for run in runs] for runs in (many, few))
    return compare(f"scale {GEOMETRY}, {stage}", _rival(facts), ours, theirs, facts, unit="seconds for 1,000 images")


def _memory_row(many: list[Measured], few: list[Measured], facts: dict[str, Any]) -> BenchRow:
    ours, theirs = ([run.megabytes for run in runs] for runs in (many, few))
    settings = {**facts, "difference": round(statistics.median(ours) - statistics.median(theirs), 1)}
    name = f"scale {GEOMETRY}, memory"
    return compare(name, _rival(facts), ours, theirs, settings, unit="MB", ours_over_rival=True)


def _rival(facts: dict[str, Any]) -> str:
    return f"the same with {facts['few']:,} images"


if __name__ == "__main__":
    sys.exit(run_bench(ScaleSettings, measure))
