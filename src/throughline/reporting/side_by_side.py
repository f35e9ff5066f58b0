"""Several runs on one page: results in joint tables, what their configs differ in, differences from the first run on
the same images, and every analysis beside those of the others. Called by the report verb."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from throughline.core.files import write_atomically
from throughline.metrics.intervals import bootstrap_generator
from throughline.metrics.paired import PairedDifference, holm, paired_difference
from throughline.reporting.analysis_page import Section, analysis_sections, find_analysis
from throughline.reporting.answers import read_answers
from throughline.reporting.confidence import confidence_table, confidences
from throughline.reporting.figures import accuracy_figure
from throughline.reporting.page import flat
from throughline.reporting.plotting import Plot, laid_out
from throughline.reporting.runs import Run, read_run
from throughline.reporting.self_contained import render_page
from throughline.reporting.summaries import (
    ANSWER_ORDER,
    METHOD_ORDER,
    SPLIT_ORDER,
    Answers,
    CorrectAnswers,
    Group,
    MethodSummary,
    describe,
    drawn_over,
    groups,
    in_order,
    summarise,
)
from throughline.reporting.tables import DRAWN_NOTE, MISSING, Table, average_cell, is_drawn, points

FILE = "side-by-side.html"


@dataclass(frozen=True)
class Column:
    """One group of one run's results: a column of every joint table."""

    name: str
    run: Run
    group: Group
    correct: CorrectAnswers


def write_side_by_side(folders: Sequence[Path], folder: Path | None = None) -> Path:
    """Writes side-by-side.html into `folder`, or report/ of the first run, and gives its path."""
    runs = [read_run(one) for one in folders]
    path = (folder or folders[0] / "report") / FILE
    columns = columns_of(runs)
    sections = {
        name: _numbered(analysis_sections(find_analysis(run)), number)
        for number, (name, run) in enumerate(zip(names_of(folders), runs, strict=True), start=1)
    }
    accuracies = joint_figures(columns)
    plots = [*accuracies, *(plot for found in sections.values() for one in found for plot in one.figures)]
    confidence = {
        column.name: confidence_table(confidences(read_answers(column.run, column.group))) for column in columns
    }
    shown = {
        "names": list(sections),
        "about": about_table(columns),
        "settings": settings_table(names_of(folders), runs),
        "accuracies": accuracies,
        "joint": joint_tables(columns),
        "differences": difference_tables(columns),
        "confidence": {name: table for name, table in confidence.items() if table is not None},
        "sections": _by_section(sections),
        "svg": {plot.name: laid_out(plot).svg() for plot in plots},
        "drawn": any(is_drawn(column.group) for column in columns),
        "drawn_note": DRAWN_NOTE,
        "faults": {name: run.faults for name, run in zip(sections, runs, strict=True) if run.faults},
    }
    write_atomically(path, render_page("side_by_side.html.jinja", ("scrolling.js",), ("page.css", "report.css"), shown))
    return path


def names_of(folders: Sequence[Path]) -> tuple[str, ...]:
    """The folders' own names; where two are alike, with as many of the folders above them as tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    deepest = max(map(len, parts))
    for depth in range(1, deepest + 1):
        names = tuple("/".join(part[-depth:]) for part in parts)
        if len(set(names)) == len(names):
            return names
    return tuple(f"{part[-1]} ({number})" for number, part in enumerate(parts, start=1))  # one folder, named twice


def columns_of(runs: Sequence[Run]) -> tuple[Column, ...]:
    """Runs in the order given; a run with several groups has several columns."""
    columns = []
    for name, run in zip(names_of([run.folder for run in runs]), runs, strict=True):
        found = groups(run.results)
        correct = CorrectAnswers(run)
        columns += [
            Column(name if len(found) == 1 else f"{name}: {describe(group)}", run, group, correct) for group in found
        ]
    return tuple(columns)


def about_table(columns: Sequence[Column]) -> Table:
    """What each column is about."""
    rows = []
    for column in columns:
        lines = [line for line in column.run.results if column.group.holds(line) and line.round is None]
        rows.append(
            (
                column.name,
                column.group.dataset,
                column.group.model,
                " ".join(sorted({line.target for line in lines})),
                " ".join(map(str, sorted({line.seed for line in lines}))),
                " ".join(in_order((line.method for line in lines), METHOD_ORDER)),
            )
        )
    return Table("The runs", ("run", "dataset", "model", "held out", "seeds", "methods"), tuple(rows))


def settings_table(names: Sequence[str], runs: Sequence[Run]) -> Table | None:
    """The keys of the configs in which the runs differ; None where they do not."""
    configs = [dict(flat(run.config)) for run in runs]
    keys = dict.fromkeys(key for config in configs for key in config)
    rows = tuple(
        (key, *(config.get(key, MISSING) for config in configs))
        for key in keys
        if len({config.get(key) for config in configs}) > 1
    )
    return Table("Settings in which they differ", ("setting", *names), rows) if rows else None


def joint_tables(columns: Sequence[Column], split: str = "all", answer: str | None = None) -> tuple[Table, ...]:
    """One per answer path: methods × runs, Avg in percent with its interval where there is one."""
    chosen = _split(columns, split)
    tables = []
    for path in _answers(columns):
        if answer in {None, path}:
            summaries = [{row.method: row for row in rows} for rows in _summaries(columns, chosen, path).values()]
            tables.append(_joint(columns, summaries, path, chosen))
    return tuple(tables)


def joint_figures(columns: Sequence[Column]) -> tuple[Plot, ...]:
    """One per answer path: a bar per method and run."""
    chosen = _split(columns, "all")
    drawn = (
        accuracy_figure(_summaries(columns, chosen, path), name=f"accuracy-{path}", series="{}")
        for path in _answers(columns)
    )
    return tuple(
        replace(plot, description=f"{path} path: {plot.description}")
        for path, plot in zip(_answers(columns), drawn, strict=True)
        if plot is not None
    )


def _split(columns: Sequence[Column], wanted: str) -> str:
    """The split that is wanted, or else the first that was measured."""
    measured = in_order((line.split for c in columns for line in c.run.results if line.round is None), SPLIT_ORDER)
    return wanted if wanted in measured else next(iter(measured), wanted)


def _answers(columns: Sequence[Column]) -> tuple[str, ...]:
    return in_order((line.answer for c in columns for line in c.run.results if line.round is None), ANSWER_ORDER)


def _summaries(columns: Sequence[Column], split: str, answer: str) -> dict[str, tuple[MethodSummary, ...]]:
    return {c.name: summarise(c.run, c.group, split, answer, c.correct) for c in columns}


def _numbered(sections: Sequence[Section], number: int) -> tuple[Section, ...]:
    """With figures named after the run's place: two figures of one page need names of their own."""
    return tuple(
        replace(one, figures=tuple(replace(plot, name=f"{plot.name}-{number}") for plot in one.figures))
        for one in sections
    )


def difference_tables(columns: Sequence[Column], answer: str | None = None) -> tuple[Table, ...]:
    """One per answer path: each run minus the first, in points, wherever both answered the same images."""
    tables = []
    for path in ANSWER_ORDER:
        table = _differences(columns, path) if answer in {None, path} else None
        tables += [] if table is None else [table]
    return tuple(tables)


def _joint(
    columns: Sequence[Column], summaries: Sequence[Mapping[str, MethodSummary]], answer: str, split: str
) -> Table:
    methods = in_order((method for found in summaries for method in found), METHOD_ORDER)
    rows = tuple((method, *(average_cell(found.get(method)) for found in summaries)) for method in methods)
    return Table(
        title=f"{answer} path · split {split}",
        columns=("method", *(column.name for column in columns)),
        rows=rows,
        notes=(
            "Accuracy in percent, mean over the held-out domains of each run ± standard error over seeds; in brackets "
            f"the 95 % interval over {drawn_over(_seeds(columns))}. Runs of different domains or images are not "
            "comparable.",
            *_drawn(columns),
        ),
    )


def _differences(columns: Sequence[Column], answer: str) -> Table | None:
    first, *others = columns
    methods = in_order(
        (line.method for line in first.run.results if first.group.holds(line) and line.answer == answer), METHOD_ORDER
    )
    found: dict[tuple[str, str], PairedDifference] = {}
    for other in others:
        for method in methods:
            ours = other.correct.of(other.group, method, answer)
            theirs = first.correct.of(first.group, method, answer)
            if _same_images(ours, theirs):
                found[method, other.name] = paired_difference(_vectors(ours), _vectors(theirs), bootstrap_generator())
    if not found:
        return None
    adjusted = dict(zip(found, holm([one.p_value for one in found.values()]), strict=True))
    rows = tuple(
        (method, *(_difference(found.get((method, o.name)), adjusted.get((method, o.name))) for o in others))
        for method in methods
    )
    return Table(
        title=f"{answer} path · difference from {first.name}, split all",
        columns=("method", *(other.name for other in others)),
        rows=rows,
        notes=(
            f"Points with 95 % interval: paired bootstrap over {drawn_over(_seeds(columns))}, on the same images; p "
            "after Holm, over the cells of this table.",
            *_drawn(columns),
        ),
    )


def _same_images(ours: Answers, theirs: Answers) -> bool:
    same = bool(ours) and ours.keys() == theirs.keys() and all(ours[k].keys() == theirs[k].keys() for k in ours)
    by_target: dict[str, set[str]] = {}
    return same and all(by_target.setdefault(key[0], set(ours[key])) == set(ours[key]) for key in ours)


def _vectors(answers: Answers) -> dict[tuple[str, int], np.ndarray]:
    return {key: np.array([found[name] for name in sorted(found)]) for key, found in answers.items()}


def _by_section(sections: Mapping[str, Sequence[Section]]) -> list[tuple[Section, list[tuple[str, Section]]]]:
    """The sections in their order, each with every run's own; those that no run has are left out."""
    first = next(iter(sections.values()))
    joined = [(one, [(name, found[place]) for name, found in sections.items()]) for place, one in enumerate(first)]
    return [(one, found) for one, found in joined if any(own.tables or own.figures for _, own in found)]


def _difference(item: PairedDifference | None, adjusted: float | None) -> str:
    if item is None or adjusted is None:
        return MISSING
    return f"{points(item.difference)} ({points(item.low)} to {points(item.high)}), p {adjusted:.3f}"


def _seeds(columns: Sequence[Column]) -> int:
    """Of the run that has most."""
    return max(column.correct.seeds(column.group) for column in columns)


def _drawn(columns: Sequence[Column]) -> tuple[str, ...]:
    return (DRAWN_NOTE,) if any(is_drawn(column.group) for column in columns) else ()
