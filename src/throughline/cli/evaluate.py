"""`throughline evaluate MODEL DIR`: accuracy of every answer path on labelled images, per domain and over all."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from throughline.cli.options import ModelName, Shown, Source, add_model_options, add_settings, open_chosen
from throughline.cli.progress import progress
from throughline.cli.text import json_text
from throughline.core.errors import ThroughlineError
from throughline.core.files import require_writable, write_json
from throughline.core.settings import Settings
from throughline.core.table import Table, tabulate
from throughline.domains.folders import read_images
from throughline.domains.samples import ImageSet
from throughline.drawn import DRAWN_NOTE, is_drawn
from throughline.evaluation.saved_model import find_record
from throughline.questions.question_set import make_question_set
from throughline.reporting.text import to_terminal
from throughline.runs.records import CLASS_MEASURES, ResultsLine

if TYPE_CHECKING:  # brings torch
    from throughline.evaluation.assessment import Assessment

CONFUSIONS_SHOWN = 5


class Measuring(Settings):
    """What is measured, and where the numbers go."""

    model: ModelName
    images: Source
    split: Literal["in", "out", "all"] = "all"
    """Part of each domain, as split by DomainBed."""
    trial_seed: int = 0
    """Whole number; DomainBed's trial seed, which decides the split."""
    out: Annotated[Path | None, Shown("FILE")] = None
    """Also write the JSON to this file."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    add_settings(parser, Measuring)
    add_model_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Measures and prints; afterwards a ThroughlineError if some images could not be read."""
    from throughline.evaluation.assessment import assess, compare_classes

    # Everything that can be at fault without a model is found before one is loaded.
    images = read_images(arguments.images)
    record = find_record(arguments.model, arguments.hub)
    compare_classes(record.classes if record is not None else images.classes, images)
    questions = make_question_set(images.classes, names=images.names, several=images.several)
    questions = record.questions if record else questions
    if arguments.out is not None:
        require_writable(arguments.out)
    model = replace(open_chosen(arguments, None if record else images.classes), questions=questions)
    with progress("answering", "images") as report_progress:
        assessment = assess(
            model, images, split=arguments.split, trial_seed=arguments.trial_seed, on_progress=report_progress
        )
    if arguments.out is not None:
        write_json(arguments.out, assessment.to_json())
    print(json_text(assessment.to_json()) if arguments.json else _as_text(assessment, images))
    for fault in assessment.faults[1:]:
        print(f"note: {fault}", file=sys.stderr)
    if assessment.faults:
        raise ThroughlineError(
            f"{len(assessment.faults)} images could not be read and count as wrong answers: {assessment.faults[0]}"
        )
    return 0


def _as_text(assessment: Assessment, images: ImageSet) -> str:
    answers = dict.fromkeys(line.answer for line in assessment.lines)
    tables = [_accuracy_table(assessment, answer) for answer in answers]
    if assessment.confusions:
        tables.append(_confusion_table(assessment))
    last = replace(tables[-1], notes=(*tables[-1].notes, *_notes(assessment, images)))
    return "\n".join(map(to_terminal, [*tables[:-1], last])).removesuffix("\n")


def _accuracy_table(assessment: Assessment, answer: str) -> Table:
    lines = [line for line in assessment.lines if line.answer == answer]
    *_, last = lines
    title = f"{last.dataset} · {last.model}, {last.method} · {answer} path · split {last.split}"
    columns: dict[str, Callable[[ResultsLine], str]] = {
        "domain": lambda line: "all images" if line is last else ", ".join(line.targets),
        "images": lambda line: f"{line.n:,}",
        "accuracy %": lambda line: f"{100 * line.accuracy:.1f}",
        "95 % interval": lambda line: " to ".join(_percent(f"accuracy_{end}")(line) for end in ("low", "high")),
        **{head: _percent(name) for name, head in CLASS_MEASURES.items() if name in last.metrics},
        "unparsed %": lambda line: f"{100 * line.unparsed / line.n:.1f}",
        "failed": lambda line: str(line.errors),
    }
    return tabulate(title, lines, columns)


def _percent(metric: str) -> Callable[[ResultsLine], str]:
    return lambda line: f"{100 * line.metrics[metric]:.1f}"


def _confusion_table(assessment: Assessment) -> Table:
    rows = []
    for answer in dict.fromkeys(confusion.answer for confusion in assessment.confusions):
        shown = [confusion for confusion in assessment.confusions if confusion.answer == answer][:CONFUSIONS_SHOWN]
        rows += [(answer, row.true, row.predicted, f"{row.count:,} of {row.of:,}") for row in shown]
    return Table("most frequent wrong answers", ("path", "class", "answered", "images"), tuple(rows))


def _notes(assessment: Assessment, images: ImageSet) -> Iterator[str]:
    yield "Intervals are Wilson intervals over images. Unparsed and failed answers count as wrong."
    if assessment.absent_classes:
        yield f"The model also has classes without an image here: {', '.join(assessment.absent_classes)}."
    if assessment.same_images:
        yield "The model was trained on these very images. The numbers say nothing about other images."
    elif assessment.seen_domains:
        yield f"The model was trained on domains of the same name: {', '.join(assessment.seen_domains)}."
    if is_drawn(images.root):
        yield DRAWN_NOTE
