"""What a setting is worth, from runs that are there: the rounds of one, and the config keys in which several differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from throughline.analysis.records import Missing
from throughline.analysis.sensitivity import Sensitivity, sensitivity
from throughline.core.nested import flattened
from throughline.experiment.analyses.run_subject import FoldKey, fold_units, read_config
from throughline.experiment.analyses.subject import AnalyzedUnit
from throughline.experiment.plan import WITHOUT_EFFECT
from throughline.metrics.intervals import Runs
from throughline.runs.order import ANSWER_ORDER, in_order
from throughline.runs.reader import Run

UNSAID = "default"
"""Stands for a key that a config leaves out at its usual value."""

IGNORED = (
    *("name", "workers", "data.cache_gb", "data.images", "data.name", "model.device", "model.hub"),
    *(f"training.stage.{name}" for name in WITHOUT_EFFECT),
)
"""Keys in which runs may differ without being different experiments."""


Folds = Mapping[FoldKey, Mapping[str, AnalyzedUnit]]


def rounds_varied(run: Run) -> Iterator[Sensitivity]:
    """Accuracy after each round, each against the round before, every method with rounds and way of answering."""
    folds = fold_units(run)
    for method in next(iter(folds.values())):
        for answer in _answers(run):
            varied = sensitivity("rounds", method, answer, _rounds(folds, method, answer), against_previous=True)
            if varied is not None:
                yield varied


def runs_varied(runs: Sequence[Run]) -> tuple[list[Sensitivity], list[Missing]]:
    """Several runs set against the first: every method and way of answering that all have.

    The setting is the config key in which they differ, several keys together where there are more.
    """
    configs = [flattened(read_config(run.folder).model_dump(mode="json")) for run in runs]
    known = dict.fromkeys(key for config in configs for key in config if key not in IGNORED)
    keys = [key for key in known if len({str(config.get(key, UNSAID)) for config in configs}) > 1]
    if not keys:
        return [], [_lacking("their configs are the same")]
    if len({unit.unit.inputs.get("images") for run in runs for unit in run.units.values()}) > 1:
        return [], [_lacking("their images are not the same: accuracies are compared image by image")]
    names = [", ".join(str(config.get(key, UNSAID)) for key in keys) for config in configs]
    names = [name if name not in names[:i] else f"{name} ({i + 1})" for i, name in enumerate(names)]
    folds = {name: fold_units(run) for name, run in zip(names, runs, strict=True)}
    first = next(iter(folds[names[0]].values()))
    shared = [method for method in first if all(any(method in f for f in of.values()) for of in folds.values())]
    varied = []
    for method in shared:
        for answer in _answers(runs[0]):
            right = {name: _finished(of_run, method, answer) for name, of_run in folds.items()}
            values = {name: of_run for name, of_run in right.items() if of_run and all(of_run.values())}
            compared = sensitivity(", ".join(keys), method, answer, values, against_previous=False)
            varied += [] if compared is None else [compared]
    return varied, []


def _answers(run: Run) -> tuple[str, ...]:
    return in_order((line.answer for line in run.results if line.round is None), ANSWER_ORDER)


def _rounds(folds: Folds, method: str, answer: str) -> dict[str, Runs]:
    values: dict[str, dict[tuple[str, int], list[float]]] = {}
    for (targets, seed), units in folds.items():
        unit = units.get(method)
        if unit is None or not unit.method.self_labelled:
            continue
        key = ("+".join(targets), seed)
        parent = units.get(unit.method.starts_from or "")
        if parent is not None:
            values.setdefault("0", {})[key] = _right(parent, None, answer)
        for state in unit.rounds:
            values.setdefault(str(state.round), {})[key] = _right(unit, state.round, answer)
    return {value: dict(right) for value, right in values.items()}


def _finished(folds: Folds, method: str, answer: str) -> dict[tuple[str, int], list[float]]:
    return {
        ("+".join(targets), seed): _right(units[method], None, answer)
        for (targets, seed), units in folds.items()
        if method in units
    }


def _right(unit: AnalyzedUnit, number: int | None, answer: str) -> list[float]:
    """Whether each image was answered right, in the order of their ids."""
    rows = (row for row in unit.folder.predictions(number) if row.answer == answer)
    return [float(row.correct) for row in sorted(rows, key=lambda row: row.sample_id)]


def _lacking(why: str) -> Missing:
    return Missing(what="sensitivity of several runs", why=why, analysis="sensitivity")
