"""The figures of accuracies: by setup with intervals, as differences from the baseline, and over the rounds of
self-labelling. Called by the pages."""

from collections.abc import Mapping, Sequence

import pandas as pd

from throughline.core.plot import Panel, Plot, Series
from throughline.reporting.estimates import Comparison, Summary
from throughline.reporting.groups import Group
from throughline.runs.order import in_order
from throughline.training.methods import METHODS


def accuracy_figure(
    summaries: Mapping[str, Mapping[str, Summary]],
    name: str = "accuracy",
    series: str = "{} path",
    chance: float | None = None,
) -> Plot | None:
    """A dot for the Avg of each setup, one for each answer path (or run) in `summaries`, called as `series` has it;
    whiskers are the 95 % interval, or the standard error where there is none; a dotted line at `chance`. None when no
    setup has an Avg."""
    averaged = {key: {n: row for n, row in rows.items() if row.average} for key, rows in summaries.items()}
    averaged = {key: rows for key, rows in averaged.items() if rows}
    method_of = {name: row.setup.method for rows in averaged.values() for name, row in rows.items()}
    if not method_of:
        return None
    order = in_order(method_of.values(), METHODS)
    setups = sorted(method_of, key=lambda name: order.index(method_of[name]))
    dots, numbers = [], []
    for number, (key, rows) in enumerate(averaged.items()):
        ours = [setup for setup in setups if setup in rows]
        measured = [_with_whisker(rows[setup]) for setup in ours]
        above = (number - (len(averaged) - 1) / 2) * 0.7 / len(averaged)
        places = [setups.index(setup) + above for setup in ours]
        dots.append(_dots(series.format(key), measured, places, number))
        numbers += [(key, setup, *values) for setup, values in zip(ours, measured, strict=True)]
    panel = Panel(
        tuple(dots),
        x_label="accuracy, mean over targets (%)",
        y_ticks=list(enumerate(setups)),
        y_limits=(len(setups) - 0.5, -0.5),
        rulers=() if chance is None else (100 * chance,),
        texts=() if chance is None else ((100 * chance, len(setups) - 0.6, "chance"),),
    )
    dotted = "" if chance is None else "; dotted line: chance"
    return Plot(
        name,
        f"Accuracy of each method, averaged over the held-out domains{dotted}; {_whiskers(averaged)}",
        (panel,),
        ("series", "method", "accuracy", "low", "high"),
        tuple(numbers),
        height=0.6 + 0.3 * len(setups) * (0.4 + len(averaged) * 0.4),
    )


def differences_figure(group: Group, compared: Mapping[str, Sequence[Comparison]]) -> Plot | None:
    """The forest plot: every setup minus the baseline with its 95 % interval, a panel for each answer path, a dotted
    line where there is no difference. None without any comparison."""
    paths = {answer: rows for answer, rows in compared.items() if rows}
    setups = in_order((row.setup.name for rows in paths.values() for row in rows), group.setups)
    if not setups:
        return None
    panels, numbers = [], []
    for answer, rows in paths.items():
        intervals = [row.paired.interval for row in rows]
        measured = [(interval.mean, interval.low, interval.high) for interval in intervals]
        places = [float(setups.index(row.setup.name)) for row in rows]
        baseline = rows[0].baseline.name
        panels.append(
            Panel(
                (_dots("", measured, places, group.answers.index(answer)),),
                title=f"{answer} path,\nminus {baseline}",
                y_ticks=list(enumerate(setups)),
                y_limits=(len(setups) - 0.5, -0.5),
                rulers=(0,),
            )
        )
        numbers += [
            (answer, row.setup.name, baseline, *values, row.adjusted_p)
            for row, values in zip(rows, measured, strict=True)
        ]
    return Plot(
        "differences",
        "Better than the baseline? Difference of each method on the same images, with its 95 % interval: right of the "
        "dotted line is better, left of it worse, an interval that crosses it shows no clear difference",
        tuple(panels),
        ("answer", "method", "baseline", "difference", "low", "high", "p_holm"),
        tuple(numbers),
        height=0.9 + 0.27 * len(setups),
        x_label="difference (points)",
        shared="xy",
    )


def _dots(name: str, measured: Sequence[tuple[float, float, float]], places: list[float], number: int) -> Series:
    """Middles, lower and upper ends, all shares, as percentages at their places on the upright axis."""
    middles, lows, highs = ([100 * value for value in values] for values in zip(*measured, strict=True))
    marker = number + number // 8  # the ninth has the first colour again, and another marker
    return Series(name, middles, places, kind="dots", colour=number, marker=marker, whiskers=(lows, highs))


def _with_whisker(row: Summary) -> tuple[float, float, float]:
    """Mean and the ends of its whisker, as shares."""
    assert row.average is not None
    mean, error = row.average.mean, row.average.error
    return (mean, row.interval.low, row.interval.high) if row.interval else (mean, mean - error, mean + error)


def _whiskers(summaries: Mapping[str, Mapping[str, Summary]]) -> str:
    with_interval = {row.interval is not None for rows in summaries.values() for row in rows.values()}
    if with_interval == {True}:
        return "whiskers: 95 % intervals"
    if with_interval == {False}:
        return "whiskers: standard error over seeds"
    return "whiskers: 95 % intervals, or standard error over seeds where predictions are missing"


def rounds_figure(group: Group, split: str) -> Plot | None:
    """Left, accuracy after each round of self-labelling (mean over targets and seeds) of each setup and answer path,
    from the method that the rounds start from; right, share of sampled chains accepted in each round. None without
    rounds."""
    accuracy, acceptance = accuracy_by_round(group, split), _acceptance(group)
    if accuracy.empty and acceptance.empty:
        return None
    setups = in_order([*accuracy["setup"], *acceptance["setup"]], group.setups)
    left, right = [], []
    numbers: list[tuple[object, ...]] = []
    for number, setup in enumerate(setups):
        ours = accuracy[accuracy["setup"] == setup]
        for place, answer in enumerate(in_order(ours["answer"], ("label", "reasoning"))):
            rounds = ours[ours["answer"] == answer]
            left.append(_line(f"{setup}, {answer}", rounds["round"], rounds["accuracy"], number, place))
            numbers += [
                (setup, answer, int(r), float(share), None) for r, share in rounds[["round", "accuracy"]].values
            ]
        rounds = acceptance[acceptance["setup"] == setup]
        if len(rounds):
            right.append(_line(setup, rounds["round"], rounds["share"], number))
            numbers += [(setup, None, int(r), None, float(y)) for r, y in rounds[["round", "share"]].values]
    label = "round of self-labelling"
    panels = (
        Panel(tuple(left), x_label=label, y_label="accuracy (%)"),
        Panel(tuple(right), x_label=label, y_label="chains accepted (%)", y_limits=(0, 100)),
    )
    return Plot(
        "rounds",
        "Accuracy and share of accepted chains by round of self-labelling (round 0: before the first round)",
        panels,
        ("method", "answer", "round", "accuracy", "accepted"),
        tuple(numbers),
        height=3.7,
        legend="below",
    )


def accuracy_by_round(group: Group, split: str) -> pd.DataFrame:
    """Columns `setup, answer, round, accuracy`, means over targets and seeds, by round.

    Round 0 is the method that the rounds start from, on the targets and seeds that have rounds, where it has them all.
    """
    lines = group.results[group.results["split"] == split]
    rounds = lines[lines["round"].notna()]
    pieces = [rounds]
    for (setup, answer), ours in rounds.groupby(["setup", "answer"]):
        known = METHODS.get(group.setups[setup].method)
        start = group.setups[setup].of_method(known.starts_from if known else None)
        before = lines[(lines["setup"] == start) & (lines["answer"] == answer) & lines["round"].isna()]
        started = ours[["target", "seed"]].drop_duplicates()
        before = before.merge(started, on=["target", "seed"])
        if len(before) == len(started):
            pieces.append(before.assign(setup=setup, round=0))
    return pd.concat(pieces).groupby(["setup", "answer", "round"], as_index=False)["accuracy"].mean()


def _acceptance(group: Group) -> pd.DataFrame:
    """Columns `setup, round, share`: the accepted share, the mean over units."""
    rounds = group.with_setup(group.run.frames.rounds)
    rounds = rounds[rounds["sampled"] > 0]
    shares = rounds.assign(share=rounds["accepted"] / rounds["sampled"])
    return shares.groupby(["setup", "round"], as_index=False)["share"].mean()


def _line(name: str, rounds: pd.Series, shares: pd.Series, style: int, dash: int = 0) -> Series:
    return Series(name, x=list(rounds), y=list(100 * shares), colour=style, marker=style, dash=dash, width=1.5)
