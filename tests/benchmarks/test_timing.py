from throughline.benchmarks.timing import alternate, compare


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


def test_sides_take_turns_in_swapped_order_and_the_warm_up_is_dropped():
    clock, order = Clock(), []
    ours = side_of(clock, "ours", [9.0, 1.0, 2.0, 3.0], order)
    rival = side_of(clock, "rival", [9.0, 2.0, 4.0, 6.0], order)
    assert alternate(ours, rival, trials=3, clock=clock) == ([1.0, 2.0, 3.0], [2.0, 4.0, 6.0])
    assert order == ["ours", "rival", "rival", "ours", "ours", "rival", "rival", "ours"]


def test_a_row_is_the_medians_their_quartiles_and_the_rival_over_ours():
    row = compare("step x", "plain", [1.0, 2.0, 9.0], [8.0, 4.0, 6.0], 2.5, {"batch": 4}).to_json()
    assert (row["name"], row["rival"], row["unit"]) == ("step x", "plain", "seconds")
    assert (row["ours_value"], row["rival_value"], row["ratio"], row["predicted_ratio"]) == (2.0, 6.0, 3.0, 2.5)
    assert (row["ours_spread"], row["rival_spread"]) == ((1.5, 5.5), (5.0, 7.0))
    assert row["settings"] == {"batch": 4}
