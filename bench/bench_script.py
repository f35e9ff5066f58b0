"""What the benches of this folder share as commands: options from their settings, rows as a table or as JSON on stdout,
and the exit codes of `throughline`. Called by `scale`, `evaluate`, `input`, `teacher` and others."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from throughline.benchmarks.settings import BenchSettings
from throughline.benchmarks.timing import BenchRow, OnProgress
from throughline.cli.bench import add_options, print_rows, report_progress
from throughline.cli.options import read_settings
from throughline.cli.parser import Parser
from throughline.core.errors import ThroughlineError


def run_bench(
    kind: type[BenchSettings],
    measure: Callable[..., Sequence[BenchRow]],
    words: Sequence[str] | None = None,
) -> int:
    """Reads the command line (default: the process's own), measures and prints; gives the exit code."""
    parser = Parser(prog=Path(sys.argv[0]).name, description=(kind.__doc__ or "").rstrip("."))
    add_options(parser, kind)
    progress: OnProgress = report_progress
    try:
        arguments = parser.parse_args(words)
        print_rows(measure(read_settings(arguments, kind), progress), arguments.json)
    except ThroughlineError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return error.exit_code
    return 0
