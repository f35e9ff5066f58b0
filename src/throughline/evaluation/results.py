"""Predictions to results lines: one line per answer and split, with the measures that count every class alike, and with
calibration where there are probabilities."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from throughline.chains.outcomes import Outcome
from throughline.metrics.calibration import expected_calibration_error, negative_log_likelihood
from throughline.runs.records import Prediction, ResultsLine
from throughline.runs.unit import Unit


def results_lines(
    predictions: Sequence[Prediction],
    classes: Sequence[str],
    splits: Mapping[str, Collection[str] | None],
    unit: Unit,
    seconds: Mapping[str, float],
    after_round: int | None = None,
) -> list[ResultsLine]:
    """A line for each answer of a unit, finished or `after_round`, and each split that has samples. `splits` gives the
    sample ids of each, None for all; `seconds` those that each answer took. `n` is every planned sample: an unparsed or
    failed answer is a wrong one."""
    lines = []
    for answer in dict.fromkeys(p.answer for p in predictions):
        for split, ids in splits.items():
            chosen = [p for p in predictions if p.answer == answer and (ids is None or p.sample_id in ids)]
            if not chosen:
                continue
            correct = sum(p.correct for p in chosen)
            line = ResultsLine(
                unit=unit.name,
                dataset=unit.dataset,
                model=unit.model,
                targets=unit.targets,
                method=unit.method,
                seed=unit.seed,
                factors=unit.factors,
                round=after_round,
                answer=answer,
                split=split,
                n=len(chosen),
                correct=correct,
                accuracy=correct / len(chosen),
                metrics=_class_measures(chosen)
                | _macro_auc(chosen, classes)
                | _calibration(chosen, classes)
                | _agreement(chosen, predictions),
                unparsed=sum(p.predicted is None and p.outcome != Outcome.ERROR for p in chosen),
                errors=sum(p.outcome == Outcome.ERROR for p in chosen),
                seconds=round(seconds.get(answer, 0.0), 3),
            )
            lines.append(line)
    return lines


def _class_measures(chosen: Sequence[Prediction]) -> dict[str, float]:
    """CLASS_MEASURES: mean recall and mean F1 over the classes that the samples show, each class by itself where a
    sample has several. An answer without a class costs its sample's classes recall and no class precision, and so does
    a class that no sample shows."""
    if not any(p.labels for p in chosen):
        return {}
    labels = sorted({label for p in chosen for label in p.labels})
    said = [p.classes_named for p in chosen]
    sides = [p.labels for p in chosen], said
    true, given = (np.array([[label in own for label in labels] for own in side]) for side in sides)
    right, shown, named = (counted.sum(axis=0) for counted in (true & given, true, given))
    return {"balanced_accuracy": float((right / shown).mean()), "macro_f1": float((2 * right / (shown + named)).mean())}


def _macro_auc(chosen: Sequence[Prediction], classes: Sequence[str]) -> dict[str, float]:
    """Of samples that may have several labels: how well the probability of a class ranks those that have it above those
    that do not, the mean over the classes that some have and some do not."""
    rows = [p for p in chosen if p.probabilities is not None]
    if all(len(p.labels) == 1 for p in rows):
        return {}
    from sklearn.metrics import roc_auc_score

    true = np.array([[name in p.labels for name in classes] for p in rows])
    given = np.array([p.probabilities for p in rows])
    told = np.flatnonzero(true.any(axis=0) & ~true.all(axis=0))
    areas = [roc_auc_score(true[:, place], given[:, place]) for place in told]
    return {"macro_auc": float(np.mean(areas))} if areas else {}


def _calibration(chosen: Sequence[Prediction], classes: Sequence[str]) -> dict[str, float]:
    rows = [p for p in chosen if p.probabilities is not None and len(p.labels) == 1]
    if not rows:
        return {}
    probabilities = np.array([p.probabilities for p in rows])
    true = np.array([classes.index(p.labels[0]) for p in rows])
    return {
        "ece": round(expected_calibration_error(probabilities.max(axis=1), [p.correct for p in rows]), 6),
        "nll": round(negative_log_likelihood(probabilities, true), 6),
    }


def _agreement(chosen: Sequence[Prediction], predictions: Sequence[Prediction]) -> dict[str, float]:
    """Share of the reasoning path's answers that the label path gives too."""
    if chosen[0].answer != "reasoning":
        return {}
    label = {p.sample_id: p.predicted for p in predictions if p.answer == "label"}
    both = [p for p in chosen if p.sample_id in label]
    if not both:
        return {}
    same = sum(p.predicted is not None and p.predicted == label[p.sample_id] for p in both)
    return {"agrees_with_label": same / len(both)}
