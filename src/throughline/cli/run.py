"""`throughline run CONFIG`: an experiment from a YAML file or a preset; the same command continues a stopped one."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from throughline.cli.options import Shown, add_settings, given_settings
from throughline.cli.progress import run_progress, say
from throughline.cli.text import json_text
from throughline.core.errors import UsageError
from throughline.core.files import read_json_lines
from throughline.core.settings import Settings
from throughline.experiment.config import RunConfig
from throughline.experiment.config_files import load_config, preset_summaries
from throughline.reporting.text import to_terminal
from throughline.runs.folder import RESULTS
from throughline.runs.reader import read_run

if TYPE_CHECKING:
    from throughline.experiment.analyses.settings import AnalyzeSettings

KEYS = ("workers", "training.stage.auto_batch")
"""Keys of the config that have an option of their own; all others go through --set."""


class Running(Settings):
    """Which experiment, and what to do with it."""

    config: Annotated[str | None, Shown("CONFIG", positional=True)] = None
    """A YAML file, or the name of a preset, a config that ships with the package (see --list)."""
    set: Annotated[tuple[str, ...], Shown("KEY=VALUE", several="append")] = ()
    """Change a value of the config, such as training.rounds=2; may be given several times."""
    out: Annotated[Path | None, Shown("DIR")] = None
    """Folder of the run; an unfinished run in it is resumed (default: runs/NAME, such as runs/demo for the config
    demo)."""
    redo: Literal["stale"] | None = None
    """`stale` repeats finished units (one method, target and seed each) whose inputs have changed, instead of stopping;
    the old ones are moved to units/.stale in the folder of the run."""
    fail_fast: bool = False
    """Start no further unit after one has failed; by default only units that need its result are skipped."""
    dry_run: bool = False
    """Print the config, the units and their estimated cost, and run nothing."""
    list: bool = False
    """Print the presets and run nothing."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    add_settings(parser, Running)
    add_settings(parser, RunConfig, KEYS, "the config's")
    parser.add_argument("--json", action="store_true", help="print JSON on stdout instead of text")


def run(arguments: argparse.Namespace) -> int:
    """Runs, or shows what would be run."""
    if arguments.list:
        return _list_presets(arguments.json)
    if arguments.config is None:
        raise UsageError("no config is given", do="name a YAML file or a preset (see throughline run --list)")
    config = load_config(arguments.config, arguments.set, given_settings(arguments, KEYS))
    folder = arguments.out or Path("runs") / config.name
    if arguments.dry_run:
        return show_forecast(config, folder, as_json=arguments.json)
    redo = arguments.redo == "stale"
    run_and_report(config, folder, redo_stale=redo, fail_fast=arguments.fail_fast, as_json=arguments.json)
    return 0


def show_forecast(config: RunConfig, folder: Path, *, as_json: bool = False) -> int:
    """Prints what a run would do, and runs nothing."""
    from throughline.experiment.run import preview_run

    preview = preview_run(config)
    # These bring torch, for which a fault need not wait.
    from throughline.cli.preview import as_json as preview_json
    from throughline.cli.preview import as_text, warnings_of
    from throughline.experiment.forecast import forecast_run

    for warning in warnings_of(preview):
        say(warning)
    forecast = forecast_run(preview, folder)
    print(json_text(preview_json(preview, forecast)) if as_json else as_text(preview, forecast))
    return 0


def run_and_report(
    config: RunConfig,
    folder: Path,
    *,
    as_json: bool = False,
    analysis: AnalyzeSettings | None = None,
    **options: Any,
) -> None:
    """Runs with progress on stderr, analyses a whole run where `analysis` says how, then prints the tables (or JSON)
    and writes the page; `options` are those of `run_experiment`. Raises UnitsFailed at the end where units did."""
    from throughline.experiment.run import run_experiment

    with run_progress() as reporter:
        finished = run_experiment(
            config,
            folder,
            report_progress=reporter.report_step,
            on_progress=reporter.report_units,
            **options,
        )
        if analysis is not None and finished.failed is None:
            from throughline.experiment.analyses.entry import analyze_run  # brings torch

            analyze_run(folder, analysis, say=reporter.report_step)
    results = read_json_lines(folder / RESULTS)
    if not results and finished.failed is not None:
        raise finished.failed
    from throughline.reporting.groups import groups
    from throughline.reporting.page import write_page
    from throughline.reporting.selection import selection_tables
    from throughline.reporting.tables import headline_table
    from throughline.reporting.warnings import warnings

    page = write_page(folder)
    if as_json:
        failed = [] if finished.failed is None else finished.failed.lines
        print(json_text({"run": str(folder), "report": str(page), "failed": failed, "results": results}))
    else:
        run = read_run(folder)
        for table in (*(headline_table(group, "all") for group in groups(run)), *selection_tables(run)):
            print(to_terminal(table), end="")
        for sentence in warnings(run):
            say(f"warning: {sentence}")
        print(f"report: {page}\nall tables: throughline report {folder}")
    if finished.failed is not None:
        raise finished.failed


def _list_presets(as_json: bool) -> int:
    summaries = preset_summaries()
    width = max(map(len, summaries))
    lines = (f"{name:<{width}}  {summary}" for name, summary in summaries.items())
    print(json_text(summaries) if as_json else "\n".join(lines))
    return 0
