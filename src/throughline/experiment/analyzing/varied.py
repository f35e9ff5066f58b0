"""What a setting is worth, from runs that are there: the rounds of one, and the config key that several differ in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from throughline.analysis.records import Missing, Sensitivity
from throughline.analysis.sensitivity import sensitivity
from throughline.experiment.analyzing.run_states import AnalyzedRun, FinishedUnit, RunFold
from throughline.metrics.intervals import Runs

IGNORED = ("name", "workers", "data.cache_gb", "model.device")
"""Keys in which runs may differ without being different experiments."""


def rounds_varied(run: AnalyzedRun) -> Iterator[Sensitivity]:
    """Accuracy after each round, each against the round before, every family and way of answering."""
    methods = [name for name in run.folds[0].units if run.folds[0].units[name].method.self_labelled]
    for method in methods:
        for answer in run.config.evaluation.answering.answers:
            found = sensitivity("rounds", method, answer, _rounds(run.folds, method, answer), against_previous=True)
            if found is not None:
                yield found


def _rounds(folds: Sequence[RunFold], method: str, answer: str) -> dict[str, Runs]:
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


def runs_varied(runs: Sequence[AnalyzedRun]) -> tuple[list[Sensitivity], list[Missing]]:
    """Several runs that differ in one key of their configs: every method and way of answering that all have."""
    configs = [_flat(run.config.model_dump(mode="json")) for run in runs]
    keys = [key for key in configs[0] if any(config.get(key) != configs[0][key] for config in configs)]
    keys = [key for key in keys if key not in IGNORED]
    if len(keys) != 1:
        why = f"they differ in {', '.join(keys)}" if keys else "their configs are the same"
        return [], [Missing(what="sensitivity of several runs", why=why)]
    (key,) = keys
    found = []
    shared = [name for name in runs[0].folds[0].units if all(any(name in f.units for f in run.folds) for run in runs)]
    for method in shared:
        for answer in runs[0].config.evaluation.answering.answers:
            values = {
                str(config[key]): {
                    ("+".join(fold.targets), fold.seed): _right(fold.units[method], None, answer)
                    for fold in run.folds
                    if method in fold.units
                }
                for run, config in zip(runs, configs, strict=True)
            }
            one = sensitivity(key, method, answer, values, against_previous=False)
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
