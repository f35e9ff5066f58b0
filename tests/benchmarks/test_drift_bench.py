"""`bench/drift.py`: plain passes over some beginnings of a chain say what ours says about all of them."""

import pytest

from drift import RIVALS, DriftBenchSettings, measure


@pytest.mark.slow
def test_every_rival_says_what_we_say_and_has_its_time() -> None:
    rows = measure(DriftBenchSettings(rival_places=2, trials=1, threads=1), print)
    assert [row.rival for row in rows] == list(RIVALS)
    for row in rows:
        assert row.settings["largest_difference"] < 1e-4 and row.settings["rival_beginnings"] <= 2
        assert row.settings["beginnings"] > 50 and row.ratio > 0
