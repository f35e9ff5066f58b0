"""`bench/preference_step.py`: the same loss on both sides, or no row; the cache saves what the count says."""

import pytest

from preference_step import TRL, TRL_GIVEN, PreferenceStepSettings, measure
from throughline.benchmarks.timing import BenchRow

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::FutureWarning")]


@pytest.fixture(scope="module")
def rows() -> list[BenchRow]:
    pytest.importorskip("trl")
    return measure(PreferenceStepSettings(batch=2, trials=1, threads=1), print)


def test_a_row_for_each_way_to_the_reference(rows: list[BenchRow]) -> None:
    assert [row.rival for row in rows] == [TRL, TRL_GIVEN, TRL]
    assert [row.name.rpartition(", ")[2] for row in rows] == ["reference in every step", *["reference cached"] * 2]
    for row in rows:
        assert row.settings["largest_nll_difference"] < 1e-5 and row.settings["batch"] == 2
        assert row.ratio == row.rival_value / row.ours_value > 0
    every, cached, cached_against_none = (row.predicted_ratio or 0 for row in rows)
    assert cached > 1 and 1 < every < cached_against_none
