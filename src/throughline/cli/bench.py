"""`throughline bench`: this system against named rivals, each claim a ratio measured in one process on this machine.

Each subcommand calls one file of `benchmarks` and prints its rows, as a table or with `--json` as a list of objects.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from throughline.cli.parsing import positive_int, words

if TYPE_CHECKING:
    from throughline.benchmarks.timing import BenchRow

SUMMARY = "measure this system against its rivals on this machine"


@dataclass(frozen=True)
class Bench:
    """A subcommand: its line in the help, its options, and what gives its rows."""

    summary: str
    add_options: Callable[[argparse.ArgumentParser], None]
    measure: Callable[[argparse.Namespace], Sequence[BenchRow]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The subcommands and their options."""
    commands = parser.add_subparsers(title="subcommands", dest="bench", metavar="BENCH", required=True)
    for name, bench in BENCHES.items():
        command: argparse.ArgumentParser = commands.add_parser(name, help=bench.summary, description=bench.summary)
        bench.add_options(command)
        command.add_argument("--json", action="store_true", help="print a JSON list on stdout instead of a table")


def run(arguments: argparse.Namespace) -> int:
    """Measures, then prints."""
    rows = BENCHES[arguments.bench].measure(arguments)
    if arguments.json:
        print(json.dumps([row.to_json() for row in rows], indent=2))
    else:
        _print_table(rows)
    return 0


def _add_step_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--geometry",
        action="append",
        choices=("pocket", "bench-40m", "bench-40m-151k"),
        help="shape of the model, random weights; may be repeated (default: pocket and bench-40m)",
    )
    parser.add_argument(
        "--classes",
        type=_sizes,
        default=(7, 65),
        metavar="N,N",
        help="sizes of the class lists in the question: 5, 7, 10, 65 or 345",
    )
    parser.add_argument(
        "--tiles",
        type=_sizes,
        default=(1, 6),
        metavar="N,N",
        help="tiles that an image is cut into; with more than one there is a thumbnail, too",
    )
    parser.add_argument(
        "--trials",
        type=positive_int,
        metavar="N",
        help="timed steps of each side (default: 9 on the pocket, else 5, with tiles 3)",
    )
    parser.add_argument(
        "--batch",
        type=positive_int,
        metavar="N",
        help="samples in a step (default: 4; with tiles 1, but on the pocket 4)",
    )
    _add_threads(parser)


def _add_threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=positive_int, metavar="N", help="torch threads (default: torch's own choice)")


def _measure_step(arguments: argparse.Namespace) -> Sequence[BenchRow]:
    from throughline.benchmarks.step import StepSettings, measure_step

    settings = StepSettings(
        geometries=tuple(dict.fromkeys(arguments.geometry or StepSettings.geometries)),
        classes=arguments.classes,
        trials=arguments.trials,
        batch=arguments.batch,
        threads=arguments.threads,
        tiles=arguments.tiles,
    )
    return measure_step(settings, _told)


def _add_memory_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--geometry",
        action="append",
        choices=("pocket", "bench-40m", "bench-40m-151k"),
        help="shape of the model, random weights; may be repeated (default: bench-40m-151k)",
    )
    parser.add_argument(
        "--classes",
        type=_sizes,
        default=(65,),
        metavar="N,N",
        help="sizes of the class lists in the question: 5, 7, 10, 65 or 345",
    )
    parser.add_argument("--tiles", type=positive_int, default=1, metavar="N", help="tiles that an image is cut into")
    parser.add_argument("--batch", type=positive_int, default=4, metavar="N", help="images behind an optimiser step")
    parser.add_argument("--device", choices=("cpu", "cuda", "auto"), default="cpu", help="whose memory")
    _add_threads(parser)


def _measure_memory(arguments: argparse.Namespace) -> Sequence[BenchRow]:
    from throughline.benchmarks.memory import MemorySettings, measure_memory
    from throughline.mllm.devices import pick_device

    settings = MemorySettings(
        geometries=tuple(dict.fromkeys(arguments.geometry or MemorySettings.geometries)),
        classes=arguments.classes,
        tiles=arguments.tiles,
        batch=arguments.batch,
        threads=arguments.threads,
        device=pick_device(arguments.device),
    )
    return measure_memory(settings, _told)


def _add_teacher_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--trials", type=positive_int, default=3, metavar="N", help="timed runs of each side")
    parser.add_argument(
        "--images", type=positive_int, default=200_000, metavar="N", help="images in the measurement of memory"
    )


def _measure_teacher(arguments: argparse.Namespace) -> Sequence[BenchRow]:
    from throughline.benchmarks.teacher import TeacherSettings, measure_teacher

    few, _ = TeacherSettings.images
    return measure_teacher(TeacherSettings(trials=arguments.trials, images=(few, arguments.images)), _told)


def _add_score_options(parser: argparse.ArgumentParser) -> None:
    _add_geometry_option(parser, "bench-40m")
    parser.add_argument(
        "--classes",
        type=_sizes,
        default=(65,),
        metavar="N,N",
        help="sizes of the class lists: 5, 7, 10, 65 or 345",
    )
    parser.add_argument(
        "--images",
        type=_sizes,
        default=(1, 4),
        metavar="N,N",
        help="images at a time; more than one is timed once",
    )
    parser.add_argument("--trials", type=positive_int, default=3, metavar="N", help="timed turns of every side")
    _add_threads_option(parser)


def _measure_score(arguments: argparse.Namespace) -> Sequence[BenchRow]:
    from throughline.benchmarks.score import ScoreSettings, measure_score

    settings = ScoreSettings(
        geometries=tuple(dict.fromkeys(arguments.geometry or ScoreSettings.geometries)),
        classes=arguments.classes,
        images=arguments.images,
        trials=arguments.trials,
        threads=arguments.threads,
    )
    return measure_score(settings, _told)


def _add_sample_options(parser: argparse.ArgumentParser) -> None:
    _add_geometry_option(parser, "pocket and bench-40m")
    parser.add_argument("--trials", type=positive_int, default=5, metavar="N", help="timed calls of every side")
    _add_threads_option(parser)


def _measure_sample(arguments: argparse.Namespace) -> Sequence[BenchRow]:
    from throughline.benchmarks.sampling import SampleSettings, measure_sample

    settings = SampleSettings(
        geometries=tuple(dict.fromkeys(arguments.geometry or SampleSettings.geometries)),
        trials=arguments.trials,
        threads=arguments.threads,
    )
    return measure_sample(settings, _told)


def _add_evaluate_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=positive_int, default=1_000, metavar="N", help="drawn images to ask about")
    parser.add_argument("--trials", type=positive_int, default=2, metavar="N", help="timed runs of each side")
    _add_threads_option(parser)


def _measure_evaluate(arguments: argparse.Namespace) -> Sequence[BenchRow]:
    from throughline.benchmarks.evaluating import EvaluateSettings, measure_evaluate

    settings = EvaluateSettings(images=arguments.images, trials=arguments.trials, threads=arguments.threads)
    return measure_evaluate(settings, _told)


def _add_geometry_option(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument(
        "--geometry",
        action="append",
        choices=("pocket", "bench-40m", "bench-40m-151k"),
        help=f"shape of the model, random weights; may be repeated (default: {default})",
    )


def _add_threads_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=positive_int, metavar="N", help="torch threads (default: torch's own choice)")


def _add_gpu_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch", type=positive_int, default=8, metavar="N", help="samples in a step")
    parser.add_argument("--trials", type=positive_int, default=10, metavar="N", help="timed steps of each side")
    parser.add_argument(
        "--gradient-checkpointing", action="store_true", help="compute activations again in the backward pass"
    )
    # For the tests: the whole measurement on a small model, without a GPU.
    parser.add_argument("--device", default="cuda", help=argparse.SUPPRESS)
    parser.add_argument("--geometry", default="internvl3-8b", help=argparse.SUPPRESS)


def _measure_gpu(arguments: argparse.Namespace) -> Sequence[BenchRow]:
    from throughline.benchmarks.gpu import GpuSettings, measure_gpu

    settings = GpuSettings(
        geometry=arguments.geometry,
        device=arguments.device,
        batch=arguments.batch,
        trials=arguments.trials,
        gradient_checkpointing=arguments.gradient_checkpointing,
    )
    return measure_gpu(settings, _told)


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


def _measure_scale(arguments: argparse.Namespace) -> Sequence[BenchRow]:
    from throughline.benchmarks.scale import ScaleSettings, measure_scale

    return measure_scale(ScaleSettings(images=(arguments.few, arguments.many)), _told)


BENCHES = {
    "step": Bench(
        "an MTCT training step as token trees against TRL's SFTTrainer and two separate sequences",
        _add_step_options,
        _measure_step,
    ),
    "memory": Bench(
        "the memory of a training step beyond weights and optimiser state against TRL's SFTTrainer",
        _add_memory_options,
        _measure_memory,
    ),
    "gpu": Bench(
        "MTCT steps of InternVL3-8B's geometry on a CUDA GPU: time, utilisation, memory, hours of a fold",
        _add_gpu_options,
        _measure_gpu,
    ),
    "teacher": Bench(
        "asking an endpoint for chains against the server's capacity and plain clients",
        _add_teacher_options,
        _measure_teacher,
    ),
    "score": Bench(
        "the likelihood of every class against plain transformers with and without a cache",
        _add_score_options,
        _measure_score,
    ),
    "sample": Bench(
        "several continuations of a prompt against transformers' generate", _add_sample_options, _measure_sample
    ),
    "evaluate": Bench(
        "all three answers about drawn images against three passes of plain transformers",
        _add_evaluate_options,
        _measure_evaluate,
    ),
    "scale": Bench(
        "what an image costs when there are ten times as many: check, split, cache, label-path evaluation, memory",
        _add_scale_options,
        _measure_scale,
    ),
}


def _told(line: str) -> None:
    print(f"measuring {line}", file=sys.stderr, flush=True)


def _sizes(text: str) -> tuple[int, ...]:
    """An argparse type: whole numbers separated by commas, each once."""
    found = tuple(dict.fromkeys(positive_int(word) for word in words(text)))
    if not found:
        raise argparse.ArgumentTypeError("no number is named")
    return found


def _print_table(rows: Sequence[BenchRow]) -> None:
    from rich.console import Console
    from rich.table import Table

    # Off a terminal nothing is folded to 80 columns: there the reader is a file or a program.
    console = Console() if sys.stdout.isatty() else Console(width=4096)
    table = Table(title="medians (first to third quartile); ratio: rival over ours, of memory ours over rival")
    for heading in ("benchmark", "rival", "unit"):
        table.add_column(heading)
    for heading in ("ours", "theirs", "ratio", "predicted", "share of it"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*_cells(row))
    console.print(table)
    console.print("; ".join(f"{name} {value}" for name, value in _common_settings(rows).items()))


def _cells(row: BenchRow) -> tuple[str, ...]:
    def timed(value: float, spread: tuple[float, float]) -> str:
        return f"{value:.3f} ({spread[0]:.3f}–{spread[1]:.3f})"

    predicted, share = "", ""
    if row.predicted_ratio is not None:
        predicted, share = f"{row.predicted_ratio:.2f}", f"{row.ratio / row.predicted_ratio:.0%}"
    ours, rival = timed(row.ours_value, row.ours_spread), timed(row.rival_value, row.rival_spread)
    return row.name, row.rival, row.unit, ours, rival, f"{row.ratio:.2f}", predicted, share


def _common_settings(rows: Sequence[BenchRow]) -> dict[str, Any]:
    """The settings that are the same in every row."""
    first, *rest = (row.settings for row in rows)
    return {name: value for name, value in first.items() if all(other.get(name) == value for other in rest)}
