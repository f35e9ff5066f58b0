import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from throughline.metrics.intervals import (
    Interval,
    hierarchical_bootstrap,
    mean_and_error,
    wilson_interval,
)

Flags = NDArray[np.bool_]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def width(interval: Interval) -> float:
    return interval.high - interval.low


def runs(targets: int = 2, seeds: int = 3, samples: int = 200, seed: int = 0) -> dict[tuple[str, int], Flags]:
    drawn = np.random.default_rng(seed).uniform(size=(targets, seeds, samples)) < 0.7
    return {(f"t{t}", s): drawn[t, s] for t in range(targets) for s in range(seeds)}


def test_wilson_is_scipys_and_lies_between_two_of_them_for_a_mean_over_seeds() -> None:
    found = [wilson_interval(k, 20) for k in range(21)]
    for k, interval in enumerate(found):
        expected = stats.binomtest(k, 20).proportion_ci(method="wilson")
        assert (interval.low, interval.high, interval.mean) == pytest.approx((expected.low, expected.high, k / 20))
    between = wilson_interval(7 + 1 / 3, 20)
    assert found[7].low < between.low < found[8].low and found[7].high < between.high < found[8].high


def test_wilson_stays_inside_zero_and_one_and_has_width_at_the_ends() -> None:
    assert wilson_interval(0, 10).low == 0.0 and wilson_interval(0, 10).high > 0.2
    assert wilson_interval(3, 3).high == 1.0 and wilson_interval(3, 3).low < 0.5
    with pytest.raises(ValueError):
        wilson_interval(0, 0)


def test_standard_error_is_domainbeds() -> None:
    # format_mean of DomainBed's collect_results: np.std(values / sqrt(n)), ddof 0
    found = mean_and_error([0.8, 0.9, 0.7])
    assert found.mean == pytest.approx(0.8)
    assert found.error == pytest.approx(math.sqrt((0.1**2 + 0.1**2) / 3 / 3))
    assert mean_and_error([0.5]).error == 0.0


def test_the_mean_weighs_targets_equally_whatever_their_size() -> None:
    found = hierarchical_bootstrap({("a", 0): [True] * 300, ("b", 0): [False] * 10}, rng())
    assert found.mean == 0.5 and found.low == found.high == 0.5


def test_the_same_generator_gives_the_same_interval_in_any_order_of_keys() -> None:
    data = runs()
    backwards = dict(reversed(list(data.items())))
    assert hierarchical_bootstrap(data, rng()) == hierarchical_bootstrap(backwards, rng())


def naive_bootstrap(
    data: dict[tuple[str, int], Flags], draws: int, generator: np.random.Generator
) -> NDArray[np.float64]:
    """Index by index: one set of images per target and draw, serving every drawn seed."""
    targets = sorted({t for t, _ in data})
    means = []
    for _ in range(draws):
        per_target = []
        for target in targets:
            table = np.stack([data[key] for key in sorted(data) if key[0] == target])
            seeds = generator.integers(len(table), size=len(table))
            images = generator.integers(table.shape[1], size=table.shape[1])
            per_target.append(table[seeds][:, images].mean())
        means.append(np.mean(per_target))
    ends: NDArray[np.float64] = np.quantile(means, [0.025, 0.975])
    return ends


@pytest.mark.slow
def test_the_multinomial_shortcut_equals_drawing_images_one_by_one() -> None:
    data = runs(targets=2, seeds=3, samples=60)
    fast = hierarchical_bootstrap(data, rng(1), draws=8000)
    low, high = naive_bootstrap(data, 8000, rng(2))
    assert (fast.low, fast.high) == pytest.approx((low, high), abs=0.006)


def test_shared_images_widen_the_interval_against_pretending_that_seeds_are_fresh_images() -> None:
    answers = np.random.default_rng(3).uniform(size=300) < 0.6
    same = hierarchical_bootstrap({("t", s): answers for s in range(3)}, rng())
    fresh = hierarchical_bootstrap({("t", 0): np.tile(answers, 3)}, rng())
    assert (same.high - same.low) == pytest.approx(math.sqrt(3) * (fresh.high - fresh.low), rel=0.15)


def test_seeds_that_are_not_aligned_by_sample_are_refused() -> None:
    with pytest.raises(ValueError, match="aligned"):
        hierarchical_bootstrap({("a", 0): [True], ("a", 1): [True, False]}, rng())


@pytest.mark.parametrize("seeds,least", [(1, 0.88), (8, 0.84)])
def test_the_interval_covers_the_truth_about_as_often_as_it_says(seeds: int, least: float) -> None:
    """Images of unlike difficulty, crossed with seeds of unlike skill; two targets; nominal 95 %.

    With one seed the truth is that seed's own mean; with eight it is the mean over all seeds, which the
    bootstrap covers a little too rarely, as documented.
    """
    world = np.random.default_rng(4)
    covered, trials = 0, 150
    for trial in range(trials):
        data = {}
        for target in ("a", "b"):
            difficulty = world.uniform(-0.3, 0.3, size=150)
            skills = world.normal(0, 0.05 if seeds > 1 else 0.0, size=seeds)
            for seed in range(seeds):
                data[target, seed] = world.uniform(size=150) < 0.6 + difficulty + skills[seed]
        found = hierarchical_bootstrap(data, rng(trial), draws=400)
        covered += found.low <= 0.6 <= found.high
    assert least < covered / trials <= 1.0
