import numpy as np
import pytest
from numpy.typing import NDArray

from throughline.metrics.intervals import Interval, hierarchical_bootstrap
from throughline.metrics.paired import holm, paired_difference

Flags = NDArray[np.bool_]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def two_methods(gain: float, seed: int = 0, samples: int = 300) -> tuple[dict[tuple[str, int], Flags], ...]:
    """A method, and the same with `gain` of its errors repaired (first), on two targets and three seeds."""
    world = np.random.default_rng(seed)
    first: dict[tuple[str, int], Flags] = {}
    second: dict[tuple[str, int], Flags] = {}
    for target in ("a", "b"):
        for run in range(3):
            base = world.uniform(size=samples) < 0.6
            second[target, run] = base
            first[target, run] = base | (world.uniform(size=samples) < gain)
    return first, second


def test_the_difference_of_a_method_with_itself_is_zero_with_p_one() -> None:
    first, _ = two_methods(0.1)
    found = paired_difference(first, first, rng())
    assert (found.interval, found.p_value) == (Interval(0.0, 0.0, 0.0), 1.0)


def test_pairing_is_sharper_than_comparing_two_intervals() -> None:
    first, second = two_methods(0.1)
    found = paired_difference(first, second, rng())
    alone = hierarchical_bootstrap(first, rng())
    assert found.interval.low > 0 and found.p_value < 0.01
    assert found.interval.high - found.interval.low < alone.high - alone.low


def test_swapping_the_methods_turns_the_sign_and_keeps_the_p_value() -> None:
    first, second = two_methods(0.02)
    ahead, behind = paired_difference(first, second, rng()), paired_difference(second, first, rng())
    assert behind.interval.mean == -ahead.interval.mean
    assert behind.p_value == pytest.approx(ahead.p_value, abs=0.03)


def test_under_no_difference_small_p_values_are_rare() -> None:
    small = 0
    for trial in range(120):
        world = np.random.default_rng(trial)
        first, second = ({("t", 0): world.uniform(size=200) < 0.6} for _ in range(2))
        small += paired_difference(first, second, rng(trial), draws=400).p_value < 0.05
    assert small / 120 < 0.12


def test_methods_with_other_runs_or_samples_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="different"):
        paired_difference({("a", 0): [True]}, {("b", 0): [True]}, rng())
    with pytest.raises(ValueError, match="aligned"):
        paired_difference({("a", 0): [True]}, {("a", 0): [True, False]}, rng())


def step_down_rejections(p_values: list[float], level: float) -> set[int]:
    """Holm's procedure in words: test the smallest at α/m, the next at α/(m-1), stop at the first failure."""
    rejected = set()
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        if p_values[index] > level / (len(p_values) - rank):
            break
        rejected.add(int(index))
    return rejected


def test_holm_rejects_what_the_step_down_procedure_rejects() -> None:
    world = np.random.default_rng(5)
    for _ in range(200):
        p_values = (world.uniform(size=6) ** 3).tolist()
        adjusted = holm(p_values)
        for level in (0.01, 0.05, 0.2):
            assert {i for i, p in enumerate(adjusted) if p <= level} == step_down_rejections(p_values, level)
    assert holm([]) == [] and holm([0.9, 0.8]) == [1.0, 1.0]
