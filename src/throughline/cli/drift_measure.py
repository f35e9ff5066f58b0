"""`throughline drift measure`: its options, and what it prints."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from throughline.chains.journal import require_journals
from throughline.cli.options import MODEL_HELP, SOURCE_HELP, Shown, open_chosen, read_settings
from throughline.cli.text import json_text
from throughline.drawn import is_drawn
from throughline.drift.settings import DriftSettings
from throughline.reporting.text import to_terminal

if TYPE_CHECKING:  # brings torch
    from throughline.domains.samples import ImageSet
    from throughline.evaluation.saved_model import OpenedModel


class Measure(DriftSettings):
    """Measure reasoning drift along chains, token by token: entropy and divergence of what comes next, the answer
    behind every beginning of a chain, the use of the image; and where in a chain the decision falls."""

    model: Annotated[str, Shown("MODEL", positional=True)] = Field(description=f"{MODEL_HELP}; units/<unit> of a run")
    images: Annotated[Path, Shown("DIR", positional=True)] = Field(description=SOURCE_HELP)
    out: Annotated[Path, Shown("DIR")]
    """Folder for the measures and their page; what was killed is continued."""
    detector: Literal["adwin", "kswin", "page_hinkley"] | None = None
    """Look for change points of entropy + JSD with this detector of river; needs the extra `drift`."""


def run_measure(arguments: argparse.Namespace) -> int:
    """Measures, or continues, and prints the tables."""
    from throughline.cli.progress import progress
    from throughline.domains.folders import read_images
    from throughline.drift.change_points import changes_in, make_detector
    from throughline.drift.measuring import measure_drift
    from throughline.drift.summary import summarise
    from throughline.evaluation.assessment import compare_classes
    from throughline.reporting.drift_page import drift_tables, write_drift_page

    settings, images = read_settings(arguments, DriftSettings), read_images(arguments.images)
    if arguments.detector:
        make_detector(arguments.detector)  # without river this ends now, not after the measuring
    model, adapter = _opened(arguments, images)
    classes = model.questions.classes
    compare_classes(classes, images)
    with progress("measuring", "images") as report:
        rows = measure_drift(model, adapter, images, settings, arguments.out, report)
    changes = changes_in(rows, arguments.detector) if arguments.detector else None
    summary = summarise(rows, classes, changes)
    shown, page = drift_tables(summary, is_drawn(images.root)), arguments.out / "index.html"
    write_drift_page(page, f"{model.mllm.name}, {model.method}", shown, rows, classes, changes or {})
    print(json_text(asdict(summary)) if arguments.json else "\n".join(map(to_terminal, shown)))
    print(f"page: {page}", file=sys.stderr)
    return 0


def _opened(arguments: argparse.Namespace, images: ImageSet) -> tuple[OpenedModel, str | None]:
    """The model, and the hash of its adapter where it has one. A plain checkpoint is asked about the images' classes,
    in the format of the chains."""
    from throughline.chains.formats import FIVE_STAGE, FORMATS
    from throughline.chains.store import read_headers
    from throughline.core.files import file_sha256
    from throughline.evaluation.saved_model import ADAPTER
    from throughline.mllm.lora import ADAPTER_WEIGHTS
    from throughline.questions.question_set import make_question_set

    weights = Path(arguments.model).expanduser() / ADAPTER / ADAPTER_WEIGHTS
    if weights.is_file():
        return open_chosen(arguments, None), file_sha256(weights)
    header = next(read_headers(require_journals(arguments.chains)), None) if arguments.chains else None
    questions = make_question_set(images.classes, FORMATS[header.format] if header else FIVE_STAGE, names=images.names)
    return replace(open_chosen(arguments, images.classes), questions=questions), None
