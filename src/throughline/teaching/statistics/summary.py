"""What a chain store holds, in numbers: how much was asked, what each rule kept, how long the chains are, what they
took. `throughline chains stats` prints it as tables or as JSON.

A store is read line by line and may hold several teachers, models and rounds: every number is given for the whole
store and for each (source, model, round) by itself. What stands is what `read_journal` lets stand: the first answer
of each (key, sample_id), the last verdict of each (key, sample_id, rule).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from throughline.chains.formats import FORMATS
from throughline.chains.journal import journal_files, scan_journal
from throughline.chains.outcomes import Outcome
from throughline.chains.rules import RULES
from throughline.core.errors import ThroughlineError
from throughline.domains.samples import ImageSet
from throughline.teaching.statistics.counting import ABSENT, ANSWERED, FAILED, MEASURES, OUTCOMES, Rows
from throughline.teaching.statistics.records import (
    Acceptance,
    ChainStatistics,
    Group,
    Lengths,
    NumberShare,
    Part,
    Quantiles,
    Share,
    Spending,
    TeacherPart,
)


def summarise_chains(store: Path, images: ImageSet | None = None) -> ChainStatistics:
    """Counts a journal, or a folder of journals.

    `images` brings the classes, and verdicts by every rule of `RULES` when the store has none of its own. Memory
    grows by about 600 bytes a candidate, whatever the length of its text. ThroughlineError for a store that
    cannot be read or holds no journal, and for a newer schema.
    """
    if store.is_dir() and not journal_files(store):
        raise ThroughlineError("no journal in this folder", store, "name a store: a folder of journal-<shard>.jsonl")
    rows = Rows(images)
    for _, _, record in scan_journal(store):
        rows.add(record)
    judged_anew = images is not None and not rows.verdicts
    if judged_anew:
        for _, _, record in scan_journal(store):
            rows.judge(record)
    counted = _Counted(rows)
    teachers = rows.teachers.values
    return ChainStatistics(
        lines=rows.lines,
        duplicates=rows.duplicates,
        problems=rows.problems,
        unusable_usage=rows.unusable_usage,
        verdicts_without_candidate=counted.orphans(),
        formats=tuple(sorted(rows.formats)),
        prompts=len(rows.prompts),
        judged_anew=judged_anew,
        images_given=None if images is None else len(images.samples),
        images_unknown=None if images is None else len(rows.unknown),
        images_changed=None if images is None else len(rows.changed),
        whole=counted.part(range(len(teachers))),
        teachers=tuple(
            TeacherPart(source=source, model=model, round=round, part=counted.part([index]))
            for index, (source, model, round) in sorted(enumerate(teachers), key=lambda item: item[1])
        ),
    )


class _Counted:
    """The finished columns as arrays of (rows,), and what can be counted in them.

    Arguments called `judged`, `accepted`, `answered` are masks of (rows,).
    """

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        column = {name: np.array(values, dtype=np.int64) for name, values in rows.columns.items()}
        self._state, self._sample, self._teacher = column["state"], column["sample"], column["teacher"]
        self._domain, self._label, self._words = column["domain"], column["label"], column["words"]
        self._answered, self._reports = self._state == ANSWERED, column["reports"]
        self._copied = self._answered & ~_asked(column["key"], column["usage"] > 0, self._answered)
        # A candidate's number can be any integer in a file of another's hand: counted by rank.
        self._numbers = sorted(rows.numbers.values)
        ranks = {number: rank for rank, number in enumerate(self._numbers)}
        self._number = np.array([ranks[number] for number in rows.numbers.values] or [0])[column["number"]]
        known = [rule for rule in RULES if rule in rows.verdicts]
        self._codes = {
            rule: np.frombuffer(bytes(rows.verdicts[rule].ljust(self._state.size, b"\0")), np.uint8)
            for rule in (*known, *sorted(rows.verdicts.keys() - set(known)))
        }

    def orphans(self) -> int:
        """Verdicts on candidates that the store does not hold."""
        return sum(int(((codes > 0) & (self._state == ABSENT)).sum()) for codes in self._codes.values())

    def part(self, teachers: Sequence[int]) -> Part:
        """The numbers of these teachers' candidates."""
        own = np.isin(self._teacher, teachers)
        answered, failed = self._answered & own, (self._state == FAILED) & own
        judged = {rule: answered & (codes > 0) for rule, codes in self._codes.items()}
        kept = {rule: judged[rule] & ((codes - 1) & 1 > 0) for rule, codes in self._codes.items() if judged[rule].any()}
        prompt_tokens, completion_tokens, cost = (
            self._spending(place, teachers, answered, kept) for place in range(len(MEASURES))
        )
        return Part(
            images=np.unique(self._sample[answered | failed]).size,
            candidates=int(answered.sum()),
            copies=int((self._copied & own).sum()),
            failed=int(failed.sum()),
            acceptance=tuple(self._acceptance(rule, judged[rule], kept[rule], int(failed.sum())) for rule in kept),
            lengths=self._lengths(answered),
            accepted_lengths={rule: self._lengths(accepted) for rule, accepted in kept.items()},
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            cost=cost,
        )

    def _acceptance(self, rule: str, judged: Any, accepted: Any, failed: int) -> Acceptance:
        outcomes = Counter({OUTCOMES[code]: count for code, count in _counts((self._codes[rule][judged] - 1) // 2)})
        outcomes[Outcome.ERROR] += failed
        domains, labels, labelled = self._rows.domains.values, self._rows.labels.values, judged & (self._label >= 0)
        by_class = None if self._rows.images is None else self._groups(self._label, labels, labelled, accepted)
        return Acceptance(
            rule=rule,
            overall=self._group(np.flatnonzero(judged), accepted),
            by_domain=self._groups(self._domain, domains, judged, accepted),
            by_class=by_class,
            by_number=self._by_number(judged, accepted),
            outcomes={outcome.value: outcomes[outcome] for outcome in Outcome if outcomes[outcome]},
        )

    def _groups(self, column: Any, names: Sequence[str], judged: Any, accepted: Any) -> dict[str, Group]:
        found = {names[value]: self._group(rows, accepted) for value, rows in _grouped(column, judged)}
        return {name: found[name] for name in sorted(found)}

    def _group(self, rows: Any, accepted: Any) -> Group:
        kept = rows[accepted[rows]]
        return Group(
            images=_share(np.unique(self._sample[rows]).size, np.unique(self._sample[kept]).size),
            candidates=_share(rows.size, kept.size),
        )

    def _by_number(self, judged: Any, accepted: Any) -> tuple[NumberShare, ...]:
        kept = np.flatnonzero(accepted)
        kept = kept[np.argsort(self._number[kept], kind="stable")]
        first = kept[np.unique(self._sample[kept], return_index=True)[1]]
        gained = dict(_counts(self._number[first]))
        return tuple(
            NumberShare(
                number=self._numbers[number],
                candidates=_share(rows.size, int(accepted[rows].sum())),
                images_gained=gained.get(number, 0),
            )
            for number, rows in _grouped(self._number, judged)
        )

    def _lengths(self, chosen: Any) -> Lengths:
        stages = {}
        for format, (rows, words) in sorted(self._rows.stages.items()):
            names = FORMATS[format].stages
            table = np.array(words).reshape(-1, len(names))[chosen[np.array(rows)]]
            if len(table):
                stages[format] = {name: _quantiles(table[:, place]) for place, name in enumerate(names)}
        return Lengths(chain=_quantiles(self._words[chosen]) if chosen.any() else None, stages=stages)

    def _spending(self, place: int, teachers: Sequence[int], answered: Any, kept: Mapping[str, Any]) -> Spending:
        reporting = answered & (self._reports >> place & 1 > 0)
        count = int(reporting.sum())
        total = sum(self._rows.totals[teacher][place] for teacher in teachers if teacher in self._rows.totals)
        paid = [values[place] for row, values in self._rows.judging.values() if answered[row]]
        judging = [value for value in paid if value is not None]
        # A local teacher may report nothing and have a judge that does.
        of = reporting if count else answered & ~self._copied
        accepted = {rule: int((rows & of).sum()) for rule, rows in kept.items()}
        known = bool(count or judging)
        return Spending(
            reporting=count,
            total=total if count else None,
            per_candidate=total / count if count else None,
            judging=sum(judging) if judging else None,
            per_accepted={
                rule: (total + sum(judging)) / chains if known and chains else None for rule, chains in accepted.items()
            },
        )


def _asked(key: Any, with_usage: Any, answered: Any) -> Any:
    """Which answers were asked for: those that report usage, and of a key where none does, the first read."""
    order = np.lexsort((np.arange(key.size), ~with_usage, ~answered, key))
    first = np.ones(key.size, bool)
    first[1:] = key[order][1:] != key[order][:-1]
    asked = answered & with_usage
    asked[order[first]] = True
    return asked


def _grouped(column: Any, chosen: Any) -> Iterator[tuple[int, Any]]:
    """The chosen rows by their value in the column, values ascending."""
    rows = np.flatnonzero(chosen)
    rows = rows[np.argsort(column[rows], kind="stable")]
    values, starts = np.unique(column[rows], return_index=True)
    if rows.size:
        yield from zip(values.tolist(), np.split(rows, starts[1:]), strict=True)


def _counts(values: Any) -> list[tuple[int, int]]:
    found, counts = np.unique(values, return_counts=True)
    return list(zip(found.tolist(), counts.tolist(), strict=True))


def _share(judged: int, accepted: int) -> Share:
    return Share(judged=judged, accepted=accepted, share=accepted / judged if judged else None)


def _quantiles(words: Any) -> Quantiles:
    low, median, high = np.quantile(words, (0.05, 0.5, 0.95)).tolist()
    return Quantiles(count=words.size, median=median, low=low, high=high, longest=int(words.max()))
