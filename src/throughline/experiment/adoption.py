"""What one run has trained, taken over by another that only asks. Called by `run_experiment`."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from throughline.core.errors import ThroughlineError
from throughline.experiment.plan import ASKED_OF
from throughline.runs.folder import (
    DONE,
    METRICS,
    PREDICTIONS,
    UNIT,
    begin_unit,
    finish_unit,
    input_changes,
    is_done,
    listed_changes,
    write_metrics,
)
from throughline.runs.reader import UnitFolder, read_run
from throughline.runs.unit import VALIDATE, Unit

ASKS_ONLY = ASKED_OF | {"kind", "answering", "format"}
"""Inputs of a unit that do not change what it trains."""
NOT_TAKEN = shutil.ignore_patterns(UNIT, DONE, METRICS, PREDICTIONS, "round-*", "stage-*")


def adopt_trained(units: Sequence[Unit], run_folder: Path, other: Path) -> None:
    """Puts what the finished units of the run in `other` have trained into the folders of those that would train it
    again; these are done then. ThroughlineError for one that was not trained there, or from other inputs."""
    finished = {own.unit.identity[1:]: own for own in read_run(other).units.values() if own.done}
    adopted = dict[str, UnitFolder]()
    for unit in units:
        if unit.kind != VALIDATE:
            continue
        theirs = finished.get(unit.identity[1:])
        if theirs is None:
            raise ThroughlineError(f"this run has no finished unit {unit.slug}", other, "finish it, or name its config")
        adopted[unit.name] = theirs
        needs = {role: adopted[name].name for role, name in unit.needs.items()}
        if changes := input_changes(_trained(theirs.unit, theirs.unit.needs), _trained(unit, needs)):
            what = f"{theirs.name} was trained from other inputs ({listed_changes(changes)})"
            raise ThroughlineError(what, other, "undo the change, or name the config to train anew")
        if not is_done(run_folder, unit):
            folder = begin_unit(run_folder, unit)
            shutil.copytree(theirs.folder, folder, ignore=NOT_TAKEN, dirs_exist_ok=True)
            write_metrics(folder, [])
            finish_unit(run_folder, unit)


def _trained(unit: Unit, needs: Mapping[str, str]) -> dict[str, Any]:
    """What the weights of a unit depend on, with the units that it needs by their names."""
    return {name: value for name, value in unit.inputs.items() if name not in ASKS_ONLY} | {"needs": dict(needs)}
