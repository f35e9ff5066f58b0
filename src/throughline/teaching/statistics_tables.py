"""The tables that `throughline chains stats` shows of a store's numbers. Rules, domains, classes and models have names
of somebody's choice, so every cell is made printable.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from throughline.chains.outcomes import Outcome
from throughline.core.table import Table
from throughline.teaching.printable import printable
from throughline.teaching.statistics import ChainStatistics

_NOTHING = "–"
_QUANTITIES = {"prompt_tokens": "prompt tokens", "completion_tokens": "completion tokens", "cost": "US dollars"}
_OUTCOMES = ("ok, accepted", "ok, rejected", *Outcome)


def statistics_tables(statistics: ChainStatistics) -> tuple[Table, ...]:
    """What the terminal shows of the statistics; tables that would have no row are left out."""
    accepted = statistics.acceptance
    whole = accepted[accepted["part"] == 0]
    rules = list(dict.fromkeys(whole["rule"]))
    names = tuple(map(printable, rules))
    tables = (
        Table("the store", ("what", "how many"), _overview(statistics)),
        Table(
            "accepted, by rule",
            ("rule", "images", "candidates"),
            tuple(
                (
                    printable(row.rule),
                    _counted(row.images_accepted, row.images),
                    _counted(row.accepted, row.candidates),
                )
                for row in whole[whole["by"] == "all"].itertuples()
            ),
        ),
        *(
            Table(
                f"accepted of images / of candidates, by {by}",
                (by, "images", "candidates", *names),
                _groups(whole[whole["by"] == by], ("images", "candidates"), rules, _both_shares),
            )
            for by in ("domain", "class")
        ),
        Table(
            "accepted by candidate number, and images gained",
            ("number, from 0", "judged", *names),
            _groups(whole[whole["by"] == "number"], ("candidates",), rules, _share_and_gain),
        ),
        Table("outcomes", ("outcome", *names), _outcomes(statistics.outcomes, rules)),
        Table(
            "words: median (5 % to 95 %, longest)",
            ("of", "all answers", *(f"accepted by {name}" for name in names)),
            _words(statistics.words, rules),
        ),
        Table(
            "tokens and cost",
            ("what", "answers", "reported by", "each", "judge", *(f"per {name} chain" for name in names)),
            _spending(statistics.spending, rules),
        ),
        Table(
            "by teacher",
            ("source", "model", "round", "images", "candidates", "failed", *names, "completion tokens", "US dollars"),
            _teachers(statistics, rules),
        ),
    )
    return tuple(table for table in tables if table.rows)


def _overview(statistics: ChainStatistics) -> tuple[tuple[str, str], ...]:
    store, whole = statistics.store, statistics.parts.iloc[0]
    counts = {
        "images asked about": whole["images"],
        "images of the folder": store["images_given"],
        "images the folder does not hold": store["images_unknown"],
        "images that are others by now": store["images_changed"] or None,
        "answers": whole["candidates"],
        "of them copies for identical images": whole["copies"],
        "failed requests": whole["failed"],
        "candidate lines given twice": store["duplicates"],
        "problems": store["problems"],
        "tokens or costs that can be none": store["unusable_usage"] or None,
        "verdicts without a candidate": store["verdicts_without_candidate"] or None,
        "different questions": store["prompts"],
    }
    rows = [(name, f"{count:,}") for name, count in counts.items() if count is not None]
    rows.append(("formats", ", ".join(map(printable, store["formats"])) or _NOTHING))
    if len(statistics.acceptance):
        rows.append(("verdicts", "made for this count" if store["judged_anew"] else "as the store holds them"))
    return tuple(rows)


def _cells(
    frame: Any, rules: Sequence[str | None], cell: Callable[[Any], str], missing: str = _NOTHING
) -> dict[Any, tuple[str, ...]]:
    """For each value of the frame's column `name`, in order, a cell for each rule; `missing` where it has no row."""
    cells = {(row.name, row.rule): cell(row) for row in frame.itertuples()}
    return {name: tuple(cells.get((name, rule), missing) for rule in rules) for name in dict.fromkeys(frame["name"])}


def _groups(
    groups: Any, counted: Sequence[str], rules: Sequence[str], cell: Callable[[Any], str]
) -> tuple[tuple[str, ...], ...]:
    """A row for each name: how many a rule has judged at most, then a cell for each rule."""
    judged = groups.groupby("name")[list(counted)].max()
    cells = _cells(groups, rules, cell)
    return tuple(
        (printable(str(name)), *(f"{count:,}" for count in counts), *cells[name])
        for name, *counts in judged.itertuples()
    )


def _outcomes(outcomes: Any, rules: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    outcomes = outcomes[outcomes["part"] == 0]
    kept = outcomes["accepted"].map({True: "ok, accepted", False: "ok, rejected"})
    named = outcomes.assign(name=outcomes["outcome"].where(outcomes["outcome"] != Outcome.OK, kept))
    cells = _cells(named, rules, lambda row: f"{row.count:,}", missing="0")
    return tuple((name, *cells[name]) for name in _OUTCOMES if name in cells)


def _words(words: Any, rules: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    words = words[words["part"] == 0]
    named = words.assign(name=list(zip(words["format"], words["stage"], strict=True)))
    cells = _cells(named, [None, *rules], _spread)
    has_several = len({format for format, _ in cells if format is not None}) > 1
    return tuple(
        ("whole answers" if stage is None else f"{format}: {stage}" if has_several else stage, *spreads)
        for (format, stage), spreads in cells.items()
    )


def _spending(spending: Any, rules: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    spending = spending[(spending["part"] == 0) & ((spending["reporting"] > 0) | spending["judging"].notna())]
    return tuple(
        (
            _QUANTITIES[row.quantity],
            _amount(row.total),
            f"{row.reporting:,}",
            *map(_amount, (row.per_candidate, row.judging, *map(row.per_accepted.get, rules))),
        )
        for row in spending.itertuples()
    )


def _teachers(statistics: ChainStatistics, rules: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """A row for each teacher, where there are several."""
    teachers, accepted = statistics.parts[1:], statistics.acceptance
    if len(teachers) < 2:
        return ()
    accepted = accepted[accepted["by"] == "all"].assign(name=accepted["part"])
    cells = _cells(accepted, rules, lambda row: _counted(row.accepted, row.candidates))
    totals = statistics.spending.set_index(["part", "quantity"])["total"]
    return tuple(
        (
            *map(printable, (row.source, row.model)),
            *(f"{count:,}" for count in (row.round, row.images, row.candidates, row.failed)),
            *cells.get(row.part, (_NOTHING,) * len(rules)),
            *(_amount(totals[row.part, quantity]) for quantity in ("completion_tokens", "cost")),
        )
        for row in teachers.itertuples()
    )


def _counted(accepted: int, judged: int) -> str:
    return f"{accepted:,} of {judged:,} ({_percent(accepted, judged)})"


def _both_shares(row: Any) -> str:
    return f"{_percent(row.images_accepted, row.images)} / {_percent(row.accepted, row.candidates)}"


def _share_and_gain(row: Any) -> str:
    return f"{_percent(row.accepted, row.candidates)}, {row.images_gained:+,}"


def _percent(accepted: int, judged: int) -> str:
    return f"{100 * accepted / judged:.1f} %"


def _spread(row: Any) -> str:
    return f"{row.median:,.0f} ({row.low:,.0f} to {row.high:,.0f}, {row.longest:,})"


def _amount(value: float | None) -> str:
    """Tokens or US dollars: a chain costs cents or less, so below one the digits that count are shown."""
    if value is None:
        return _NOTHING
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.2f}" if value >= 1 else f"{value:.4g}"
