"""River's detectors on series as long as chains, whose change is known."""

import sys
from typing import get_args

import numpy as np
import pytest

from throughline.core.errors import ThroughlineError
from throughline.drift.change_points import Detector, change_points

SERIES, CHAINS = 120, 40


def steps(size: float, seed: int) -> list[tuple[int, np.ndarray]]:
    """Noise with a standard deviation of 0.4 nats around 0.8 that rises by `size` at a drawn place, none below 0."""
    rng = np.random.default_rng(seed)
    places = rng.integers(SERIES // 3, 2 * SERIES // 3, CHAINS)
    noise = rng.normal(0.8, 0.4, (CHAINS, SERIES))
    rows = noise + size * (np.arange(SERIES) >= places[:, None])
    return list(zip(places.tolist(), np.maximum(rows, 0), strict=True))


@pytest.mark.parametrize("detector", get_args(Detector))
def test_a_step_is_found_within_five_tokens_in_the_median(detector: Detector) -> None:
    missed, distances = 0, []
    for place, series in steps(2.0, seed=0):
        found = change_points(series, detector)
        distances.append(min((abs(each - place) for each in found), default=SERIES))
        missed += not found
    assert np.median(distances) <= 5 and missed <= CHAINS // 8


@pytest.mark.parametrize("detector", get_args(Detector))
def test_noise_alone_gives_few_change_points(detector: Detector) -> None:
    found = [change_points(series, detector) for _, series in steps(0.0, seed=1)]
    assert np.mean([len(each) for each in found]) < 0.5


def test_an_even_series_and_an_empty_one_have_none() -> None:
    assert change_points([0.7] * 50, "adwin") == change_points([], "kswin") == []


def test_scale_does_not_matter() -> None:
    _, series = steps(2.0, seed=2)[0]
    assert change_points(series, "page_hinkley") == change_points(1e-3 * series + 7, "page_hinkley") != []


def test_without_river_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "river", None)
    with pytest.raises(ThroughlineError, match=r"install the extra drift"):
        change_points([1.0, 2.0], "adwin")
