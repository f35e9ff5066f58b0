"""`throughline chains`: build, check, count, look at and export reasoning chains; the Batch API's files.

Each subcommand parses, calls one function of `teaching` or `reporting`, and prints. No torch but with a local
checkpoint as the teacher.
"""

from __future__ import annotations

import argparse

from throughline.cli.chains import batch, build, stores


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The subcommands and their options."""
    commands = parser.add_subparsers(title="subcommands", dest="command", metavar="COMMAND", required=True)
    build.add_build(commands)
    stores.add_check(commands)
    stores.add_stats(commands)
    stores.add_view(commands)
    stores.add_export(commands)
    batch.add_batch(commands)


def run(arguments: argparse.Namespace) -> int:
    """Runs the chosen subcommand; 1 when `check` finds an error."""
    code: int = arguments.act(arguments)
    return code
