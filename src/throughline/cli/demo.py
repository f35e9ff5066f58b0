"""`throughline demo`: the whole job on drawn images, from nothing to a report, without GPU, network or data."""

import argparse
from pathlib import Path

from throughline.cli.options import add_settings, given_settings
from throughline.cli.run import Running
from throughline.experiment.config import RunConfig
from throughline.experiment.config_files import load_config

ANALYZED = 24
"""Images of a fold that the demo's analyses look at; `throughline analyze` looks at more."""

TAMPERED = ("zero_shot", "mtct_sarr")
"""Methods whose conclusions the demo tampers with."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `demo`."""
    parser.add_argument(
        "--full", action="store_true", help="4 held-out styles, 3 seeds, 2 control methods: hours on two cores"
    )
    add_settings(parser, RunConfig, ["workers"], "2")
    add_settings(parser, Running, ["out", "fail_fast"])
    parser.add_argument("--json", action="store_true", help="print the results as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Runs the preset `demo` or `demo_full` and prints the table and the page's path."""
    from throughline.cli.run import run_and_report
    from throughline.experiment.analyses.settings import AnalyzeSettings

    preset = "demo_full" if arguments.full else "demo"
    config = load_config(preset, changes=given_settings(arguments, ["workers"]))
    analysis = AnalyzeSettings(limit=ANALYZED, methods=TAMPERED)
    folder = arguments.out or Path("runs") / preset
    run_and_report(config, folder, fail_fast=arguments.fail_fast, as_json=arguments.json, analysis=analysis)
    return 0
