"""`throughline report RUN...`: prints a run's tables and writes its page, or sets several runs side by side. Reads run
folders only, loads no model."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Literal

from throughline.cli.options import Shown, add_settings
from throughline.core.errors import ThroughlineError, UsageError
from throughline.core.settings import AnswerPath, Settings
from throughline.core.table import Table
from throughline.domains.folders import is_table
from throughline.reporting.text import to_latex, to_markdown, to_terminal
from throughline.runs.order import ANSWER_ORDER, SPLIT_ORDER, in_order
from throughline.runs.reader import Run, read_run
from throughline.training.methods import METHODS


class Reporting(Settings):
    """Which tables are printed and how, and where the page goes."""

    runs: Annotated[tuple[Path, ...], Shown("RUN", positional=True, several="+")]
    """Run folder written by `throughline run`; with several, one page shows their tables next to each other."""
    out: Annotated[Path | None, Shown("DIR")] = None
    """Folder for the page and its figures (default: report/ in the folder of the run, or of the first one)."""
    format: Literal["terminal", "markdown", "latex"] = "terminal"
    """Format of the printed tables."""
    split: Literal["in", "out", "all"] | None = None
    """Part of the target: in (the 80 % that DomainBed reports), out (the rest) or all (default: in, or all if there is
    no in; for several runs all)."""
    answer: AnswerPath | None = None
    """Only this answer path (default: all paths that were measured)."""
    measure: Literal["accuracy", "balanced_accuracy", "macro_f1", "macro_auc"] = "accuracy"
    """Measure of the printed tables: the others weigh all classes equally, and macro_auc is there for likelihoods of
    images with several labels; differences are printed for accuracy only."""
    baseline: Annotated[str | None, Shown("METHOD")] = None
    """Method that the others are compared with (default: cls, or zero_shot if there is no cls)."""
    images: Annotated[Path | None, Shown("DIR")] = None
    """Images for the page's gallery, a folder or table; of several image sets those of the first (default: as the run's
    config says, if they are there)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    add_settings(parser, Reporting)


def run(arguments: argparse.Namespace) -> int:
    """Prints every table that the options ask for, then writes the page."""
    if len(arguments.runs) > 1:
        return _side_by_side(arguments)
    from throughline.reporting.page import write_page

    images: Path | None = arguments.images
    if images is not None and not (images.is_dir() or (is_table(images) and images.is_file())):
        raise ThroughlineError("no such image folder or table", images, "name the folder with the domains in it")
    (folder,) = arguments.runs
    run = read_run(folder)
    _print(_tables(run, arguments.split, arguments.answer, arguments.baseline, arguments.measure), arguments.format)
    page = write_page(folder, images, arguments.out)
    # on stderr, so that a table can be piped into a file
    for fault in run.faults:
        print(f"note: {fault}", file=sys.stderr)
    print(f"report: {page}", file=sys.stderr)
    return 0


def _side_by_side(arguments: argparse.Namespace) -> int:
    for option, value in (("--images", arguments.images), ("--baseline", arguments.baseline)):
        if value is not None:
            raise UsageError(f"{option} can be used with one run only", do="leave it out, or name one run")
    from throughline.reporting.side_by_side import columns_of, difference_tables, joint_tables, write_side_by_side

    columns = columns_of([read_run(folder) for folder in arguments.runs])
    tables = joint_tables(columns, arguments.split or "all", arguments.answer, arguments.measure)
    differences = difference_tables(columns, arguments.answer) if arguments.measure == "accuracy" else ()
    _print([*tables, *differences], arguments.format)
    print(f"report: {write_side_by_side(arguments.runs, arguments.out)}", file=sys.stderr)
    return 0


def _print(tables: Iterable[Table], form: str) -> None:
    renderings: dict[str, Callable[[Table], str]] = {
        "terminal": to_terminal,
        "markdown": to_markdown,
        "latex": to_latex,
    }
    print("\n".join(renderings[form](table) for table in tables), end="")


def _tables(run: Run, split: str | None, answer: str | None, baseline: str | None, measure: str) -> list[Table]:
    from throughline.reporting.groups import groups
    from throughline.reporting.selection import selection_tables
    from throughline.reporting.tables import comparison_table, existing, results_table

    everything, selection = groups(run), list(selection_tables(run))
    splits = in_order((name for group in everything for name in group.splits), SPLIT_ORDER)
    answers = in_order((name for group in everything for name in group.answers), ANSWER_ORDER)
    methods = in_order((name for group in everything for name in group.final["method"]), METHODS)
    if not splits and selection:  # a search that measures no target
        return selection
    if not splits:
        raise ThroughlineError(
            "no unit of this run has its final results yet", run.folder, "finish it with `throughline run`"
        )
    if baseline is not None and baseline not in methods:
        raise ThroughlineError(f"no results of the method {baseline}", run.folder, f"choose from {', '.join(methods)}")
    shown = [group for group in everything if measure in ("accuracy", *group.class_measured)]
    if not shown:
        raise ThroughlineError(f"the results have no {measure}", run.folder, "ask for accuracy, which every run has")
    chosen = split or splits[0]
    tables: list[Table] = []
    for group in shown:
        for path in (answer,) if answer else answers:
            if (chosen, path) in group.measured:
                differences = comparison_table(group, path, baseline) if measure == "accuracy" else None
                tables += existing([results_table(group, chosen, path, measure, measure == "accuracy"), differences])
    if not tables:
        raise ThroughlineError(
            f"no results for split {chosen}" + (f" on the {answer} path" if answer else ""),
            run.folder,
            f"it has splits {', '.join(splits)} and answers {', '.join(answers)}",
        )
    return [*tables, *selection]
