"""The tables that `throughline chains stats` shows of a store's numbers. Rules, domains, classes and models have names
of somebody's choice, so every cell is made printable.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from throughline.chains.outcomes import Outcome
from throughline.core.table import Table
from throughline.core.untrusted import printable
from throughline.teaching.statistics import ChainStatistics

_NOTHING = "–"
_QUANTITIES = {"prompt_tokens": "prompt tokens", "completion_tokens": "completion tokens", "cost": "US dollars"}
_OUTCOMES = ("ok, accepted", "ok, rejected", *Outcome)

_Rows = list[tuple[str, ...]]


def statistics_tables(statistics: ChainStatistics) -> tuple[Table, ...]:
    """What the terminal shows of the statistics; tables that would have no row are left out."""
    accepted = statistics.acceptance[statistics.acceptance["part"] == 0]
    rules = list(dict.fromkeys(accepted["rule"]))
    names = list(map(printable, rules))
    groups = {by: accepted[accepted["by"] == by] for by in ("all", "domain", "class", "number")}
    tables: dict[str, tuple[Iterable[str], _Rows]] = {
        "the store": (("what", "how many"), _overview(statistics)),
        "accepted, by rule": (("rule", "images", "candidates"), list(map(_by_rule, groups["all"].itertuples()))),
        **{
            f"accepted of images / of candidates, by {by}": (
                (by, "images", "candidates", *names),
                _groups(groups[by], ["images", "candidates"], rules, _both_shares),
            )
            for by in ("domain", "class")
        },
        "accepted by candidate number, and images gained": (
            ("number, from 0", "judged", *names),
            _groups(groups["number"], ["candidates"], rules, _share_and_gain),
        ),
        "outcomes": (("outcome", *names), _outcomes(statistics.outcomes, rules)),
        "words: median (5 % to 95 %, longest)": (
            ("of", "all answers", *(f"accepted by {name}" for name in names)),
            _words(statistics.words, rules),
        ),
        "tokens and cost": (
            ("what", "answers", "reported by", "each", "judge", *(f"per {name} chain" for name in names)),
            _spending(statistics.spending, rules),
        ),
        "by teacher": (
            ("source", "model", "round", "images", "candidates", "failed", *names, "completion tokens", "US dollars"),
            _teachers(statistics, rules) if len(statistics.parts) > 2 else [],
        ),
    }
    return tuple(Table(title, tuple(columns), tuple(rows)) for title, (columns, rows) in tables.items() if rows)


def _overview(statistics: ChainStatistics) -> _Rows:
    """The counts of the store, by their names."""
    whole = statistics.parts.iloc[0][["images", "candidates", "failed", "copies"]].to_dict()
    counts = {**whole, **statistics.store, "formats": ", ".join(map(printable, statistics.store["formats"]))}
    return [
        (name.replace("_", " "), f"{count:,}" if type(count) is int else str(count))
        for name, count in counts.items()
        if count is not None
    ]


def _cells(
    frame: Any, rules: Sequence[str | None], cell: Callable[[Any], str], missing: str = _NOTHING
) -> dict[Any, tuple[str, ...]]:
    """For each value of the frame's column `name`, in order, a cell for each rule; `missing` where it has no row."""
    cells = {(row.name, row.rule): cell(row) for row in frame.itertuples()}
    return {name: tuple(cells.get((name, rule), missing) for rule in rules) for name in dict.fromkeys(frame["name"])}


def _groups(groups: Any, counted: list[str], rules: Sequence[str], cell: Callable[[Any], str]) -> _Rows:
    """A row for each name: how many a rule has judged at most, then a cell for each rule."""
    judged, cells = groups.groupby("name")[counted].max(), _cells(groups, rules, cell)
    return [(printable(str(name)), *map("{:,}".format, counts), *cells[name]) for name, *counts in judged.itertuples()]


def _outcomes(outcomes: Any, rules: Sequence[str]) -> _Rows:
    outcomes = outcomes[outcomes["part"] == 0]
    usable = outcomes["accepted"].map({True: "ok, accepted", False: "ok, rejected"})
    named = outcomes.assign(name=outcomes["outcome"].where(outcomes["outcome"] != Outcome.OK, usable))
    cells = _cells(named, rules, lambda row: f"{row.count:,}", missing="0")
    return [(name, *cells[name]) for name in _OUTCOMES if name in cells]


def _words(words: Any, rules: Sequence[str]) -> _Rows:
    words = words[words["part"] == 0]
    named = words.assign(name=list(zip(words["format"], words["stage"], strict=True)))
    has_several = words["format"].nunique() > 1
    return [
        ("whole answers" if stage is None else f"{format}: {stage}" if has_several else stage, *cells)
        for (format, stage), cells in _cells(named, [None, *rules], _spread).items()
    ]


def _spending(spending: Any, rules: Sequence[str]) -> _Rows:
    rows = spending[(spending["part"] == 0) & ((spending["reporting"] > 0) | spending["judging"].notna())]
    each = ((row, (row.per_candidate, row.judging, *map(row.per_accepted.get, rules))) for row in rows.itertuples())
    return [
        (_QUANTITIES[row.quantity], _amount(row.total), f"{row.reporting:,}", *map(_amount, amounts))
        for row, amounts in each
    ]


def _teachers(statistics: ChainStatistics, rules: Sequence[str]) -> _Rows:
    accepted = statistics.acceptance[statistics.acceptance["by"] == "all"]
    cells = _cells(accepted.assign(name=accepted["part"]), rules, lambda row: _counted(row.accepted, row.candidates))
    totals = statistics.spending.set_index(["part", "quantity"])["total"]
    return [
        (
            *map(printable, (row.source, row.model)),
            *(f"{count:,}" for count in (row.round, row.images, row.candidates, row.failed)),
            *cells.get(row.part, [_NOTHING] * len(rules)),
            *(_amount(totals[row.part, quantity]) for quantity in ("completion_tokens", "cost")),
        )
        for row in statistics.parts[1:].itertuples()
    ]


def _by_rule(row: Any) -> tuple[str, ...]:
    images, candidates = _counted(row.images_accepted, row.images), _counted(row.accepted, row.candidates)
    return printable(row.rule), images, candidates


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
