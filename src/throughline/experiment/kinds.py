"""The kinds of units, and who executes each. Free of torch: an executor is imported in the worker that needs it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from throughline.domains.samples import ImageSet
from throughline.experiment.config import RunConfig
from throughline.runs.folder import unit_folder
from throughline.runs.unit import Unit

FOLD, EVALUATE, FINAL = "fold", "evaluate", "final"

EXECUTORS: dict[str, str] = {
    FOLD: "throughline.experiment.executors:execute_fold",
    EVALUATE: "throughline.experiment.executors:execute_evaluation",
    FINAL: "throughline.experiment.executors:execute_final",
}
"""`module:function` of each kind, called with a `Task`: trains on the sources and measures on the targets; measures
without training; trains on all images without measuring."""


@dataclass(frozen=True)
class Task:
    """A unit with what its executor reads: the config with the unit's image set and factors applied, the images, and
    the run folder with the unit's folder in it."""

    unit: Unit
    config: RunConfig
    images: ImageSet
    run_folder: Path
    chains: Path
    """The folder of the image set's accepted chains; it need not be there."""
    report_progress: Callable[[str], None]

    @property
    def folder(self) -> Path:
        """Where everything that the executor writes lies."""
        return unit_folder(self.run_folder, self.unit)

    def needed(self, role: str) -> Path | None:
        """The folder of the unit that this one needs in a role (`start`, `steps`), None where it needs none."""
        name = self.unit.needs.get(role)
        return None if name is None else unit_folder(self.run_folder, name)
