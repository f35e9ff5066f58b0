"""The figures of accuracies: by setup with intervals, and over the rounds of self-labelling. Called by the pages."""

from collections.abc import Mapping

import pandas as pd

from throughline.core.plot import Panel, Plot, Series
from throughline.reporting.results import Group, Summary
from throughline.runs.order import in_order
from throughline.training.methods import METHODS


def accuracy_figure(
    summaries: Mapping[str, Mapping[str, Summary]], name: str = "accuracy", series: str = "{} path"
) -> Plot | None:
    """Horizontal bars of Avg for each setup, one bar for each answer path (or run) in `summaries`, called as `series`
    has it; whiskers are the 95 % interval, or the standard error where there is none. None when no setup has an Avg."""
    averaged = {key: {n: row for n, row in rows.items() if row.average} for key, rows in summaries.items()}
    averaged = {key: rows for key, rows in averaged.items() if rows}
    method_of = {name: row.setup.method for rows in averaged.values() for name, row in rows.items()}
    if not method_of:
        return None
    order = in_order(method_of.values(), METHODS)
    setups = sorted(method_of, key=lambda name: order.index(method_of[name]))
    width = 0.8 / len(averaged)
    bars, numbers = [], []
    for number, (key, rows) in enumerate(averaged.items()):
        ours = [setup for setup in setups if setup in rows]
        measured = [_with_whisker(rows[setup]) for setup in ours]
        means, lows, highs = ([100 * value for value in values] for values in zip(*measured, strict=True))
        bars.append(
            Series(
                series.format(key),
                x=means,
                y=[setups.index(setup) + (number - (len(averaged) - 1) / 2) * width for setup in ours],
                kind="horizontal bars",
                colour=number,
                hatch=number // 8,
                whiskers=(lows, highs),
                width=0.9 * width,
            )
        )
        numbers += [(key, setup, *values) for setup, values in zip(ours, measured, strict=True)]
    panel = Panel(
        tuple(bars),
        x_label="accuracy, mean over targets (%)",
        x_limits=(0, 100),
        y_ticks=list(enumerate(setups)),
        downwards=True,
    )
    return Plot(
        name,
        f"Accuracy of each method, averaged over the held-out domains; {_whiskers(averaged)}",
        (panel,),
        ("series", "method", "accuracy", "low", "high"),
        tuple(numbers),
        height=0.6 + 0.3 * len(setups) * (0.4 + len(averaged) * 0.6),
    )


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
