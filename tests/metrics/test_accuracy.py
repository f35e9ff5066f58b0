import math

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from throughline.metrics.accuracy import (
    balanced_accuracy,
    confusion_counts,
    per_class_accuracy,
)


def test_confusion_and_recalls_equal_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    true, predicted = rng.integers(5, size=400), rng.integers(5, size=400)
    counts = confusion_counts(true, predicted, 5)
    assert np.array_equal(counts[:, :5], sklearn_metrics.confusion_matrix(true, predicted))
    assert counts[:, 5].sum() == 0
    assert np.allclose(per_class_accuracy(counts), sklearn_metrics.recall_score(true, predicted, average=None))
    assert balanced_accuracy(counts) == pytest.approx(sklearn_metrics.balanced_accuracy_score(true, predicted))


def test_a_missing_answer_has_its_own_column_and_counts_as_wrong() -> None:
    counts = confusion_counts([0, 0, 1], [0, -1, -1], 2)
    assert counts.tolist() == [[1, 0, 1], [0, 0, 1]]
    assert per_class_accuracy(counts).tolist() == [0.5, 0.0]


def test_a_class_without_samples_does_not_enter_the_balanced_accuracy() -> None:
    counts = confusion_counts([0, 2], [0, 1], 3)
    assert math.isnan(per_class_accuracy(counts)[1])
    assert balanced_accuracy(counts) == 0.5


def test_classes_outside_the_list_are_refused() -> None:
    with pytest.raises(ValueError):
        confusion_counts([0, 3], [0, 0], 3)
    with pytest.raises(ValueError):
        confusion_counts([0, 1], [0, 3], 3)
