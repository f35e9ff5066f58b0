"""`throughline bench teacher`, `input` and `scale`: what an endpoint, reading, and a hundred thousand images cost."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from throughline.cli.bench.options import Bench, add_ablate, add_geometry, add_threads, geometries, told
from throughline.cli.options import positive_int

if TYPE_CHECKING:
    from throughline.benchmarks.timing import BenchRow


def _add_teacher_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--trials", type=positive_int, default=3, metavar="N", help="timed runs of each side")
    parser.add_argument(
        "--images", type=positive_int, default=200_000, metavar="N", help="images in the measurement of memory"
    )


def _measure_teacher(arguments: argparse.Namespace) -> Sequence[BenchRow]:
    from throughline.benchmarks.teacher import TeacherSettings, measure_teacher

    few, _ = TeacherSettings.images
    return measure_teacher(TeacherSettings(trials=arguments.trials, images=(few, arguments.images)), told)


def _add_input_options(parser: argparse.ArgumentParser) -> None:
    add_geometry(parser, "pocket")
    parser.add_argument("--images", type=positive_int, default=96, metavar="N", help="drawn images, at most 300")
    parser.add_argument("--pixels", type=positive_int, default=768, metavar="N", help="a side of their JPEG files")
    parser.add_argument("--trials", type=positive_int, default=5, metavar="N", help="timed runs of each side")
    add_threads(parser)
    add_ablate(
        parser,
        "pixel cache, reading ahead, folded adapters, loader workers, micro-batches by length",
        default=("all",),
    )


def _measure_input(arguments: argparse.Namespace) -> Sequence[BenchRow]:
    from throughline.benchmarks.input import InputSettings, measure_input

    settings = InputSettings(
        geometries=geometries(arguments, InputSettings.geometries),
        images=arguments.images,
        pixels=arguments.pixels,
        trials=arguments.trials,
        threads=arguments.threads,
        ablate=arguments.ablate,
    )
    return measure_input(settings, told)


def _add_scale_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--few", type=positive_int, default=10_000, metavar="N", help="images that many are set against"
    )
    parser.add_argument(
        "--many",
        type=positive_int,
        default=100_000,
        metavar="N",
        help="images; 100,000 take half an hour or more and 4 GB of disk",
    )
    add_threads(parser)


def _measure_scale(arguments: argparse.Namespace) -> Sequence[BenchRow]:
    from throughline.benchmarks.scale import ScaleSettings, measure_scale

    settings = ScaleSettings(images=(arguments.few, arguments.many), threads=arguments.threads)
    return measure_scale(settings, told)


TEACHER = Bench(
    "asking an endpoint for chains against the server's capacity and plain clients",
    _add_teacher_options,
    _measure_teacher,
)
INPUT = Bench(
    "what feeds the model — cache, reading ahead, loader workers — against our own side without it",
    _add_input_options,
    _measure_input,
)
SCALE = Bench(
    "what an image costs when there are ten times as many: check, split, cache, label-path evaluation, memory",
    _add_scale_options,
    _measure_scale,
)
