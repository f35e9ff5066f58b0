"""Several runs on one page: results in joint tables, what their configs differ in, differences from the first run on
the same images, and every analysis beside those of the others. Called by the report verb."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from throughline.analysis.document import sections as analysis_sections
from throughline.analysis.section import Section
from throughline.core.files import write_atomically
from throughline.core.nested import shown_settings
from throughline.core.plot import Plot
from throughline.core.table import MISSING, Table
from throughline.drawn import DRAWN_NOTE
from throughline.reporting.analyses import find_analysis
from throughline.reporting.confidence import confidence_table, confidences
from throughline.reporting.drawing import svg_of
from throughline.reporting.estimates import MEASURES, differences, drawn_over, same_samples, summarise
from throughline.reporting.figures import accuracy_figure
from throughline.reporting.groups import Group, groups
from throughline.reporting.self_contained import render_page
from throughline.reporting.tables import average_cell, difference_cells, drawn_notes, existing, of_measure
from throughline.runs.order import ANSWER_ORDER, SPLIT_ORDER, in_order
from throughline.runs.reader import Run, read_run
from throughline.training.methods import METHODS

FILE = "side-by-side.html"


Columns = Mapping[str, Group]
"""Groups of results by name: the columns of every joint table."""


def write_side_by_side(folders: Sequence[Path], folder: Path | None = None) -> Path:
    """Writes side-by-side.html into `folder`, or report/ of the first run, and gives its path."""
    runs = [read_run(run_folder) for run_folder in folders]
    path = (folder or folders[0] / "report") / FILE
    columns = columns_of(runs)
    sections = {
        name: _numbered(analysis_sections(find_analysis(run)[0]), number)
        for number, (name, run) in enumerate(zip(names_of(folders), runs, strict=True), start=1)
    }
    accuracies = joint_figures(columns)
    plots = [*accuracies, *(plot for of_run in sections.values() for section in of_run for plot in section.figures)]
    confidence = {name: confidence_table(confidences(group)) for name, group in columns.items()}
    shown = {
        "names": list(sections),
        "about": about_table(columns),
        "settings": settings_table(names_of(folders), runs),
        "accuracies": accuracies,
        "joint": joint_tables(columns),
        "differences": difference_tables(columns),
        "confidence": {name: table for name, table in confidence.items() if table is not None},
        "sections": _by_section(sections),
        "svg": {plot.name: svg_of(plot) for plot in plots},
        "drawn": any(group.drawn for group in columns.values()),
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


def columns_of(runs: Sequence[Run]) -> dict[str, Group]:
    """Runs in the order given; a run with several groups has several columns."""
    columns: dict[str, Group] = {}
    for name, run in zip(names_of([run.folder for run in runs]), runs, strict=True):
        of_run = groups(run)
        columns |= {name if len(of_run) == 1 else f"{name}: {group.title}": group for group in of_run}
    return columns


def about_table(columns: Columns) -> Table:
    """What each column is about."""
    rows = []
    for name, group in columns.items():
        final = group.final
        names = (sorted(set(final["target"])), sorted(set(final["seed"])), in_order(final["method"], METHODS))
        about = (" ".join(map(str, values)) for values in names)
        device = str(group.run.environment.get("device", MISSING))
        rows.append((name, group.dataset, group.model, *about, device))
    return Table("The runs", ("run", "dataset", "model", "held out", "seeds", "methods", "device"), tuple(rows))


def settings_table(names: Sequence[str], runs: Sequence[Run]) -> Table | None:
    """The keys of the configs in which the runs differ; None where they do not."""
    configs = [shown_settings(run.config) for run in runs]
    keys = dict.fromkeys(key for config in configs for key in config)
    rows = tuple(
        (key, *(config.get(key, MISSING) for config in configs))
        for key in keys
        if len({config.get(key) for config in configs}) > 1
    )
    return Table("Settings in which the runs differ", ("setting", *names), rows) if rows else None


def joint_tables(
    columns: Columns, split: str = "all", answer: str | None = None, measure: str = "accuracy"
) -> tuple[Table, ...]:
    """One for each answer path: setups × runs, Avg in percent with its interval where there is one."""
    chosen = _split(columns, split)
    return tuple(_joint(columns, path, chosen, measure) for path in _answers(columns) if answer in {None, path})


def joint_figures(columns: Columns) -> tuple[Plot, ...]:
    """One for each answer path: a bar for each setup and run."""
    chosen, plots = _split(columns, "all"), []
    for path in _answers(columns):
        summaries = {name: summarise(group, chosen, path) for name, group in columns.items()}
        plot = accuracy_figure(summaries, name=f"accuracy-{path}", series="{}")
        if plot is not None:
            plots.append(replace(plot, description=f"{path} path: {plot.description}"))
    return tuple(plots)


def difference_tables(columns: Columns, answer: str | None = None) -> tuple[Table, ...]:
    """One for each answer path: each run minus the first, in points, wherever both answered the same images."""
    return existing(_differences(columns, path) for path in ANSWER_ORDER if answer in {None, path})


def _split(columns: Columns, wanted: str) -> str:
    """The split that is wanted, or else the first that was measured."""
    measured = in_order((split for group in columns.values() for split in group.splits), SPLIT_ORDER)
    return wanted if wanted in measured else next(iter(measured), wanted)


def _answers(columns: Columns) -> tuple[str, ...]:
    return in_order((answer for group in columns.values() for answer in group.answers), ANSWER_ORDER)


def _numbered(sections: Sequence[Section], number: int) -> tuple[Section, ...]:
    """With figures named after the run's place: two figures of one page need names of their own."""
    return tuple(
        replace(section, figures=tuple(replace(plot, name=f"{plot.name}-{number}") for plot in section.figures))
        for section in sections
    )


def _joint(columns: Columns, answer: str, split: str, measure: str) -> Table:
    summaries = [summarise(group, split, answer, measure) for group in columns.values()]
    setups = in_order((name for rows in summaries for name in rows), METHODS)
    return Table(
        title=f"{answer} path · split {split}{of_measure(measure)}",
        columns=("method", *columns),
        rows=tuple((setup, *(average_cell(rows.get(setup)) for rows in summaries)) for setup in setups),
        notes=(
            f"{MEASURES[measure]} in percent, mean over the held-out domains of each run ± standard error over seeds; "
            f"in brackets the 95 % interval over {drawn_over(_seeds(columns))}. Runs of different domains or images "
            "are not comparable.",
            *_drawn(columns),
        ),
    )


def _differences(columns: Columns, answer: str) -> Table | None:
    (first, reference), *others = columns.items()
    setups = reference.final_setups(answer)
    rights = {
        (setup, name): (other.right(setup, answer), reference.right(setup, answer))
        for name, other in others
        for setup in setups
    }
    found = differences({pair: both for pair, both in rights.items() if same_samples(*both)})
    if not found:
        return None
    cells = {}
    for pair, difference in found.items():
        gap, interval, _, p = difference_cells(*difference)
        cells[pair] = f"{gap} ({interval}), p {p}"
    return Table(
        title=f"{answer} path · difference from {first}, split all",
        columns=("method", *(name for name, _ in others)),
        rows=tuple((setup, *(cells.get((setup, name), MISSING) for name, _ in others)) for setup in setups),
        notes=(
            f"Points with 95 % interval: paired bootstrap over {drawn_over(_seeds(columns))}, on the same images; p "
            "with Holm's correction over the cells of this table.",
            *_drawn(columns),
        ),
    )


def _by_section(sections: Mapping[str, Sequence[Section]]) -> list[tuple[Section, list[tuple[str, Section]]]]:
    """The sections in their order, each with every run's own; those that no run has are left out."""
    first = next(iter(sections.values()))
    joined = [(section, [(name, own[place]) for name, own in sections.items()]) for place, section in enumerate(first)]
    return [(section, own) for section, own in joined if any(of_run.tables or of_run.figures for _, of_run in own)]


def _seeds(columns: Columns) -> int:
    """Of the run that has most."""
    return max(group.seeds for group in columns.values())


def _drawn(columns: Columns) -> tuple[str, ...]:
    return drawn_notes(any(group.drawn for group in columns.values()))
