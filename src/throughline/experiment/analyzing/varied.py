"""What a setting is worth, from runs that are there: the rounds of one, and the config keys in which several differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from throughline.analysis.records import Missing, Sensitivity
from throughline.analysis.sensitivity import sensitivity
from throughline.experiment.analyzing.finished_units import FinishedRun, FinishedUnit, FoldUnits
from throughline.experiment.plan import WITHOUT_EFFECT
from throughline.metrics.intervals import Runs

UNSAID = "default"
"""Stands for a key that a config leaves out at its usual value."""

IGNORED = (
    *("name", "workers", "data.cache_gb", "data.images", "data.name", "model.device", "model.hub"),
    *(f"training.stage.{name}" for name in WITHOUT_EFFECT),
)
"""Keys in which runs may differ without being different experiments."""


def rounds_varied(run: FinishedRun) -> Iterator[Sensitivity]:
    """Accuracy after each round, each against the round before, every family and way of answering."""
    methods = [name for name in run.folds[0].units if run.folds[0].units[name].method.self_labelled]
    for method in methods:
        for answer in run.config.evaluation.answering.answers:
            found = sensitivity("rounds", method, answer, _rounds(run.folds, method, answer), against_previous=True)
            if found is not None:
                yield found


def _rounds(folds: Sequence[FoldUnits], method: str, answer: str) -> dict[str, Runs]:
    values: dict[str, dict[tuple[str, int], list[float]]] = {}
    for fold in folds:
        unit = fold.units.get(method)
        parent = fold.units.get(unit.method.starts_from or "") if unit is not None else None
        if unit is None:
            continue
        key = ("+".join(fold.targets), fold.seed)
        if parent is not None:
            values.setdefault("0", {})[key] = _right(parent, None, answer)
        for state in unit.rounds():
            values.setdefault(str(state.round), {})[key] = _right(unit, state.round, answer)
    return {value: dict(runs) for value, runs in values.items()}


def _right(unit: FinishedUnit, number: int | None, answer: str) -> list[float]:
    """Whether each image was answered right, in the order of their ids."""
    rows = sorted(
        (row for row in unit.predictions(number) if row["answer"] == answer), key=lambda r: str(r["sample_id"])
    )
    return [float(row["predicted"] in row["labels"]) for row in rows]


def runs_varied(runs: Sequence[FinishedRun]) -> tuple[list[Sensitivity], list[Missing]]:
    """Several runs set against the first: every method and way of answering that all have.

    The setting is the config key in which they differ, several keys together where there are more.
    """
    configs = [_flat(run.config.model_dump(mode="json")) for run in runs]
    known = dict.fromkeys(key for config in configs for key in config if key not in IGNORED)
    keys = [key for key in known if len({str(config.get(key, UNSAID)) for config in configs}) > 1]
    if not keys:
        return [], [
            Missing(what="sensitivity of several runs", why="their configs are the same", analysis="sensitivity")
        ]
    if len({name for run in runs for name in run.images}) > 1:
        why = "their images are not the same: accuracies are compared image by image"
        return [], [Missing(what="sensitivity of several runs", why=why, analysis="sensitivity")]
    names = [", ".join(str(config.get(key, UNSAID)) for key in keys) for config in configs]
    names = [name if name not in names[:i] else f"{name} ({i + 1})" for i, name in enumerate(names)]
    found = []
    shared = [name for name in runs[0].folds[0].units if all(any(name in f.units for f in run.folds) for run in runs)]
    for method in shared:
        for answer in runs[0].config.evaluation.answering.answers:
            found_by_name = {
                name: {
                    ("+".join(fold.targets), fold.seed): _right(fold.units[method], None, answer)
                    for fold in run.folds
                    if method in fold.units
                }
                for run, name in zip(runs, names, strict=True)
            }
            values = {name: right for name, right in found_by_name.items() if right and all(right.values())}
            one = sensitivity(", ".join(keys), method, answer, values, against_previous=False)
            found += [] if one is None else [one]
    return found, []


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            found |= _flat(inner, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = inner
    return found
