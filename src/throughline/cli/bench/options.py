"""Options that several benches have, and how a bench says what it is about to measure."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from throughline.cli.options import positive_int, words

if TYPE_CHECKING:
    from throughline.benchmarks.timing import BenchRow

GEOMETRIES = ("pocket", "bench-40m", "bench-40m-151k")


@dataclass(frozen=True)
class Bench:
    """A subcommand: its line in the help, its options, and what gives its rows."""

    summary: str
    add_options: Callable[[argparse.ArgumentParser], None]
    measure: Callable[[argparse.Namespace], Sequence[BenchRow]]


def add_geometry(parser: argparse.ArgumentParser, default: str) -> None:
    """`--geometry`; None where it is not given."""
    parser.add_argument(
        "--geometry",
        action="append",
        choices=GEOMETRIES,
        help=f"shape of the model, random weights; may be repeated (default: {default})",
    )


def geometries(arguments: argparse.Namespace, default: tuple[str, ...]) -> tuple[str, ...]:
    """Those asked for, each once."""
    return tuple(dict.fromkeys(arguments.geometry or default))


def add_classes(parser: argparse.ArgumentParser, default: tuple[int, ...]) -> None:
    """`--classes`."""
    parser.add_argument(
        "--classes",
        type=sizes,
        default=default,
        metavar="N,N",
        help="sizes of the class lists in the question: 5, 7, 10, 65 or 345",
    )


def add_threads(parser: argparse.ArgumentParser) -> None:
    """`--threads`."""
    parser.add_argument("--threads", type=positive_int, metavar="N", help="torch threads (default: torch's own choice)")


def add_ablate(parser: argparse.ArgumentParser, known: str, default: tuple[str, ...] = ()) -> None:
    """`--ablate`; `default` where it is not given."""
    parser.add_argument(
        "--ablate",
        nargs="?",
        const=("all",),
        default=default,
        type=_names,
        metavar="A,B",
        help=f"add rows of our own side without these, without a value without each "
        f"({known}; default: {', '.join(default) or 'none'})",
    )


def _names(text: str) -> tuple[str, ...]:
    found = words(text)
    if not found:
        raise argparse.ArgumentTypeError("nothing is named")
    return found


def sizes(text: str) -> tuple[int, ...]:
    """An argparse type: whole numbers separated by commas, each once."""
    found = tuple(dict.fromkeys(positive_int(word) for word in words(text)))
    if not found:
        raise argparse.ArgumentTypeError("no number is named")
    return found


def told(line: str) -> None:
    """One line on stderr before each measurement."""
    print(f"measuring {line}", file=sys.stderr, flush=True)
