"""Rows of a bench for a person."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from throughline.benchmarks.timing import BenchRow


def print_table(rows: Sequence[BenchRow]) -> None:
    """Medians, ratios and, below, the settings that all rows share."""
    from rich.console import Console
    from rich.table import Table

    # Off a terminal nothing is folded to 80 columns: there the reader is a file or a program.
    console = Console() if sys.stdout.isatty() else Console(width=4096)
    table = Table(
        title="medians (first to third quartile); ratio: rival over ours; of memory and rates ours over rival"
    )
    for heading in ("benchmark", "rival", "unit"):
        table.add_column(heading)
    for heading in ("ours", "theirs", "ratio", "predicted", "share of it"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*_cells(row))
    console.print(table)
    console.print("; ".join(f"{name} {value}" for name, value in _common_settings(rows).items()))


def _cells(row: BenchRow) -> tuple[str, ...]:
    def timed(value: float, spread: tuple[float, float]) -> str:
        return f"{value:.3f} ({spread[0]:.3f}–{spread[1]:.3f})"

    predicted, share = "", ""
    if row.predicted_ratio is not None:
        predicted, share = f"{row.predicted_ratio:.2f}", f"{row.ratio / row.predicted_ratio:.0%}"
    ours, rival = timed(row.ours_value, row.ours_spread), timed(row.rival_value, row.rival_spread)
    return row.name, row.rival, row.unit, ours, rival, f"{row.ratio:.2f}", predicted, share


def _common_settings(rows: Sequence[BenchRow]) -> dict[str, Any]:
    """The settings that are the same in every row."""
    first, *rest = (row.settings for row in rows)
    return {name: value for name, value in first.items() if all(other.get(name) == value for other in rest)}
