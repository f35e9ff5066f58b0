import subprocess
import sys
from dataclasses import asdict

from throughline.benchmarks.timing import compare, take_turns


class Clock:
    """Stands still but for what the sides take."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def side_of(clock, name, durations, order):
    remaining = iter(durations)

    def side():
        order.append(name)
        clock.now += next(remaining)

    return side


def test_every_round_starts_one_side_later_and_the_warm_up_is_dropped():
    clock, order = Clock(), []
    durations = {"a": [9.0, 1.0, 2.0], "b": [9.0, 3.0, 4.0], "c": [9.0, 5.0, 6.0]}
    sides = {name: side_of(clock, name, taken, order) for name, taken in durations.items()}
    assert take_turns(sides, trials=2, clock=clock) == {"a": [1, 2], "b": [3, 4], "c": [5, 6]}
    assert "".join(order) == "abc" + "bca" + "cab"


def test_a_row_is_the_medians_their_quartiles_and_the_rival_over_ours():
    row = asdict(compare("step x", "plain", [1.0, 2.0, 9.0], [8.0, 4.0, 6.0], {"batch": 4}, 2.5))
    assert (row["name"], row["rival"], row["unit"]) == ("step x", "plain", "seconds")
    assert (row["ours_value"], row["rival_value"], row["ratio"], row["predicted_ratio"]) == (2.0, 6.0, 3.0, 2.5)
    assert (row["ours_spread"], row["rival_spread"]) == ((1.5, 5.5), (5.0, 7.0))
    assert row["settings"] == {"batch": 4}


def test_timing_loads_no_torch_so_that_a_bench_of_memory_starts_small() -> None:
    code = "import sys, throughline.benchmarks.timing; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
