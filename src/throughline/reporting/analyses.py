"""A run's analysis on its page: what has to be said about it, and its chains token by token. Called by the pages."""

from typing import Any

from throughline.analysis.document import FILE, Analysis, read_analysis
from throughline.core.errors import ThroughlineError
from throughline.core.untrusted import one_line, visible
from throughline.runs.reader import Run

ANALYZE = "`throughline analyze RUN` (RUN is the run's folder)"
"""What makes an analysis."""


def find_analysis(run: Run) -> tuple[Analysis | None, list[str]]:
    """A run's analysis.json, if it has one, and what has to be said about it: what is wrong with it, or missing."""
    try:
        analysis = read_analysis(run.folder / FILE)
    except ThroughlineError as error:
        return None, [f"{FILE} cannot be used: {error.what}; {ANALYZE} writes it again."]
    if analysis is None:
        return None, []
    known = {line.unit for line in run.results}
    unknown = sorted({state.unit for fold in analysis.folds for state in fold.states if state.unit} - known)
    notes = [f"{missing.what}: {missing.why}" for missing in analysis.missing]
    if unknown:
        notes.insert(0, f"{FILE} has units that this run no longer has ({unknown[0]}): run {ANALYZE} again.")
    return analysis, notes


def shaded_data(analysis: Analysis | None) -> list[dict[str, Any]] | None:
    """For the page's script: the chains of each fold, token by token; None without any."""
    folds = [] if analysis is None else [fold for fold in analysis.folds if fold.shaded]
    return [
        {
            "name": one_line(fold.name),
            "chains": [
                {
                    "id": one_line(chain.sample_id),
                    "label": one_line(chain.label),
                    "source": chain.source,
                    "before": one_line(chain.before.name),
                    "after": one_line(chain.after.name),
                    "tokens": [[visible(text), before, after] for text, before, after in chain.tokens],
                }
                for chain in fold.shaded
            ],
        }
        for fold in folds
    ] or None
