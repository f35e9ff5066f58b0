"""The lines of a run as pandas frames, for tables that are group-bys and for whoever computes further in a notebook.

Every frame begins with the columns that say what unit a row is of: `unit, dataset, model, target, method, seed`, then
one column for each factor of the run, under the factor's name (None where a unit does not have it).

    results      one row for each results line: round (missing: the finished unit), answer, split, n, correct, accuracy,
                 unparsed, errors, seconds, balanced_accuracy, macro_f1, copied (missing where the line has none)
    predictions  one row for each answer of a finished unit: sample_id, domain, labels (a tuple), answer, predicted,
                 outcome, correct, confidence, probabilities (a tuple in the order of the classes, or None), text
    training     one row for each logged optimiser step and part of the loss: stage, round, step, epoch, lr, part
                 (`loss` is the sum), loss, class_probability
    rounds       one row for each round of self-labelling: round, sampled, accepted, trained, unpaired, adapter_changed,
                 outcomes
    units        one row for each unit: kind, done, steps, images, images_with_chain; parameters that were trained,
                 training images_a_second, seconds in all, of an evaluation those of the training that it asks about
                 included, dollars (missing where that is not known)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any

import pandas as pd

from throughline.runs.records import CLASS_MEASURES, COPIED, COST_COLUMNS, ResultsLine, TrainingLine
from throughline.runs.unit import Unit

if TYPE_CHECKING:
    from throughline.runs.reader import Run, UnitFolder

OF_UNIT = ("unit", "dataset", "model", "target", "method", "seed")
RESULTS = ("round", "answer", "split", "n", "correct", "accuracy", "unparsed", "errors", "seconds")
OF_ANSWER = ("answer", "predicted", "outcome", "correct", "confidence", "probabilities", "text")
PREDICTIONS = ("sample_id", "domain", "labels", *OF_ANSWER)
TRAINING = ("stage", "round", "step", "epoch", "lr", "part", "loss", "class_probability")
UNIT_COLUMNS = ("kind", "done", "steps", "images", "images_with_chain", *COST_COLUMNS)
ROUNDS = ("round", "sampled", "accepted", "trained", "unpaired", "adapter_changed", "outcomes")


@dataclass(frozen=True)
class Frames:
    """The frames of a run; each is made when it is first asked for, and then kept."""

    run: Run

    @cached_property
    def factors(self) -> tuple[str, ...]:
        """The names of all factors of the run's units, sorted."""
        of_units = (folder.unit.factors for folder in self.run.units.values())
        of_results = (line.factors for line in self.run.results)
        return tuple(sorted({name for factors in (*of_units, *of_results) for name in factors}))

    @cached_property
    def results(self) -> pd.DataFrame:
        """One row for each results line."""
        rows = ((*self._keys(line.unit, line), *_values(line, RESULTS)) for line in self.run.results)
        measures = {name: [line.metrics.get(name) for line in self.run.results] for name in (*CLASS_MEASURES, COPIED)}
        types = {"round": "Int64", **dict.fromkeys(measures, "float64")}
        return self._frame(RESULTS, rows).assign(**measures).astype(types)

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """One row for each answer of a finished unit."""
        return self._of_units(PREDICTIONS, lambda unit: (_values(line, PREDICTIONS) for line in unit.predictions()))

    @cached_property
    def training(self) -> pd.DataFrame:
        """One row for each logged optimiser step and part of the loss."""
        return self._of_units(TRAINING, lambda unit: chain.from_iterable(map(_parts, unit.training)))

    @cached_property
    def rounds(self) -> pd.DataFrame:
        """One row for each round of self-labelling."""
        return self._of_units(ROUNDS, lambda unit: (_values(line, ROUNDS) for line in unit.rounds))

    @cached_property
    def units(self) -> pd.DataFrame:
        """One row for each unit."""
        frame = self._of_units(UNIT_COLUMNS, lambda unit: [(unit.unit.kind, *_values(unit, UNIT_COLUMNS[1:]))])
        whole, shares = UNIT_COLUMNS[2:6], UNIT_COLUMNS[6:]
        return frame.astype(dict.fromkeys(whole, "Int64") | dict.fromkeys(shares, "float64"))

    def _of_units(
        self, columns: tuple[str, ...], lines: Callable[[UnitFolder], Iterable[tuple[Any, ...]]]
    ) -> pd.DataFrame:
        """The lines of all units, by name of the unit."""
        rows = (
            (*self._keys(name, self._lines.get(name, unit.unit)), *line)
            for name, unit in self.run.units.items()
            for line in lines(unit)
        )
        return self._frame(columns, rows)

    @cached_property
    def _lines(self) -> dict[str, ResultsLine]:
        """A results line of each unit: it has today's names of image set and model, unit.json those of its making."""
        return {line.unit: line for line in self.run.results}

    def _keys(self, name: str, about: Unit | ResultsLine) -> tuple[Any, ...]:
        own = (about.dataset, about.model, "+".join(about.targets), about.method, about.seed)
        return (name, *own, *(about.factors.get(factor) for factor in self.factors))

    def _frame(self, columns: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> pd.DataFrame:
        table = list(rows)
        frame = pd.DataFrame(table, columns=[*OF_UNIT, *self.factors, *columns])
        # a factor's levels stay what they are where some units lack it: 4, not 4.0
        levels = {name: [row[frame.columns.get_loc(name)] for row in table] for name in self.factors}
        return frame.assign(**{name: pd.Series(values, dtype=object) for name, values in levels.items()})


def _values(line: object, names: tuple[str, ...]) -> tuple[Any, ...]:
    return tuple(getattr(line, name) for name in names)


def _parts(line: TrainingLine) -> Iterator[tuple[Any, ...]]:
    """Rows of TRAINING: the whole loss, then each part with the probability of its class tokens."""
    step = _values(line, TRAINING[:5])
    yield *step, "loss", line.loss, None
    for part in dict.fromkeys((*line.losses, *line.class_probability)):
        yield *step, part, line.losses.get(part), line.class_probability.get(part)
