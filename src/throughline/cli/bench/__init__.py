"""`throughline bench`: this system against named rivals, each claim a ratio measured in one process on this machine.

Each subcommand calls one file of `benchmarks` and prints its rows, as a table or with `--json` as a list of objects.
"""

from __future__ import annotations

import argparse
import json

from throughline.cli.bench.asking import EVALUATE, SAMPLE, SCORE
from throughline.cli.bench.table import print_table
from throughline.cli.bench.training import GPU, MEMORY, STEP
from throughline.cli.bench.volume import INPUT, SCALE, TEACHER

SUMMARY = "measure this system against its rivals on this machine"

BENCHES = {
    "step": STEP,
    "memory": MEMORY,
    "score": SCORE,
    "sample": SAMPLE,
    "evaluate": EVALUATE,
    "input": INPUT,
    "scale": SCALE,
    "teacher": TEACHER,
    "gpu": GPU,
}


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
        print_table(rows)
    return 0
