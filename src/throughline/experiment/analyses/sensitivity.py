"""What a setting is worth, from runs that are there: the rounds of one, and the config keys in which several differ."""

import itertools
from collections.abc import Iterator, Sequence

from throughline.analysis.records import Missing
from throughline.analysis.sensitivity import Sensitivity, sensitivity
from throughline.core.nested import flattened
from throughline.experiment.analyses.subject import AnalyzedUnit, Folds, Levels, fold_units, inputs_of, read_config
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


def rounds_varied(run: Run) -> Iterator[Sensitivity]:
    """Accuracy after each round, each against the round before, every method with rounds and way of answering."""
    for method, answer, right in rounds_right(run):
        varied = sensitivity("rounds", method, answer, right, against_previous=True)
        if varied is not None:
            yield varied


def rounds_right(run: Run) -> Iterator[tuple[str, str, dict[str, Runs]]]:
    """Method, way of answering, and by round, 0 being where the rounds start, the right answers by target and seed; for
    every method with rounds."""
    for levels, folds in fold_units(run).items():
        for method, answer in itertools.product(next(iter(folds.values())), _answers(run)):
            right = _rounds(folds, method, answer)
            if right:
                yield _called(method, levels), answer, right


def runs_varied(runs: Sequence[Run]) -> tuple[list[Sensitivity], list[Missing]]:
    """Several runs set against the first: every method and way of answering that all have, at each combination of
    factors that all have.

    The setting is the config key in which they differ, several keys together where there are more.
    """
    configs = [flattened(read_config(run.folder).model_dump(mode="json")) for run in runs]
    known = dict.fromkeys(key for config in configs for key in config if key not in IGNORED)
    keys = [key for key in known if len({str(config.get(key, UNSAID)) for config in configs}) > 1]
    if not keys:
        return [], [_lacking("their configs are the same")]
    groups = [fold_units(run) for run in runs]
    if len({inputs.get("images") for group in groups for inputs in inputs_of(group)}) > 1:
        return [], [_lacking("their images are not the same: accuracies are compared image by image")]
    names = [", ".join(str(config.get(key, UNSAID)) for key in keys) for config in configs]
    names = [name if name not in names[:i] else f"{name} ({i + 1})" for i, name in enumerate(names)]
    varied = []
    for levels in (levels for levels in groups[0] if all(levels in group for group in groups)):
        folds = dict(zip(names, (group[levels] for group in groups), strict=True))
        shared = set.intersection(*(set(_methods(of_run)) for of_run in folds.values()))
        methods = [method for method in _methods(folds[names[0]]) if method in shared]
        for method, answer in itertools.product(methods, _answers(runs[0])):
            right = {name: _finished(of_run, method, answer) for name, of_run in folds.items()}
            values = {name: of_run for name, of_run in right.items() if all(of_run.values())}
            compared = sensitivity(", ".join(keys), _called(method, levels), answer, values, against_previous=False)
            varied += [] if compared is None else [compared]
    return varied, []


def _methods(folds: Folds) -> list[str]:
    """Those that every fold has, in the order of the first."""
    return [method for method in next(iter(folds.values())) if all(method in units for units in folds.values())]


def _called(method: str, levels: Levels) -> str:
    """A method with the levels of its factors."""
    return ", ".join([method, *(f"{name}={level}" for name, level in levels)])


def _answers(run: Run) -> tuple[str, ...]:
    return in_order((line.answer for line in run.results if line.round is None), ANSWER_ORDER)


def _rounds(folds: Folds, method: str, answer: str) -> dict[str, Runs]:
    values: dict[str, dict[tuple[str, int], list[float]]] = {}
    for (targets, seed), units in folds.items():
        if method not in units or not units[method].method.self_labelled or units[method].folder.unit.asks:
            continue  # the rounds of what only asks have no answers
        unit, key = units[method], ("+".join(targets), seed)
        parent = units.get(unit.method.starts_from or "")
        if parent is not None:
            values.setdefault("0", {})[key] = _right(parent, None, answer)
        for state in unit.rounds:
            values.setdefault(str(state.round), {})[key] = _right(unit, state.round, answer)
    return dict(values)


def _finished(folds: Folds, method: str, answer: str) -> dict[tuple[str, int], list[float]]:
    return {("+".join(targets), seed): _right(units[method], None, answer) for (targets, seed), units in folds.items()}


def _right(unit: AnalyzedUnit, number: int | None, answer: str) -> list[float]:
    """Whether each image was answered right, in the order of their ids."""
    rows = (row for row in unit.folder.predictions(number) if row.answer == answer)
    return [float(row.correct) for row in sorted(rows, key=lambda row: row.sample_id)]


def _lacking(why: str) -> Missing:
    return Missing(what="sensitivity of several runs", why=why, analysis="sensitivity")
