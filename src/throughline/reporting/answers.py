"""What every finished unit answered, image by image and path beside path, without texts: what confusion tables,
calibration and abstention are counted from. Called by `confusion` and `confidence`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from throughline.reporting.runs import Prediction, Run
from throughline.reporting.summaries import ANSWER_ORDER, METHOD_ORDER, Group, in_order


@dataclass(frozen=True)
class UnitAnswers:
    """One unit's final answers to its target's images, in the order of their ids."""

    method: str
    target: str
    seed: int
    labels: tuple[tuple[str, ...], ...]
    predicted: Mapping[str, tuple[str | None, ...]]
    """By answer path, in ANSWER_ORDER; a path that left some image out is not here."""
    confidence: NDArray[np.float64] | None
    """Of the likelihood path; None where it was not asked or gave no probabilities."""

    def correct(self, answer: str) -> NDArray[np.bool_]:
        """Whether the path is right, image by image."""
        pairs = zip(self.predicted[answer], self.labels, strict=True)
        return np.array([predicted in labels for predicted, labels in pairs], dtype=bool)


def read_answers(run: Run, group: Group) -> tuple[UnitAnswers, ...]:
    """Every unit of the group that has predictions; methods in their order, then targets and seeds."""
    lines = {line.unit: line for line in run.results if line.round is None and group.holds(line)}
    order = in_order((line.method for line in lines.values()), METHOD_ORDER)
    found = []
    for name in sorted(lines, key=lambda name: (order.index(lines[name].method), lines[name].target, lines[name].seed)):
        if name in run.units:
            one = _unit(run.units[name].predictions(), lines[name].method, lines[name].target, lines[name].seed)
            found += [] if one is None else [one]
    return tuple(found)


def _unit(predictions: tuple[Prediction, ...], method: str, target: str, seed: int) -> UnitAnswers | None:
    by_answer: dict[str, dict[str, Prediction]] = {}
    for prediction in predictions:
        by_answer.setdefault(prediction.answer, {})[prediction.sample_id] = prediction
    samples = {sample_id: one.labels for found in by_answer.values() for sample_id, one in found.items()}
    ids = sorted(samples)
    whole = [answer for answer in in_order(by_answer, ANSWER_ORDER) if len(by_answer[answer]) == len(ids)]
    if not ids or not whole:
        return None
    confidences = [by_answer["likelihood"][name].confidence for name in ids] if "likelihood" in whole else [None]
    return UnitAnswers(
        method=method,
        target=target,
        seed=seed,
        labels=tuple(samples[name] for name in ids),
        predicted={answer: tuple(by_answer[answer][name].predicted for name in ids) for answer in whole},
        confidence=None if None in confidences else np.array(confidences, dtype=np.float64).clip(0, 1),
    )
