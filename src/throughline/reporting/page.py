"""The report: one HTML file that opens offline and asks nobody for anything. Figures, style, script and
thumbnails stand inside it; what a model wrote is escaped, and a content policy forbids every other script and
every request. Called by the report verb and at the end of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from throughline.files import write_atomically
from throughline.reporting.figures import accuracy_figure, loss_figure, rounds_figure
from throughline.reporting.gallery import Gallery, make_gallery
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

THUMBNAILS = 48


@dataclass(frozen=True)
class Part:
    """All that the page shows of one group of results."""

    title: str
    drawn: bool
    headline: Table
    accuracy: str | None
    tables: tuple[Table, ...]
    comparisons: tuple[Table, ...]
    rounds_figure: str | None
    rounds: Table | None
    losses: str | None
    gallery: Gallery | None


def write_page(run_folder: Path, images_root: Path | None = None) -> Path:
    """Writes report/index.html into the run folder, atomically, and gives its path.

    `images_root` is the image folder that sample ids are relative to; without it (and without the
    folder that `images_of` looks for) the gallery has no pictures. Same run, same bytes: no date, no
    path.
    """
    run = read_run(run_folder)
    path = run_folder / "report" / "index.html"
    write_atomically(path, page_html(run, images_root or images_of(run)))
    return path


def page_html(run: Run, images_root: Path | None) -> str:
    """The page as text; every group of results has its part, the thumbnails are shared out over them."""
    correct = CorrectAnswers(run)
    found = groups(run.results)
    shown = {
        "run": run,
        "parts": [_part(run, group, correct, images_root, THUMBNAILS // len(found)) for group in found],
        "drawn_note": DRAWN_NOTE,
        "with_images": images_root is not None,
        "contradictions": contradictions(run, correct),
        "environment": flat(run.environment),
    }
    return render_page("page.html.jinja", "page.js", ("page.css",), shown)


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


def _part(run: Run, group: Group, correct: CorrectAnswers, images_root: Path | None, thumbnails: int) -> Part:
    lines = [line for line in run.results if group.holds(line) and line.round is None]
    splits = in_order((line.split for line in lines), SPLIT_ORDER)
    answers = in_order((line.answer for line in lines), ANSWER_ORDER)
    methods = in_order((line.method for line in lines), METHOD_ORDER)
    # intervals exist for the whole target only; DomainBed's own split stands in the tables below
    main_split = "all" if "all" in splits else next(iter(splits), "all")
    summaries = {answer: summarise(run, group, main_split, answer, correct) for answer in answers}
    baseline = baseline_of(methods)
    compared = [comparison_table(correct, group, answer, methods, baseline) for answer in answers if baseline]
    tables = [
        results_table(run, group, split, answer, correct)
        for answer in answers
        for split in splits
        if any((line.split, line.answer) == (split, answer) for line in lines)
    ]
    return Part(
        title=describe(group),
        drawn=is_drawn(group),
        headline=headline_table(run, group, main_split, correct),
        accuracy=accuracy_figure(summaries),
        tables=tuple(tables),
        comparisons=tuple(table for table in compared if table is not None),
        rounds_figure=rounds_figure(run, group, main_split),
        rounds=rounds_table(run, group),
        losses=loss_figure(run, group),
        gallery=make_gallery(run, group, images_root, thumbnails),
    )
