"""The tables that `throughline chains stats` shows of a store's numbers. Rules, domains, classes and models have names
of somebody's choice, so every cell is made printable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from throughline.chains.outcomes import Outcome
from throughline.teaching.printable import printable
from throughline.teaching.statistics.records import (
    Acceptance,
    ChainStatistics,
    Group,
    Lengths,
    Part,
    Quantiles,
    Share,
    Spending,
    TeacherPart,
)

_NOTHING = "–"


class StatisticsTable(NamedTuple):
    """Every cell is text, the first column names the row."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def statistics_tables(statistics: ChainStatistics) -> tuple[StatisticsTable, ...]:
    """What the terminal shows of the statistics; tables that would have no row are left out."""
    whole, acceptance = statistics.whole, statistics.whole.acceptance
    rules = [printable(part.rule) for part in acceptance]
    spendings = {
        "prompt tokens": whole.prompt_tokens,
        "completion tokens": whole.completion_tokens,
        "US dollars": whole.cost,
    }
    tables = (
        StatisticsTable("the store", ("what", "how many"), _overview(statistics)),
        StatisticsTable(
            "accepted, by rule",
            ("rule", "images", "candidates"),
            tuple(
                (rule, _counted(part.overall.images), _counted(part.overall.candidates))
                for rule, part in zip(rules, acceptance, strict=True)
            ),
        ),
        StatisticsTable(
            "accepted of images / of candidates, by domain",
            ("domain", "images", "candidates", *rules),
            _by_name([part.by_domain for part in acceptance]),
        ),
        StatisticsTable(
            "accepted of images / of candidates, by class",
            ("class", "images", "candidates", *rules),
            _by_name([part.by_class or {} for part in acceptance]),
        ),
        StatisticsTable(
            "accepted by candidate number, and images gained",
            ("number, from 0", "judged", *rules),
            _by_number(acceptance),
        ),
        StatisticsTable("outcomes", ("outcome", *rules), _outcomes(acceptance)),
        StatisticsTable(
            "words: median (5 % to 95 %, longest)",
            ("of", "all answers", *(f"accepted by {rule}" for rule in rules)),
            _words([whole.lengths, *whole.accepted_lengths.values()]),
        ),
        StatisticsTable(
            "tokens and cost",
            ("what", "answers", "reported by", "each", "judge", *(f"per {rule} chain" for rule in rules)),
            tuple(
                _spent(name, spent) for name, spent in spendings.items() if spent.reporting or spent.judging is not None
            ),
        ),
        StatisticsTable(
            "by teacher",
            ("source", "model", "round", "images", "candidates", "failed", *rules, "completion tokens", "US dollars"),
            tuple(_teacher(teacher, whole) for teacher in statistics.teachers) if len(statistics.teachers) > 1 else (),
        ),
    )
    return tuple(table for table in tables if table.rows)


def _overview(statistics: ChainStatistics) -> tuple[tuple[str, str], ...]:
    whole = statistics.whole
    counts = {
        "images asked about": whole.images,
        "images of the folder": statistics.images_given,
        "images the folder does not hold": statistics.images_unknown,
        "images that are others by now": statistics.images_changed or None,
        "answers": whole.candidates,
        "of them copies for identical images": whole.copies,
        "failed requests": whole.failed,
        "candidate lines given twice": statistics.duplicates,
        "problems": statistics.problems,
        "tokens or costs that can be none": statistics.unusable_usage or None,
        "verdicts without a candidate": statistics.verdicts_without_candidate or None,
        "different questions": statistics.prompts,
    }
    rows = [(name, f"{count:,}") for name, count in counts.items() if count is not None]
    rows.append(("formats", ", ".join(map(printable, statistics.formats)) or _NOTHING))
    if whole.acceptance:
        rows.append(("verdicts", "made for this count" if statistics.judged_anew else "as the store holds them"))
    return tuple(rows)


def _by_name(by_rule: Sequence[Mapping[str, Group]]) -> tuple[tuple[str, ...], ...]:
    rows = []
    for name in sorted({name for groups in by_rule for name in groups}):
        groups = [groups.get(name) for groups in by_rule]
        images = max(group.images.judged for group in groups if group is not None)
        candidates = max(group.candidates.judged for group in groups if group is not None)
        cells = (f"{_percent(group.images)} / {_percent(group.candidates)}" if group else _NOTHING for group in groups)
        rows.append((printable(name), f"{images:,}", f"{candidates:,}", *cells))
    return tuple(rows)


def _by_number(acceptance: Sequence[Acceptance]) -> tuple[tuple[str, ...], ...]:
    by_rule = [{row.number: row for row in part.by_number} for part in acceptance]
    rows = []
    for number in sorted({number for shares in by_rule for number in shares}):
        shares = [shares.get(number) for shares in by_rule]
        judged = max(share.candidates.judged for share in shares if share is not None)
        cells = (f"{_percent(share.candidates)}, {share.images_gained:+,}" if share else _NOTHING for share in shares)
        rows.append((f"{number:,}", f"{judged:,}", *cells))
    return tuple(rows)


def _outcomes(acceptance: Sequence[Acceptance]) -> tuple[tuple[str, ...], ...]:
    accepted = [part.overall.candidates.accepted for part in acceptance]
    counts = {outcome.value: [part.outcomes.get(outcome.value, 0) for part in acceptance] for outcome in Outcome}
    usable = counts.pop(Outcome.OK.value)
    rejected = [ok - kept for ok, kept in zip(usable, accepted, strict=True)]
    counts = {"ok, accepted": accepted, "ok, rejected": rejected} | counts
    return tuple((name, *(f"{count:,}" for count in row)) for name, row in counts.items() if any(row))


def _words(lengths: Sequence[Lengths]) -> tuple[tuple[str, ...], ...]:
    """`lengths` of all answers first, then of what each rule accepted."""
    if lengths[0].chain is None:
        return ()
    rows = [("whole answers", *(_spread(length.chain) for length in lengths))]
    for format, stages in lengths[0].stages.items():
        for stage in stages:
            name = stage if len(lengths[0].stages) == 1 else f"{format}: {stage}"
            rows.append((name, *(_spread(length.stages.get(format, {}).get(stage)) for length in lengths)))
    return tuple(rows)


def _spent(name: str, spending: Spending) -> tuple[str, ...]:
    amounts = (spending.per_candidate, spending.judging, *spending.per_accepted.values())
    return (name, _amount(spending.total), f"{spending.reporting:,}", *map(_amount, amounts))


def _teacher(teacher: TeacherPart, whole: Part) -> tuple[str, ...]:
    by_rule = {acceptance.rule: acceptance.overall.candidates for acceptance in teacher.part.acceptance}
    shares = [by_rule.get(acceptance.rule) for acceptance in whole.acceptance]
    return (
        printable(teacher.source),
        printable(teacher.model),
        *(f"{count:,}" for count in (teacher.round, teacher.part.images, teacher.part.candidates, teacher.part.failed)),
        *(_NOTHING if share is None else _counted(share) for share in shares),
        _amount(teacher.part.completion_tokens.total),
        _amount(teacher.part.cost.total),
    )


def _counted(share: Share) -> str:
    return f"{share.accepted:,} of {share.judged:,} ({_percent(share)})"


def _percent(share: Share) -> str:
    return _NOTHING if share.share is None else f"{100 * share.share:.1f} %"


def _spread(words: Quantiles | None) -> str:
    if words is None:
        return _NOTHING
    return f"{words.median:,.0f} ({words.low:,.0f} to {words.high:,.0f}, {words.longest:,})"


def _amount(value: float | None) -> str:
    """Tokens or US dollars: a chain costs cents or less, so below one the digits that count are shown."""
    if value is None:
        return _NOTHING
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.2f}" if value >= 1 else f"{value:.4g}"
