"""`throughline bench score`, `sample` and `evaluate`: what an answer costs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from throughline.cli.bench.options import (
    Bench,
    add_ablate,
    add_classes,
    add_geometry,
    add_threads,
    geometries,
    sizes,
    told,
)
from throughline.cli.options import positive_int

if TYPE_CHECKING:
    from throughline.benchmarks.timing import BenchRow


def _add_score_options(parser: argparse.ArgumentParser) -> None:
    add_geometry(parser, "bench-40m")
    add_classes(parser, (65,))
    parser.add_argument(
        "--images",
        type=sizes,
        default=(1, 4),
        metavar="N,N",
        help="images at a time; more than one is timed once",
    )
    parser.add_argument("--trials", type=positive_int, default=3, metavar="N", help="timed turns of every side")
    add_threads(parser)
    add_ablate(parser, "layouts")


def _measure_score(arguments: argparse.Namespace) -> Sequence[BenchRow]:
    from throughline.benchmarks.score import ScoreSettings, measure_score

    settings = ScoreSettings(
        geometries=geometries(arguments, ScoreSettings.geometries),
        classes=arguments.classes,
        images=arguments.images,
        trials=arguments.trials,
        threads=arguments.threads,
        ablate=arguments.ablate,
    )
    return measure_score(settings, told)


def _add_sample_options(parser: argparse.ArgumentParser) -> None:
    add_geometry(parser, "pocket and bench-40m")
    parser.add_argument("--trials", type=positive_int, default=5, metavar="N", help="timed calls of every side")
    add_threads(parser)
    add_ablate(parser, "layouts, leaving, packed weights")


def _measure_sample(arguments: argparse.Namespace) -> Sequence[BenchRow]:
    from throughline.benchmarks.sampling import SampleSettings, measure_sample

    settings = SampleSettings(
        geometries=geometries(arguments, SampleSettings.geometries),
        trials=arguments.trials,
        threads=arguments.threads,
        ablate=arguments.ablate,
    )
    return measure_sample(settings, told)


def _add_evaluate_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=positive_int, default=1_000, metavar="N", help="drawn images to ask about")
    parser.add_argument("--trials", type=positive_int, default=2, metavar="N", help="timed runs of each side")
    add_threads(parser)
    add_ablate(parser, "layouts, leaving, asking together")


def _measure_evaluate(arguments: argparse.Namespace) -> Sequence[BenchRow]:
    from throughline.benchmarks.evaluating import EvaluateSettings, measure_evaluate

    settings = EvaluateSettings(
        images=arguments.images, trials=arguments.trials, threads=arguments.threads, ablate=arguments.ablate
    )
    return measure_evaluate(settings, told)


SCORE = Bench(
    "the likelihood of every class against plain transformers with and without a cache",
    _add_score_options,
    _measure_score,
)
SAMPLE = Bench("several continuations of a prompt against transformers' generate", _add_sample_options, _measure_sample)
EVALUATE = Bench(
    "all three answers about drawn images against three passes of plain transformers",
    _add_evaluate_options,
    _measure_evaluate,
)
