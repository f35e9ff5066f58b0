"""`throughline bench`: this system against named rivals, each claim a ratio measured in one process on this machine.

The options of a bench are the fields of its settings, with their docstrings as help. The scripts under the checkout's
`bench/` take theirs from here, too.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, get_args

from throughline.benchmarks.settings import BENCHES, BenchSettings
from throughline.cli.options import add_settings, decapitalised, read_settings

if TYPE_CHECKING:
    from throughline.benchmarks.timing import BenchRow


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The subcommands and their options."""
    commands = parser.add_subparsers(title="subcommands", dest="bench", metavar="BENCH", required=True)
    for name, kind in BENCHES.items():
        summary = decapitalised(kind.__doc__ or "")
        add_options(commands.add_parser(name, help=summary, description=summary), kind)


def run(arguments: argparse.Namespace) -> int:
    """Measures, then prints."""
    measure = importlib.import_module(f"throughline.benchmarks.{arguments.bench}").measure
    rows = measure(read_settings(arguments, BENCHES[arguments.bench]), report_progress)
    print_rows(rows, arguments.json)
    return 0


def add_options(parser: argparse.ArgumentParser, kind: type[BenchSettings]) -> None:
    """An option for each field of the settings, and `--json`. A bare `--ablate` means all."""
    plain = [name for name in kind.model_fields if name not in ("ablate", "threads")]
    add_settings(parser, kind, [*plain, "threads"])
    if "ablate" in kind.model_fields:
        field = kind.model_fields["ablate"]
        (names, _), default = get_args(field.annotation), ", ".join(field.default) or "none"
        known = ", ".join(name for name in get_args(names) if name != "all")
        text = (field.description or "").lower()
        summary = f"{text}; without a value, one row for each ({known}; default: {default})"
        parser.add_argument("--ablate", nargs="?", const="all", metavar="A,B", help=summary)
    parser.add_argument("--json", action="store_true", help="print a JSON list on stdout instead of a table")


def report_progress(line: str) -> None:
    """One line on stderr before each measurement."""
    print(f"measuring {line}", file=sys.stderr, flush=True)


def print_rows(rows: Sequence[BenchRow], as_json: bool) -> None:
    """Medians and ratios on stdout: as a list of objects, or as a table with the settings below that all rows share."""
    from throughline.core.table import Table
    from throughline.reporting.text import to_terminal

    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return
    columns = ("benchmark", "compared with", "unit", "ours", "theirs", "ratio", "predicted", "share of it")
    title = "medians (first to third quartile); ratio: theirs over ours; for memory and rates ours over theirs"
    shared = "; ".join(f"{name} {value}" for name, value in shared_settings(rows).items())
    print(to_terminal(Table(title, columns, tuple(_cells(row) for row in rows), (shared,))))


def shared_settings(rows: Sequence[Any]) -> dict[str, Any]:
    """The settings that are the same in every row."""
    first, *others = (row.settings for row in rows)
    return {name: value for name, value in first.items() if all(other.get(name) == value for other in others)}


def _cells(row: BenchRow) -> tuple[str, ...]:
    ours, theirs = (
        f"{value:.3f} ({low:.3f}–{high:.3f})"
        for value, (low, high) in ((row.ours_value, row.ours_spread), (row.rival_value, row.rival_spread))
    )
    predicted, share = "", ""
    if row.predicted_ratio is not None:
        predicted, share = f"{row.predicted_ratio:.2f}", f"{row.ratio / row.predicted_ratio:.0%}"
    return row.name, row.rival, row.unit, ours, theirs, f"{row.ratio:.2f}", predicted, share
