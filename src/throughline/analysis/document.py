"""What `analysis.json` holds: every number that a figure of the analyses shows, and what is made of it.

Written by the analyze verb, read by the page and by whoever computes further. Free of torch.
"""

from itertools import chain
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

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
from throughline.analysis.folds import together
from throughline.analysis.mismatch import Mismatch
from throughline.analysis.optimisation import Curve
from throughline.analysis.probabilities import Buckets, Moved
from throughline.analysis.records import Missing, Record, State
from throughline.analysis.section import Scope, Section, joined
from throughline.analysis.sensitivity import Sensitivity
from throughline.analysis.shading import Shaded
from throughline.core.errors import ThroughlineError
from throughline.core.files import write_atomically
from throughline.runs.records import Factor

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
    factors: dict[str, Factor] = Field(default_factory=dict)
    """Its level of each factor."""
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
        """`target, seed s`, then the levels of its factors."""
        return ", ".join(filter(None, ("+".join(self.targets) or "nothing held out", f"seed {self.seed}", self.levels)))

    @property
    def levels(self) -> str:
        """Its level of each factor, `shots=4, wording=short`; empty where there are none."""
        return ", ".join(f"{name}={level}" for name, level in sorted(self.factors.items()))

    @property
    def identity(self) -> tuple[object, ...]:
        """What it is of."""
        return self.targets, self.seed, self.levels, self.states


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
    """Every analysis as a section of the page, in their order; without an analysis all are empty. Each combination of
    the factors' levels has its own tables and figures."""
    shown = analysis or Analysis(dataset="", model="", drawn=False, limit=0, classes=(), folds=())
    groups = [
        [section.at_levels(levels, number) for section in _sections(of_levels)]
        for number, (levels, of_levels) in enumerate(by_levels(shown).items(), start=1)
    ]
    return tuple(joined(own) for own in zip(*groups, strict=True))


def by_levels(analysis: Analysis) -> dict[str, Analysis]:
    """The analysis of the folds of each combination of the factors' levels. What is of the whole run stands in the
    first."""
    folds = together(analysis.folds, lambda fold: fold.levels) or {"": []}
    whole = {"divergence": (), "sensitivity": ()}
    return {
        levels: analysis.model_copy(update={"folds": tuple(of_levels), **(whole if number else {})})
        for number, (levels, of_levels) in enumerate(folds.items())
    }


def _sections(shown: Analysis) -> tuple[Section, ...]:
    scope, records = shown.scope, shown.of_folds
    return (
        mismatch.section(records("mismatch"), scope),
        optimisation.section(records("curves"), scope),
        beside_the_paper.section(shown.folds, scope),
        entropy.section([(fold.name, fold.entropy, fold.overlap) for fold in shown.folds], scope),
        divergence.section(shown.divergence, scope),
        faithfulness.section(records("variants"), scope),
        sensitivity.section(shown.sensitivity, scope),
    )


def summary_of(analysis: Analysis) -> str:
    """What stands out, over folds, a line each, for a terminal; the rest is in the file and on the page."""
    lines = []
    for levels, of_levels in by_levels(analysis).items():
        records = of_levels.of_folds
        own = [
            *probabilities.summary(records("moved")),
            *mismatch.summary(records("mismatch")),
            *faithfulness.summary(records("variants")),
        ]
        lines += [f"{levels}: {line}" if levels else line for line in own]
        lines += [of_levels.scope.spread] if own else []
    lines += [*divergence.summary(analysis.divergence), *sensitivity.summary(analysis.sensitivity)]
    return "\n".join(lines) or "nothing was measured"
