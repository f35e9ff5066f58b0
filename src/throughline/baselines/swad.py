"""SWAD, dense averaging of weights over a valley of the validation loss (arXiv 2102.08604).

The weights after each step enter a mean; its segments lie between checkpoints. The valley is the paper's (appendix
B.4), found when all losses are known; khanrc/swad, which decides on the way, also takes segments before its start and
repeats some.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean

import torch
from torch import Tensor

from throughline.baselines.settings import SwadSettings


def loss_valley(losses: Sequence[float], settings: SwadSettings) -> range:
    """The segments to average, by their numbers; `losses` are those at the end of each.

    The valley begins where a loss is the lowest of `converge` in a row, and ends before `tolerance` in a row are above
    their mean by more than `tolerance_ratio`. Without a valley it is the last segment.
    """
    for start in range(len(losses) - settings.converge + 1):
        window = losses[start : start + settings.converge]
        if losses[start] == min(window):
            limit = fmean(window) * (1 + settings.tolerance_ratio)
            end = start
            while end < len(losses) and min(losses[end : end + settings.tolerance]) <= limit:
                end += 1
            return range(start, end)
    return range(len(losses) - 1, len(losses))


class RunningMean:
    """The mean of several states of a model; of what is no number with a fraction the last one."""

    def __init__(self) -> None:
        self.count, self.state = 0, dict[str, Tensor]()

    def add(self, state: Mapping[str, Tensor], count: int = 1) -> None:
        """Adds a state that is the mean of `count`."""
        self.count += count
        for name, value in state.items():
            before = self.state.get(name, value)
            fractional = torch.is_floating_point(value)
            self.state[name] = before.lerp(value, count / self.count) if fractional else value.clone()
