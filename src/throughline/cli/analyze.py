"""`throughline analyze RUN`: the paper's analyses of a finished run, or of any checkpoint on any chain journal."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Annotated

from pydantic import Field

from throughline.cli.options import MODEL_HELP, Shown, add_model_options, add_settings, base_of, read_settings
from throughline.cli.progress import run_progress
from throughline.core.errors import UsageError
from throughline.core.settings import Settings


class Subjects(Settings):
    """What is analysed: runs, or a model on chains of its own."""

    runs: Annotated[tuple[Path, ...], Shown("RUN", positional=True, several="*")] = ()
    """Run folder; with more of them, the settings in which their configs differ are compared."""
    model: Annotated[str | None, Shown("MODEL")] = Field(
        default=None, description=f"instead of a run, with --chains: {MODEL_HELP}"
    )
    chains: Annotated[str | None, Shown("STORE")] = None
    """Store of chains: a folder of journal-*.jsonl, or one such file."""
    images: Annotated[Path | None, Shown("DIR")] = None
    """Folder of the images (default: as the run or the store says)."""
    out: Annotated[Path | None, Shown("DIR")] = None
    """Folder for the analysis of --model (default: runs/analysis-MODEL)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    from throughline.experiment.analyses.settings import AnalyzeSettings

    add_settings(parser, Subjects)
    add_settings(parser, AnalyzeSettings, ["what", "limit", "methods", "clip"])
    add_model_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Measures, writes `analysis.json` and a run's page."""
    _require_fitting(arguments)
    from throughline.analysis.document import FILE, summary_of
    from throughline.experiment.analyses.entry import analyze_model, analyze_run
    from throughline.experiment.analyses.settings import AnalyzeSettings
    from throughline.mllm.checkpoints import checkpoint_name

    settings = read_settings(arguments, AnalyzeSettings)
    with run_progress() as reporter:
        if arguments.model is None:
            folder, *others = arguments.runs
            analysis = analyze_run(folder, settings, others, reporter.report_step)
        else:
            model, base = arguments.model, base_of(arguments)
            folder = arguments.out or Path("runs") / f"analysis-{checkpoint_name(model)}"
            analysis = analyze_model(model, arguments.chains, base, folder, settings, reporter.report_step)
    for missing in analysis.missing:
        print(f"note: not measured: {missing.what}: {missing.why}", file=sys.stderr)
    print(analysis.model_dump_json(indent=1) if arguments.json else summary_of(analysis))
    print(f"numbers: {folder / FILE}", file=sys.stderr)
    if arguments.model is None:
        from throughline.reporting.page import write_page

        print(f"report: {write_page(folder, arguments.images)}", file=sys.stderr)
    return 0


MODELS_OWN = ("chains", "out", "batch", "tiles", "dtype", "quantization")
"""Options that a run's own config answers."""


def _require_fitting(arguments: argparse.Namespace) -> None:
    """UsageError for what does not go together, and for options that would be passed over."""
    if bool(arguments.runs) == (arguments.model is not None):
        raise UsageError("name either runs or a model to analyse", do="give run folders, or --model and --chains")
    if arguments.model is not None and arguments.chains is None:
        raise UsageError("--model needs chains to analyse", do="name a store with --chains")
    of_run = arguments.model is None
    for name in MODELS_OWN if of_run else ("batch", "methods"):
        if getattr(arguments, name) is not None:
            raise UsageError(f"--{name} cannot be used with {'a run' if of_run else '--model'}", do="leave it out")
