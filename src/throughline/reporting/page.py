"""The report: one HTML file that opens offline and asks nobody for anything. Figures, style, script and
thumbnails stand inside it; what a model wrote is escaped, and a content policy forbids every other script and
every request. Called by the report verb and at the end of a run."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from throughline.analysis.document import sections as analysis_sections
from throughline.core.files import write_atomically
from throughline.core.nested import shown_settings
from throughline.core.plot import Plot
from throughline.core.untrusted import embedded
from throughline.domains.folders import default_name, root_of
from throughline.drawn import DRAWN_NOTE
from throughline.reporting.ablation import ablation_table
from throughline.reporting.analyses import find_analysis, shaded_data
from throughline.reporting.classes import class_figure, class_table
from throughline.reporting.confidence import abstention_figure, confidence_table, confidences, reliability_figure
from throughline.reporting.confusion import confusion_data, confusion_figures, confusions, mixups_table
from throughline.reporting.drawing import write_figures
from throughline.reporting.estimates import against_baseline, ahead_of_all, summarise
from throughline.reporting.figures import accuracy_figure, differences_figure, rounds_figure
from throughline.reporting.gallery import changed_answers, make_examples, make_gallery
from throughline.reporting.groups import Group, contradictions, groups
from throughline.reporting.interference import interference_tables
from throughline.reporting.losses import loss_figure, loss_table
from throughline.reporting.overview import overview
from throughline.reporting.probes import diagnosis_table, probe_figure
from throughline.reporting.published import published_ablation, published_methods, published_shift
from throughline.reporting.robustness import is_shifted, robustness_tables, shift_figures, shift_tables
from throughline.reporting.selection import selection_tables
from throughline.reporting.self_contained import render_page
from throughline.reporting.shifts import curve_figure, curve_table, severity_curves, shot_curves
from throughline.reporting.tables import existing, guessing, headline_table, page_table, rounds_table
from throughline.reporting.warnings import warnings
from throughline.runs.folder import IMAGES, place_of
from throughline.runs.reader import Run, read_run

# Pictures with the texts about them: enough to read for an hour, few enough for a mail.
WITH_TEXTS = 200


def write_page(run_folder: Path, images: Path | None = None, folder: Path | None = None) -> Path:
    """Writes index.html and figures/ into `folder` (report/ of the run folder), each file atomically, and gives the
    page's path.

    `images` are the images of the run's (first) image set, where they lie elsewhere than `images_of` looks for them.
    Same run, same bytes: no date, no path.
    """
    run = read_run(run_folder)
    folder = folder or run_folder / "report"
    path = folder / "index.html"
    write_atomically(path, page_html(run, images_of(run, images), folder / "figures"))
    return path


def page_html(run: Run, roots: Mapping[str, Path], figures: Path) -> str:
    """The page as text; every group of results has its part, the pictures are shared out over them. `roots` are the
    folders of the image sets; of one without the gallery has no pictures. Figures are left in `figures` as files."""
    all_groups = groups(run)
    parts = [
        _part(group, roots.get(group.dataset), WITH_TEXTS // len(all_groups), "" if number == 0 else f"-{number + 1}")
        for number, group in enumerate(all_groups)
    ]
    shift = shift_figures(all_groups)
    analysis, notes = find_analysis(run)
    sections = analysis_sections(analysis)
    plots = [*shift, *(plot for part in parts for plot in (*part["figures"].values(), *part["confusion_figures"]))]
    plots += [plot for section in sections for plot in section.figures]
    shaded = shaded_data(analysis)
    shown = {
        "run": run,
        "parts": parts,
        "shift": (shift, shift_tables(all_groups)),
        "robustness": robustness_tables(all_groups),
        "selection": selection_tables(run),
        "sections": {section.id: section for section in sections},
        "analysis": analysis,
        "analysis_notes": notes,
        "shaded": None if shaded is None else embedded(shaded),
        "svg": write_figures(figures, plots),
        "drawn_note": DRAWN_NOTE,
        "with_images": all(group.dataset in roots for group in all_groups),
        "contradictions": contradictions(run),
        "warnings": warnings(run),
        "environment": shown_settings(run.environment).items(),
    }
    scripts = ("scrolling.js", "common.js", "switch.js", "gallery.js", "shading.js", "confusion.js")
    return render_page("page.html.jinja", scripts, ("page.css", "report.css"), shown)


def images_of(run: Run, first: Path | None = None) -> dict[str, Path]:
    """By image set the folder that its samples' ids are relative to, if it is there: that of the folder or table in the
    run's config, or the run's own drawn world. `first` are the images of the first set, where they lie elsewhere."""
    sets = [run.config.get("data", {}), *run.config.get("more_data", ())]
    datasets, roots = {line.dataset for line in run.results}, dict[str, Path]()
    for position, data in enumerate(sets):
        images = data.get("images")
        name = data.get("name") or ("drawn" if images is None else default_name(Path(images)))
        own = run.folder / place_of(IMAGES, position) if images is None else Path(images)
        root = root_of(first if first is not None and position == 0 else own)
        if root.is_dir():
            named = datasets if len(sets) == 1 else datasets & {name, f"drawn-{name}"}
            roots |= dict.fromkeys(named, root)
    return roots


def _part(group: Group, images_root: Path | None, with_texts: int, suffix: str) -> dict[str, Any]:
    """All that the page shows of one group of results; figures by name, the same in every part."""
    split, answers, main = group.main_split, group.answers, group.main_answer
    summaries = {answer: summarise(group, split, answer) for answer in answers}
    reported = {answer: summarise(group, "in" if "in" in group.splits else split, answer) for answer in answers}
    compared = {answer: against_baseline(group, answer) for answer in answers}
    ahead = {answer: ahead_of_all(group, answer, summaries[answer]) for answer in answers}
    sure, mixed = confidences(group), confusions(group)
    plain = [entry for entry in sure if not is_shifted(entry.setup)]
    card = overview(group, summaries.get(main, {}), compared, ahead.get(main))
    gallery = make_gallery(group, images_root, with_texts)
    by_severity, by_shots = severity_curves(group, main), shot_curves(group, main)
    figures = (
        accuracy_figure(summaries, chance=guessing(group).get("chance")),
        differences_figure(group, compared),
        rounds_figure(group, split),
        loss_figure(group),
        reliability_figure(plain),
        abstention_figure(plain),
        class_figure(group, main),
        probe_figure(group),
        curve_figure(group, main, by_severity, "severities", "severity"),
        curve_figure(group, main, by_shots, "shots", "labelled examples"),
    )
    return {
        "group": group,
        "overview": card,
        "headline": headline_table(group, split),
        "ablations": existing(ablation_table(group, answer, summaries[answer]) for answer in answers),
        "published": existing(
            (published_ablation(group, reported), published_methods(group), published_shift(group, summaries))
        ),
        "tables": {
            (name, answer): page_table(group, name, answer, compared[answer], ahead[answer])
            for answer in answers
            for name in reversed(group.splits)  # the whole target first, also in print
            if (name, answer) in group.measured
        },
        "rounds": rounds_table(group),
        "loss": loss_table(group),
        "diagnosis": diagnosis_table(group),
        "severities": curve_table(group, main, by_severity, ("view", "severity")),
        "changed": changed_answers(group, "likelihood" if "likelihood" in answers else main, images_root),
        "shots": curve_table(group, main, by_shots, ("examples", "shots")),
        "interference": interference_tables(group),
        "confidence": confidence_table(sure),
        "figures": {plot.name: _named(plot, suffix) for plot in figures if plot is not None},
        "classes": existing(class_table(group, answer) for answer in answers),
        "confusion_figures": [_named(plot, suffix) for plot in confusion_figures(mixed, main, card.setups)],
        "confusion": embedded(confusion_data(mixed)) if mixed else None,
        "mixups": existing(mixups_table(mixed, setup, main) for setup in card.setups[-1:]),
        "examples": make_examples(group, images_root),
        "gallery": gallery,
        "gallery_json": "" if gallery is None else embedded(gallery.data),
    }


def _named(plot: Plot, suffix: str) -> Plot:
    return replace(plot, name=f"{plot.name}{suffix}")
