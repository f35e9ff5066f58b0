"""The valley of the validation loss, and the mean of the weights in it."""

import numpy as np
import pytest
import torch

from throughline.baselines.settings import SwadSettings
from throughline.baselines.swad import RunningMean, loss_valley


@pytest.mark.parametrize(
    ("losses", "segments"),
    [
        ([3, 2, 1, 2, 3, 4, 5, 6, 7, 8], [2, 3]),  # the mean of 1, 2, 3 and 30 % more is 2.6
        ([3, 2, 1, 2, 3, 9, 9, 9, 9, 2, 9], [2, 3, 4, 5, 6, 7, 8, 9]),  # at most five in a row are too high
        ([3, 2, 1, 1, 1, 1, 1, 1], [2, 3, 4, 5, 6, 7]),
        ([5, 4, 3, 2, 1], [4]),  # still falling: the last one
        ([1, 2], [1]),  # too few
    ],
)
def test_the_valley_is_between_the_first_plateau_and_the_rise_behind_it(losses, segments):
    assert list(loss_valley(losses, SwadSettings())) == segments


def test_a_lower_tolerance_ends_it_sooner():
    losses = [3, 2, 1, 2, 3, 9, 9, 9, 9, 2, 9]
    assert list(loss_valley(losses, SwadSettings(tolerance=2))) == [2, 3]


def test_a_mean_of_segments_is_the_plain_mean_of_all_stored_weights():
    stored = np.random.default_rng(0).normal(size=(12, 5))
    steps = [{"weight": torch.tensor(row), "batches": torch.tensor(number)} for number, row in enumerate(stored)]
    whole = RunningMean()
    for begin, end in ((0, 5), (5, 9), (9, 12)):
        segment = RunningMean()
        for state in steps[begin:end]:
            segment.add(state)
        whole.add(segment.state, end - begin)
    assert whole.state["weight"].numpy() == pytest.approx(stored.mean(axis=0))
    assert int(whole.state["batches"]) == 11
