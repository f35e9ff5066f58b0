"""`throughline chains`: build, check, count, look at and export reasoning chains; the Batch API's files.

Each subcommand parses, calls one function of `teaching` or `reporting`, and prints. No torch but with a local
checkpoint as the teacher.
"""

import argparse

from throughline.cli.chains import batch, build, options, stores
from throughline.cli.options import Subcommands, add_subcommands


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The subcommands and their options."""
    commands: Subcommands = {
        "build": (options.Build, build.run_build),
        "check": (options.Check, stores.check),
        "stats": (options.Stats, stores.stats),
        "view": (options.View, stores.view),
        "export": (options.Export, stores.export),
        "batch": (options.BatchFiles, batch.write),
    }
    parsers = add_subcommands(parser, commands, json_of=("build", "check", "stats"))
    build.add_teacher_options(parsers["build"])
    stores.add_rule_options(parsers["export"])
    batch.add_actions(parsers["batch"])


def run(arguments: argparse.Namespace) -> int:
    """Runs the chosen subcommand; 1 when `check` finds an error."""
    return int(arguments.act(arguments))
