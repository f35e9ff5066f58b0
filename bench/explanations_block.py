"""What the trials of two explanations say, as a table. Called by `documents.py`."""

from pathlib import Path

from certificate_block import NOT_MEASURED
from explanations import TRIALS, Comparison, Explanations
from records import read_record
from throughline.core.table import tabulate
from throughline.drawn import DRAWN_NOTE
from throughline.reporting.text import to_markdown

RECORD = "explanations.json"


def explanations(evidence: Path) -> str:
    """A row for each trial, method that it is compared with, and answer path."""
    record = read_record(evidence / RECORD, Explanations)
    if record is None:
        return NOT_MEASURED
    trials = {trial.name: trial for trial in TRIALS}
    columns = {
        "trial": lambda row: f"{trials[row.trial].method}, {trials[row.trial].changed}",
        "minus": lambda row: row.against,
        "answer path": lambda row: row.answer,
        "points": _points,
        "each style": lambda row: ", ".join(f"{name} {100 * gap:+.1f}" for name, gap in row.by_target.items()),
    }
    notes = (
        f"`{record.command}`: {record.seeds} seeds; paired differences of accuracy with 95 % intervals over seeds and "
        "images, not corrected for the number of comparisons.",
        DRAWN_NOTE,
        record.environment.sentence(),
    )
    return to_markdown(tabulate("explanations", record.comparisons, columns, notes), with_title=False)


def _points(row: Comparison) -> str:
    found = row.difference.scaled(100)
    return f"{found.mean:+.1f} ({found.low:+.1f} to {found.high:+.1f})"


BLOCKS = {"explanations": explanations}
