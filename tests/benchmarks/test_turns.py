from throughline.benchmarks.turns import take_turns


def test_every_round_starts_one_side_later_and_the_warm_up_is_dropped():
    now, order = [0.0], []

    def side(name, durations):
        remaining = iter(durations)

        def run():
            order.append(name)
            now[0] += next(remaining)

        return run

    sides = {"a": side("a", [9, 1, 2]), "b": side("b", [9, 3, 4]), "c": side("c", [9, 5, 6])}
    found = take_turns(sides, trials=2, clock=lambda: now[0])
    assert found == {"a": [1, 2], "b": [3, 4], "c": [5, 6]}
    assert "".join(order) == "abc" + "bca" + "cab"
