"""What the measures of drift make of planted errors, as tables. Called by `documents.py`."""

from pathlib import Path

from certificate_block import NOT_MEASURED
from planted import Planted
from records import read_record
from throughline.core.table import Table, tabulate
from throughline.drawn import DRAWN_NOTE
from throughline.drift.summary import CONFIDENCE
from throughline.metrics.intervals import Interval
from throughline.reporting.text import to_markdown

RECORD = "drift_planted.json"


def planted(evidence: Path) -> str:
    """A row for each score with both kinds of error, and one for each detector."""
    record = read_record(evidence / RECORD, Planted)
    if record is None:
        return NOT_MEASURED
    kinds = list(dict.fromkeys(row.kind for row in record.scores))
    found = {(row.kind, row.score): row for row in record.scores}
    rows = tuple(
        (score, *(cell for kind in kinds for cell in _cells(found[kind, score].auroc, found[kind, score].gain, score)))
        for score in dict.fromkeys(row.score for row in record.scores)
    )
    heads = tuple(f"{kind}, {what}" for kind in kinds for what in ("AUROC", "minus confidence"))
    notes = (
        f"`{record.command}`: {record.images} drawn images, each with a true chain and one of either kind; intervals "
        "(95 %) over images. Confidence is that in the class that the chain concludes in, where the answer begins.",
    )
    columns = {
        "detector": lambda row: row.detector,
        "error": lambda row: row.kind,
        "tokens to the nearest change point": lambda row: "–" if row.distance is None else f"{row.distance:.0f}",
        "chains with any, %": lambda row: f"{100 * row.noticed:.0f}",
        "in a true chain": lambda row: f"{row.false_alarms:.1f}",
    }
    changes = tabulate("changes", record.changes, columns, (DRAWN_NOTE, record.environment.sentence()))
    tables = (Table("planted", ("score", *heads), rows, notes), changes)
    return "\n".join(to_markdown(table, with_title=False) for table in tables)


def _cells(auroc: Interval, gain: Interval, score: str) -> tuple[str, str]:
    shown = f"{auroc.mean:.2f} ({auroc.low:.2f} to {auroc.high:.2f})"
    return shown, "–" if score == CONFIDENCE else f"{gain.mean:+.2f} ({gain.low:+.2f} to {gain.high:+.2f})"


BLOCKS = {"drift-planted": planted}
