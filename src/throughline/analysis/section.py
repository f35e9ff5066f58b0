"""What every analysis makes: a section of the page with its tables and figures, and notes that say what they are of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from throughline.core.plot import Plot
from throughline.core.table import Table
from throughline.drawn import DRAWN_NOTE


@dataclass(frozen=True)
class Scope:
    """What an analysis is of, as far as notes and intervals depend on it."""

    dataset: str
    model: str
    drawn: bool
    folds: int
    targets: int = 1

    @property
    def spread(self) -> str:
        """What stands behind a number, for a table's notes."""
        if self.folds == 1:
            return "95 % bootstrap intervals over images."
        return f"Mean ± standard error over {self.folds} folds (targets and seeds)."

    def notes(self, *notes: str) -> tuple[str, ...]:
        """Notes with what has to stand under every table of the drawn world."""
        return (*notes, DRAWN_NOTE) if self.drawn else notes


@dataclass(frozen=True)
class Section:
    """One heading of the page with what stands under it."""

    id: str
    title: str
    intro: str
    tables: tuple[Table, ...] = ()
    figures: tuple[Plot, ...] = ()
    folded: tuple[tuple[str, tuple[Table, ...]], ...] = ()
    """What is shown on demand: a summary line and the tables behind it."""
    finding: str = ""
    """What was found, in a sentence, where one says it."""

    def at_levels(self, levels: str, number: int) -> Section:
        """With tables that name these levels of the run's factors, and figures of the `number`th combination."""
        if not levels:
            return self
        return replace(
            self,
            tables=tuple(replace(table, title=f"{table.title} · {levels}") for table in self.tables),
            figures=tuple(
                replace(plot, name=f"{plot.name}-{number}", description=f"{plot.description} · {levels}")
                for plot in self.figures
            ),
            finding=f"{levels}: {self.finding}" if self.finding else "",
        )


def joined(parts: Sequence[Section]) -> Section:
    """The first section with the tables and figures of all of them that have any rows."""
    return replace(
        parts[0],
        tables=_with_rows(table for part in parts for table in part.tables),
        figures=tuple(plot for part in parts for plot in part.figures if plot.rows),
        folded=tuple((line, _with_rows(tables)) for part in parts for line, tables in part.folded),
        finding=" ".join(part.finding for part in parts if part.finding),
    )


def _with_rows(tables: Iterable[Table]) -> tuple[Table, ...]:
    return tuple(table for table in tables if table.rows)
