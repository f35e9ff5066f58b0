"""The report: one HTML file that opens offline and asks nobody for anything. Figures, style, script and
thumbnails stand inside it; what a model wrote is escaped, and a content policy forbids every other script and
every request. Called by the report verb and at the end of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from throughline.core.files import write_atomically
from throughline.reporting.ablation import ablation_table
from throughline.reporting.analysis_page import analysis_sections, find_analysis, shaded_data
from throughline.reporting.answers import read_answers
from throughline.reporting.confidence import abstention_figure, confidence_table, confidences, reliability_figure
from throughline.reporting.confusion import confusion_data, confusion_figures, confusions
from throughline.reporting.figures import accuracy_figure, loss_figure, loss_table, rounds_figure
from throughline.reporting.gallery import Gallery, gallery_data, make_gallery
from throughline.reporting.plotting import Plot, write_figures
from throughline.reporting.published import published_ablation, published_methods
from throughline.reporting.runs import Run, read_run
from throughline.reporting.self_contained import render_page
from throughline.reporting.summaries import (
    ANSWER_ORDER,
    BASELINES,
    METHOD_ORDER,
    SPLIT_ORDER,
    CorrectAnswers,
    Group,
    contradictions,
    describe,
    groups,
    in_order,
    summarise,
)
from throughline.reporting.tables import (
    DRAWN_NOTE,
    Table,
    comparison_table,
    headline_table,
    is_drawn,
    results_table,
    rounds_table,
)
from throughline.reporting.untrusted import embedded

# Pictures with all that was said about them: enough to read for an hour, few enough for a mail.
TOLD = 200


@dataclass(frozen=True)
class Part:
    """All that the page shows of one group of results; figures by name, the same in every part."""

    title: str
    drawn: bool
    headline: Table
    ablations: tuple[Table, ...]
    published: tuple[Table, ...]
    tables: tuple[Table, ...]
    comparisons: tuple[Table, ...]
    rounds: Table | None
    loss: Table | None
    confidence: Table | None
    figures: Mapping[str, Plot]
    confusion_figures: tuple[Plot, ...]
    confusion: str | None
    """JSON for the page's script."""
    gallery: Gallery | None
    gallery_json: str


def write_page(run_folder: Path, images_root: Path | None = None, folder: Path | None = None) -> Path:
    """Writes index.html and figures/ into `folder` (report/ of the run folder), each file atomically, and gives the
    page's path.

    `images_root` is the image folder that sample ids are relative to; without it (and without the
    folder that `images_of` looks for) the gallery has no pictures. Same run, same bytes: no date, no
    path.
    """
    run = read_run(run_folder)
    folder = folder or run_folder / "report"
    path = folder / "index.html"
    write_atomically(path, page_html(run, images_root or images_of(run), folder / "figures"))
    return path


def page_html(run: Run, images_root: Path | None, figures: Path) -> str:
    """The page as text; every group of results has its part, the pictures are shared out over them. Figures are left in
    `figures` as files besides."""
    correct = CorrectAnswers(run)
    found = groups(run.results)
    parts = [
        _part(run, group, correct, images_root, TOLD // len(found), "" if number == 0 else f"-{number + 1}")
        for number, group in enumerate(found)
    ]
    analysed = find_analysis(run)
    sections = analysis_sections(analysed)
    plots = [plot for part in parts for plot in (*part.figures.values(), *part.confusion_figures)]
    plots += [plot for section in sections for plot in section.figures]
    shaded = shaded_data(analysed.analysis)
    shown = {
        "run": run,
        "parts": parts,
        "sections": {section.id: section for section in sections},
        "analysis": analysed.analysis,
        "analysis_notes": analysed.notes,
        "shaded": None if shaded is None else embedded(shaded),
        "svg": write_figures(figures, plots),
        "drawn_note": DRAWN_NOTE,
        "with_images": images_root is not None,
        "contradictions": contradictions(run, correct),
        "environment": flat(run.environment),
    }
    scripts = ("scrolling.js", "common.js", "gallery.js", "shading.js", "confusion.js")
    return render_page("page.html.jinja", scripts, ("page.css", "report.css"), shown)


def images_of(run: Run) -> Path | None:
    """The image folder that the run's config names under `data`, or the run's own drawn world, if it is there."""
    named = run.config.get("data", {}).get("images")
    folder = Path(named) if isinstance(named, str) else run.folder / "images"
    return folder if folder.is_dir() else None


def flat(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """A nested mapping as dotted names with their values, in its own order."""
    rows: list[tuple[str, str]] = []
    for name, item in value.items():
        if isinstance(item, Mapping):
            rows += flat(item, f"{prefix}{name}.")
        else:
            shown = " ".join(map(str, item)) if isinstance(item, list) else str(item)
            rows.append((f"{prefix}{name}", shown))
    return rows


def baseline_of(methods: tuple[str, ...]) -> str | None:
    """The method that the others are compared with when none is named."""
    return next((name for name in BASELINES if name in methods), None)


def _part(run: Run, group: Group, correct: CorrectAnswers, images_root: Path | None, told: int, suffix: str) -> Part:
    lines = [line for line in run.results if group.holds(line) and line.round is None]
    splits = in_order((line.split for line in lines), SPLIT_ORDER)
    answers = in_order((line.answer for line in lines), ANSWER_ORDER)
    methods = in_order((line.method for line in lines), METHOD_ORDER)
    # intervals exist for the whole target only; DomainBed's own split stands in the tables below
    main_split = "all" if "all" in splits else next(iter(splits), "all")
    summaries = {answer: summarise(run, group, main_split, answer, correct) for answer in answers}
    reported = {answer: summarise(run, group, "in" if "in" in splits else main_split, answer) for answer in answers}
    baseline = baseline_of(methods)
    units = read_answers(run, group)
    sure = confidences(units)
    mixed = confusions(units)
    gallery = make_gallery(run, group, images_root, told)
    figures = {
        "accuracy": accuracy_figure(summaries),
        "rounds": rounds_figure(run, group, main_split),
        "loss": loss_figure(run, group),
        "reliability": reliability_figure(sure),
        "abstention": abstention_figure(sure),
    }
    return Part(
        title=describe(group),
        drawn=is_drawn(group),
        headline=headline_table(run, group, main_split, correct),
        ablations=_there(ablation_table(run, group, answer, summaries[answer], correct) for answer in answers),
        published=_there([published_ablation(group, reported), published_methods(group)]),
        tables=tuple(
            results_table(run, group, split, answer, correct)
            for answer in answers
            for split in splits
            if any((line.split, line.answer) == (split, answer) for line in lines)
        ),
        comparisons=_there(
            comparison_table(correct, group, answer, methods, baseline) for answer in answers if baseline
        ),
        rounds=rounds_table(run, group),
        loss=loss_table(run, group),
        confidence=confidence_table(sure),
        figures={name: _named(plot, suffix) for name, plot in figures.items() if plot is not None},
        confusion_figures=tuple(_named(plot, suffix) for plot in confusion_figures(mixed)),
        confusion=embedded(confusion_data(mixed)) if mixed else None,
        gallery=gallery,
        gallery_json="" if gallery is None else embedded(gallery_data(gallery)),
    )


def _named(plot: Plot, suffix: str) -> Plot:
    return replace(plot, name=f"{plot.name}{suffix}")


def _there(tables: Iterable[Table | None]) -> tuple[Table, ...]:
    return tuple(table for table in tables if table is not None)
