"""Counting right answers: per class, balanced, as a confusion table. An answer that could not be parsed is the class
index -1: it is wrong, and it has a column of its own. Called by reporting."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

NO_ANSWER = -1


def confusion_counts(true: ArrayLike, predicted: ArrayLike, class_count: int) -> NDArray[np.int64]:
    """Counts `(class_count, class_count + 1)`: a row per true class, the last column no answer.

    `true` and `predicted` are `(samples,)` of class indices; `predicted` may hold -1 for no answer.
    """
    true, predicted = _paired_indices(true, predicted)
    if true.size and (true.min() < 0 or true.max() >= class_count):
        raise ValueError(f"a true class lies outside 0..{class_count - 1}")
    if predicted.size and (predicted.min() < NO_ANSWER or predicted.max() >= class_count):
        raise ValueError(f"a predicted class lies outside -1..{class_count - 1}")
    columns = np.where(predicted == NO_ANSWER, class_count, predicted)
    flat = np.bincount(true * (class_count + 1) + columns, minlength=class_count * (class_count + 1))
    return flat.reshape(class_count, class_count + 1).astype(np.int64)


def per_class_accuracy(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Recall of each class `(class_count,)` from `confusion_counts`; a class without samples is NaN."""
    totals = confusion.sum(axis=1)
    right = np.diagonal(confusion[:, : confusion.shape[0]])
    recalls = np.full(len(totals), np.nan)
    np.divide(right, totals, out=recalls, where=totals > 0)
    return recalls


def balanced_accuracy(confusion: NDArray[np.int64]) -> float:
    """Mean recall over the classes that have samples, so that a large class does not hide a small one."""
    recalls = per_class_accuracy(confusion)
    if np.isnan(recalls).all():
        raise ValueError("balanced accuracy of no samples")
    return float(np.nanmean(recalls))


def _paired_indices(true: ArrayLike, other: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    first, second = np.asarray(true, dtype=np.int64), np.asarray(other, dtype=np.int64)
    if first.ndim != 1 or first.shape != second.shape:
        raise ValueError(f"expected two vectors of one length, got {first.shape} and {second.shape}")
    return first, second
