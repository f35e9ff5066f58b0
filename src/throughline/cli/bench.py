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
    parser.add_argument("--trials", type=positive_int, default=7, metavar="N", help="timed steps of each side")
    parser.add_argument("--batch", type=positive_int, default=4, metavar="N", help="samples in a step")
    parser.add_argument("--threads", type=positive_int, metavar="N", help="torch threads (default: torch's own choice)")


def _measure_step(arguments: argparse.Namespace) -> Sequence[BenchRow]:
    from throughline.benchmarks.step import StepSettings, measure_step

    settings = StepSettings(
        geometries=tuple(dict.fromkeys(arguments.geometry or StepSettings.geometries)),
        classes=arguments.classes,
        trials=arguments.trials,
        batch=arguments.batch,
        threads=arguments.threads,
    )
    return measure_step(settings, _told)


def _add_teacher_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--trials", type=positive_int, default=3, metavar="N", help="timed runs of each side")
    parser.add_argument(
        "--images", type=positive_int, default=200_000, metavar="N", help="images in the measurement of memory"
    )


def _measure_teacher(arguments: argparse.Namespace) -> Sequence[BenchRow]:
    from throughline.benchmarks.teacher import TeacherSettings, measure_teacher

    few, _ = TeacherSettings.images
    return measure_teacher(TeacherSettings(trials=arguments.trials, images=(few, arguments.images)), _told)


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
        "an MTCT training step as a token tree against two separate sequences", _add_step_options, _measure_step
    ),
    "teacher": Bench(
        "asking an endpoint for chains against the server's capacity and plain clients",
        _add_teacher_options,
        _measure_teacher,
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
    table = Table(title="medians (first to third quartile); ratio: rival over ours")
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
