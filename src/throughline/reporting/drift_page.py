"""Measured drift as tables, and as a page with these and some chains, every token of which is shaded by its drift.
Called by `throughline drift measure`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from throughline.core.files import write_atomically
from throughline.core.table import MISSING, Table
from throughline.core.untrusted import one_line
from throughline.drawn import DRAWN_NOTE
from throughline.drift.summary import CHAIN, CONFIDENCE, Changes, Summary
from throughline.metrics.intervals import Interval
from throughline.reporting.self_contained import render_page
from throughline.reporting.tables import drawn_notes, share_cell

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 4
"""Chains that conclude wrongly, and as many that conclude rightly."""
DECIDED = (
    "The reading is the likeliest class as the conclusion of the chain cut off there. Decided: from there on, all "
    "readings at ends of stages are what the chain concludes in. Chains without a conclusion are left out."
)
MEASURES = ("entropy", "jsd", "image_kl", "answer_jsd")


def drift_tables(summary: Summary, drawn: bool) -> tuple[Table, Table]:
    """The decision stage by stage, and the scores; of `drawn` images it is said that they are."""
    notes = ("95 % intervals over images.", *drawn_notes(drawn))
    wrong = (
        f"{summary.wrong:,} of {summary.chains:,} chains about {summary.images:,} images conclude wrongly or in no "
        "class. The confidence is the probability of the concluded class where the answer begins. Gains are paired."
    )
    stages = [(row.stage, f"{row.chains:,}", share_cell(row.decided), share_cell(row.right)) for row in summary.stages]
    scores = [
        (row.score, _area(row.auroc), MISSING if row.score == CONFIDENCE else _area(row.gain)) for row in summary.scores
    ]
    heads = ("after", "chains", "decided, %", "right, %"), ("score", "AUROC", f"above {CONFIDENCE}")
    return (
        Table("Where in a chain the decision falls", heads[0], tuple(stages), (DECIDED, *notes)),
        Table("Does drift tell wrong conclusions?", heads[1], tuple(scores), (wrong, *notes)),
    )


def _area(interval: Interval) -> str:
    return f"{interval.mean:.3f} ({interval.low:.3f} to {interval.high:.3f})"


def write_drift_page(
    path: Path, title: str, tables: Sequence[Table], rows: pd.DataFrame, classes: Sequence[str], changes: Changes
) -> None:
    """Writes the page; `changes` are the change points of chains, where they were looked for."""
    shown = {
        "title": one_line(title),
        "tables": tables,
        "chains": [_shaded(own, classes, changes.get(key, ())) for key, own in _chosen(rows)],
        "drawn_note": DRAWN_NOTE,
    }
    write_atomically(path, render_page("drift.html.jinja", ("scrolling.js",), ("page.css", "report.css"), shown))


def _chosen(rows: pd.DataFrame) -> list[tuple[tuple[str, str], pd.DataFrame]]:
    """Not chosen by what they show: the first wrong and right ones by the SHA-256 of image and chain."""
    chains = sorted(rows.groupby(CHAIN, sort=False), key=lambda own: hashlib.sha256("".join(own[0]).encode()).digest())
    kinds = [own["concluded"].iloc[0] == own["label"].iloc[0] for _, own in chains]
    wrong, right = (
        [own for own, kind in zip(chains, kinds, strict=True) if kind is wanted] for wanted in (False, True)
    )
    return wrong[:SHOWN] + right[:SHOWN]


def _shaded(rows: pd.DataFrame, classes: Sequence[str], changes: Sequence[int]) -> dict[str, Any]:
    """A chain for the template: of each token its text, its shade of 0 to 1, whether another class is likeliest from
    here on, whether a change point lies here, and what to say of it."""
    drift = rows["entropy"] + rows["jsd"]
    tokens: list[tuple[Any, ...]] = []
    likeliest: str | None = None
    for row, shade in zip(rows.to_dict("records"), drift / (drift.max() or 1), strict=True):
        said = [f"{name} {row[name]:.3f}" for name in MEASURES if not np.isnan(row[name])]
        before = likeliest
        if row["answers"] is not None:
            likeliest = classes[int(np.argmax(row["answers"]))]
            said.append(f"{likeliest} {np.max(row['answers']):.2f}")
        turned = before not in (None, likeliest)
        tokens.append((row["text"], f"{shade:.3f}", turned, row["place"] in changes, ", ".join(said)))
    return {**{name: rows.iloc[0][name] for name in ("sample_id", "label", "concluded")}, "tokens": tokens}
