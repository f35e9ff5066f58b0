"""What `analysis.json` holds: every number that a figure of the analyses shows, and what is made of it.

Written by the analyze verb, read by the page and by whoever computes further. Free of torch.
"""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from throughline.analysis import (
    beside_the_paper,
    divergence,
    entropy,
    faithfulness,
    mismatch,
    optimisation,
    probabilities,
    sensitivity,
)
from throughline.analysis.context import Context
from throughline.analysis.divergence import Divergence
from throughline.analysis.entropy import EntropyTable, Overlap
from throughline.analysis.faithfulness import Variant
from throughline.analysis.mismatch import Mismatch
from throughline.analysis.optimisation import Curve
from throughline.analysis.probabilities import Buckets, Moved
from throughline.analysis.records import Missing, Record, State
from throughline.analysis.section import Scope, Section
from throughline.analysis.sensitivity import Sensitivity
from throughline.analysis.shading import Shaded
from throughline.core.errors import ThroughlineError
from throughline.core.files import write_atomically

SCHEMA = 1
FILE = "analysis.json"

FIELDS = {
    "probabilities": ("buckets", "moved", "context", "shaded"),
    "entropy": ("entropy", "overlap"),
    "mismatch": ("mismatch",),
    "optimisation": ("curves",),
    "conclusions": ("variants",),
}
"""What of a fold's record each analysis fills, by its name."""

WHAT = (*FIELDS, "divergence", "sensitivity")
"""The names of all analyses."""


class Fold(Record):
    """All that was measured of one target and seed."""

    targets: tuple[str, ...]
    seed: int
    states: tuple[State, ...]
    buckets: tuple[Buckets, ...] = ()
    moved: tuple[Moved, ...] = ()
    context: tuple[Context, ...] = ()
    curves: tuple[Curve, ...] = ()
    entropy: tuple[EntropyTable, ...] = ()
    overlap: tuple[Overlap, ...] = ()
    mismatch: tuple[Mismatch, ...] = ()
    variants: tuple[Variant, ...] = ()
    shaded: tuple[Shaded, ...] = ()

    @property
    def name(self) -> str:
        """`target, seed s`."""
        return f"{'+'.join(self.targets) or 'nothing held out'}, seed {self.seed}"


class Analysis(Record):
    """The whole file."""

    schema_version: int = SCHEMA
    dataset: str
    model: str
    drawn: bool
    limit: int
    """Images of a fold that were looked at, at most."""
    conclusions_of: tuple[str, ...] | None = None
    """Methods whose conclusions were tampered with; None: all that write chains."""
    classes: tuple[str, ...]
    folds: tuple[Fold, ...]
    divergence: tuple[Divergence, ...] = ()
    sensitivity: tuple[Sensitivity, ...] = ()
    missing: tuple[Missing, ...] = ()

    @property
    def scope(self) -> Scope:
        """What its tables are of."""
        targets = len({fold.targets for fold in self.folds})
        return Scope(self.dataset, self.model, self.drawn, len(self.folds), targets)

    def of_folds(self, field: str) -> list[Any]:
        """All records of one field of the folds."""
        return list(chain.from_iterable(getattr(fold, field) for fold in self.folds))


def read_analysis(path: Path) -> Analysis | None:
    """The analysis in a file, None where there is none. Raises ThroughlineError for one that cannot be read."""
    if not path.is_file():
        return None
    try:
        return Analysis.model_validate_json(path.read_text())
    except (ValidationError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise ThroughlineError(
            f"the analysis cannot be read (of another version, or damaged): {first}",
            path,
            "run `throughline analyze` again",
        ) from None


def write_analysis(path: Path, analysis: Analysis) -> None:
    """Indented, so that two of them can be compared by eye."""
    write_atomically(path, analysis.model_dump_json(indent=1) + "\n")


def sections(analysis: Analysis | None) -> tuple[Section, ...]:
    """Every analysis as a section of the page, in their order; without an analysis all are empty."""
    shown = analysis or Analysis(dataset="", model="", drawn=False, limit=0, classes=(), folds=())
    scope, records = shown.scope, shown.of_folds
    return (
        mismatch.section(records("mismatch"), scope),
        optimisation.section(records("curves"), scope),
        beside_the_paper.section(records("buckets"), records("moved"), records("context"), scope),
        entropy.section([(fold.name, fold.entropy, fold.overlap) for fold in shown.folds], scope),
        divergence.section(shown.divergence, scope),
        faithfulness.section(records("variants"), scope),
        sensitivity.section(shown.sensitivity, scope),
    )


def summary_of(analysis: Analysis) -> str:
    """What stands out, over folds, a line each, for a terminal; the rest is in the file and on the page."""
    records = analysis.of_folds
    lines = [
        *probabilities.summary(records("moved")),
        *mismatch.summary(records("mismatch")),
        *faithfulness.summary(records("variants")),
    ]
    lines += [analysis.scope.spread] if lines else []
    lines += [*divergence.summary(analysis.divergence), *sensitivity.summary(analysis.sensitivity)]
    return "\n".join(lines) or "nothing was measured"
