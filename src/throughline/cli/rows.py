"""A unit's results as a row for the screen, in columns with the rows of the other units. Called by `progress`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from throughline.cli.text import counted
from throughline.runs.folder import unit_results
from throughline.runs.order import ANSWER_ORDER, in_order

if TYPE_CHECKING:
    from throughline.experiment.engine.local import Progress
    from throughline.runs.unit import Unit


def measured_rows(state: Progress, shown: int) -> list[str]:
    """The rows of the units that are done, but for the first `shown` of them; a unit that measures nothing has none.

    `sketch  cls  seed 0   label  43.0  reasoning  41.7   (300 images, chance 8.3)`: accuracy in percent on the whole
    target, then what guessing would give.
    """
    several = len(state.job.sets) > 1
    columns = zip(*(_names(unit, several) for unit in state.units), strict=True)
    widths = [max(map(len, column)) for column in columns]
    rows = []
    for unit in state.done[shown:]:
        lines = unit_results(state.job.run_folder, unit)
        whole = {line.answer: line for line in lines if line.split == "all" and line.round is None}
        if not whole:
            continue
        names = (name.ljust(width) for name, width in zip(_names(unit, several), widths, strict=True) if width)
        said = (f"{answer} {100 * whole[answer].accuracy:5.1f}" for answer in in_order(whole, ANSWER_ORDER))
        asked = counted(next(iter(whole.values())).n, "image")
        rows.append(f"{'  '.join(names)}   {'  '.join(said)}   ({asked}{_chance(state, unit)})")
    return rows


def _names(unit: Unit, several_sets: bool) -> tuple[str, ...]:
    """What tells it from the other units; empty where there is no such thing."""
    factors = ", ".join(f"{name}={level}" for name, level in sorted(unit.factors.items()))
    return unit.dataset * several_sets, "+".join(unit.targets), unit.method, factors, f"seed {unit.seed}"


def _chance(state: Progress, unit: Unit) -> str:
    """Unknown where a sample may have several labels."""
    images = next(images for images in state.job.sets if images.name == unit.dataset)
    single = all(len(sample.labels) == 1 for sample in images.samples)
    return f", chance {100 / len(images.classes):.1f}" if single else ""
