"""Counterfactual preference against what it is compared with, as two tables, and the claims of its source one by one.
Called by `documents.py`."""

from pathlib import Path

from certificate_block import NOT_MEASURED
from claims import verdict
from drift_study import CLAIMS, MEASURES, METHODS, PATHS, TARGETS, DriftDifference, DriftStudy
from records import read_record
from throughline.core.table import MISSING, Table
from throughline.drawn import DRAWN_NOTE
from throughline.metrics.intervals import Interval
from throughline.reporting.text import to_markdown

RECORD = "drift_study.json"


def drift_study(evidence: Path) -> str:
    """A table for each answer path: a row for each method, a column for each measure."""
    record = read_record(evidence / RECORD, DriftStudy)
    if record is None:
        return NOT_MEASURED
    parts = []
    for answer in PATHS:
        cells = {(cell.method, cell.measure): cell.value for cell in record.cells if cell.answer == answer}
        columns = [name for name in MEASURES if any(measure == name for _, measure in cells)]
        rows = tuple(
            (method, f"{record.steps[method]:.0f}", *(_shown(cells.get((method, name))) for name in columns))
            for method in METHODS
        )
        table = Table(f"{answer} path", ("method", "steps", *columns), rows)
        parts += [f"**{answer.capitalize()} path**", "", to_markdown(table, with_title=False)]
    notes = (
        f"`{record.command}`: {' and '.join(TARGETS)} held out, {record.images} images of each, three seeds. Percent, "
        "with 95 % intervals over seeds and images. Steps: optimiser steps from the base, mean over styles and seeds. "
        "In-domain: the scenes of the held-out style drawn in the source styles. Lost without the image: accuracy lost "
        "with a blank image and with one of another class, in the mean; less means that answers ignore the image.",
        DRAWN_NOTE,
        record.environment.sentence(),
    )
    return "\n".join([*parts, "\n\n".join(notes), ""])


def drift_claims(evidence: Path) -> str:
    """A row for each claim; of what is better the less there is, a negative difference is in its favour."""
    record = read_record(evidence / RECORD, DriftStudy)
    if record is None:
        return NOT_MEASURED
    found = {(row.method, row.baseline, row.measure, row.answer): row for row in record.differences}
    rows = []
    for claim in CLAIMS:
        row = found.get((claim.method, claim.baseline, claim.measure, claim.answer))
        how = f"{claim.method} − {claim.baseline}: {claim.measure}, {claim.answer}"
        rows.append((claim.says, claim.source, how, *(_judged(row) if row else (MISSING, MISSING, "not measured"))))
    columns = ("claim", "source", "measured here", "points", "95 % interval", "verdict")
    notes = (
        "Paired differences over seeds and images, not corrected for the number of claims. A claim is seen where the "
        "whole interval lies on its side: above nought, and below it for drift and for flipped decisions. Source: CPO, "
        "which has thinking pairs alone, and CPO++, by our subtraction; its numbers are of chest X-rays.",
        DRAWN_NOTE,
    )
    return to_markdown(Table("claims", columns, tuple(rows), notes), with_title=False)


def _judged(row: DriftDifference) -> tuple[str, str, str]:
    points = row.difference.scaled(100)
    less = Interval(mean=-points.mean, low=-points.high, high=-points.low)
    words = verdict(less if MEASURES[row.measure].less_is_better else points, 0.0)
    return f"{points.mean:+.1f}", f"{points.low:+.1f} to {points.high:+.1f}", words


def _shown(value: Interval | None) -> str:
    if value is None:
        return MISSING
    points = value.scaled(100)
    return f"{points.mean:.1f} ({points.low:.1f} to {points.high:.1f})"


BLOCKS = {"drift-study": drift_study, "drift-claims": drift_claims}
