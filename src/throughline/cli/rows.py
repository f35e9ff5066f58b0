"""A unit's results as a row for the screen, in columns with the rows of the other units. Called by `progress`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from throughline.cli.text import counted
from throughline.runs.folder import unit_results
from throughline.runs.order import ANSWER_ORDER, in_order
from throughline.runs.unit import PROBE, Unit

if TYPE_CHECKING:
    from throughline.experiment.engine.local import Progress


def measured_rows(state: Progress, shown: int) -> list[str]:
    """The rows of the units that are done, but for the first `shown` of them; a unit that measures nothing has none.

    `sketch  cls  seed 0   label  43.0  reasoning  41.7   (300 images, chance 8.3)`: accuracy in percent on the whole
    target, then what guessing would give.
    """
    several = len(state.job.sets) > 1, len({unit.model for unit in state.units}) > 1
    columns = zip(*(_names(unit, several) for unit in state.units), strict=True)
    widths = [max(map(len, column)) for column in columns]
    rows = []
    for unit in state.done[shown:]:
        lines = unit_results(state.job.run_folder, unit)
        whole = {line.answer: line for line in lines if line.split == "all" and line.round is None}
        if not whole:
            continue
        names = (name.ljust(width) for name, width in zip(_names(unit, several), widths, strict=True) if width)
        answers = in_order(whole, ANSWER_ORDER)
        if unit.kind == PROBE:  # a dozen points, of which one is in every model
            answers = tuple(answer for answer in answers if answer == f"{PROBE}: tower")
        said = (f"{answer} {100 * whole[answer].accuracy:5.1f}" for answer in answers)
        asked = counted(next(iter(whole.values())).n, "image")
        rows.append(f"{'  '.join(names)}   {'  '.join(said)}   ({asked}{_chance(state, unit)})")
    return rows


def _names(unit: Unit, several: tuple[bool, bool]) -> tuple[str, ...]:
    """What tells it from the other units, of `several` image sets and models; empty where there is no such thing."""
    factors = ", ".join(f"{name}={level}" for name, level in sorted(unit.factors.items()))
    of_many = (name * many for name, many in zip((unit.dataset, unit.model), several, strict=True))
    return *of_many, "+".join(unit.targets), unit.method, factors, f"seed {unit.seed}"


def _chance(state: Progress, unit: Unit) -> str:
    """Unknown where a sample may have several labels."""
    images = next(images for images in state.job.sets if images.name == unit.dataset)
    single = all(len(sample.labels) == 1 for sample in images.samples)
    return f", chance {100 / len(images.classes):.1f}" if single else ""
