"""The numbers behind the tables: results lines gathered into methods × targets, with intervals and
comparisons drawn from the predictions. Called by `tables`, `figures` and `page`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from throughline.core.files import canonical_json
from throughline.metrics.intervals import (
    Interval,
    MeanError,
    bootstrap_generator,
    hierarchical_bootstrap,
    mean_and_error,
)
from throughline.metrics.paired import PairedDifference, holm, paired_difference
from throughline.reporting.runs import ResultLine, Run

METHOD_ORDER = (
    "zero_shot",
    "cls",
    "reasoning",
    "mtct",
    "sarr",
    "mtct_sarr",
    "cls_matched",
    "mtct_matched",
)
ANSWER_ORDER = ("label", "reasoning", "likelihood")
SPLIT_ORDER = ("in", "out", "all")
# Which method the others are compared with, if none is named: the paper's fair internal control, else the
# base.
BASELINES = ("cls", "zero_shot")


@dataclass(frozen=True)
class Group:
    """What may stand in one table: one dataset, one model, one setting of the factors."""

    dataset: str
    model: str
    factors: str
    """Canonical JSON of the factors; "{}" where there are none."""

    def holds(self, line: ResultLine) -> bool:
        """Whether a results line belongs to this group."""
        return group_of(line) == self


@dataclass(frozen=True)
class MethodSummary:
    """One method's row. All shares in 0..1."""

    method: str
    cells: Mapping[str, MeanError]
    """Per target: mean and standard error over seeds; a target without results has no entry."""
    average: MeanError | None
    """Over seeds, of each seed's mean over all targets; None when a target is missing."""
    interval: Interval | None
    """Hierarchical bootstrap of the average over images and seeds, where the predictions are there."""
    n: int
    unparsed: int
    errors: int


@dataclass(frozen=True)
class Comparison:
    """A method minus a baseline on the units that both have, with Holm's correction over the pairs compared."""

    method: str
    baseline: str
    units: int
    paired: PairedDifference
    adjusted_p: float


Answers = dict[tuple[str, int], dict[str, bool]]
"""Right or wrong by sample id, per (target, seed)."""


class CorrectAnswers:
    """Right or wrong per sample for (group, method, answer), each unit's predictions read once per report."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._by_unit: dict[str, dict[str, dict[str, bool]]] = {}

    def of(self, group: Group, method: str, answer: str) -> Answers:
        """Per (target, seed) of the finished units, whatever samples their predictions hold."""
        found: Answers = {}
        for line in _final_lines(self._run.results, group, answer):
            if line.method == method and line.unit in self._run.units:
                samples = self._unit(line.unit).get(answer)
                if samples:
                    found[line.target, line.seed] = samples
        return found

    def seeds(self, group: Group) -> int:
        """How many seeds its results are of."""
        return len({line.seed for line in self._run.results if group.holds(line)})

    def _unit(self, name: str) -> dict[str, dict[str, bool]]:
        if name not in self._by_unit:
            answers: dict[str, dict[str, bool]] = {}
            for prediction in self._run.units[name].predictions():
                answers.setdefault(prediction.answer, {})[prediction.sample_id] = prediction.correct
            self._by_unit[name] = answers
        return self._by_unit[name]


def group_of(line: ResultLine) -> Group:
    """The group that a results line belongs to."""
    return Group(line.dataset, line.model, canonical_json(dict(line.factors)))


def groups(results: Iterable[ResultLine]) -> tuple[Group, ...]:
    """All groups, plain ones (no factors) first."""
    found = {group_of(line) for line in results}
    return tuple(sorted(found, key=lambda g: (g.factors != "{}", g.dataset, g.model, g.factors)))


def in_order(names: Iterable[str], order: tuple[str, ...]) -> tuple[str, ...]:
    """The names once each: the known ones in their order, then the others by name."""
    found = set(names)
    return tuple(name for name in order if name in found) + tuple(sorted(found - set(order)))


def summarise(
    run: Run, group: Group, split: str, answer: str, correct: CorrectAnswers | None = None
) -> tuple[MethodSummary, ...]:
    """One row per method that has any result in this split and answer path, methods in the usual order.

    Predictions are the target's `all` split, so intervals are given for `split="all"` and with `correct`
    only.
    """
    lines = [line for line in _final_lines(run.results, group, answer) if line.split == split]
    targets = target_names(run, group)
    rows = []
    for method in in_order((line.method for line in lines), METHOD_ORDER):
        ours = [line for line in lines if line.method == method]
        cells = {
            target: mean_and_error([line.accuracy for line in ours if line.target == target])
            for target in targets
            if any(line.target == target for line in ours)
        }
        interval = None
        if correct is not None and split == "all" and set(cells) == set(targets):
            interval = _interval(correct.of(group, method, answer), set(targets))
        rows.append(
            MethodSummary(
                method=method,
                cells=cells,
                average=_average(ours, cells, targets),
                interval=interval,
                n=sum(line.n for line in ours),
                unparsed=sum(line.unparsed for line in ours),
                errors=sum(line.errors for line in ours),
            )
        )
    return tuple(rows)


def target_names(run: Run, group: Group) -> tuple[str, ...]:
    """The held-out domains that any result of the group names, sorted."""
    return tuple(sorted({line.target for line in run.results if group.holds(line)}))


def compare(
    correct: CorrectAnswers, group: Group, answer: str, pairs: Iterable[tuple[str, str]]
) -> tuple[Comparison, ...]:
    """Every (method, baseline) on the (target, seed) units and samples that both answered."""
    found: list[tuple[str, str, int, PairedDifference]] = []
    for method, baseline in pairs:
        ours, reference = (correct.of(group, name, answer) for name in (method, baseline))
        shared = {key for key in ours.keys() & reference.keys() if ours[key].keys() == reference[key].keys()}
        if method == baseline or not shared or not _aligned(ours, shared):
            continue
        difference = paired_difference(_vectors(ours, shared), _vectors(reference, shared), bootstrap_generator())
        found.append((method, baseline, len(shared), difference))
    adjusted = holm([difference.p_value for *_, difference in found])
    return tuple(Comparison(*one, p_value) for one, p_value in zip(found, adjusted, strict=True))


def contradictions(run: Run, correct: CorrectAnswers) -> tuple[str, ...]:
    """Results lines of the `all` split whose count is not what their predictions say, as sentences."""
    found = []
    for line in run.results:
        if line.split != "all" or line.round is not None or line.unit not in run.units:
            continue
        samples = correct.of(group_of(line), line.method, line.answer).get((line.target, line.seed))
        if samples is not None and (len(samples), sum(samples.values())) != (line.n, line.correct):
            found.append(
                f"{line.unit}: {line.answer}: results say {line.correct} of {line.n} right, "
                f"predictions say {sum(samples.values())} of {len(samples)}"
            )
    return tuple(found)


def drawn_over(seeds: int) -> str:
    """What a bootstrap interval of so many seeds speaks of."""
    return "seeds and images" if seeds > 1 else "images only, one seed"


def describe(group: Group) -> str:
    """The group in one line, for a table's title."""
    factors = "" if group.factors == "{}" else f" · {group.factors}"
    return f"{group.dataset} · {group.model}{factors}"


def _final_lines(results: Iterable[ResultLine], group: Group, answer: str) -> list[ResultLine]:
    return [line for line in results if line.round is None and line.answer == answer and group.holds(line)]


def _average(lines: list[ResultLine], cells: Mapping[str, Any], targets: tuple[str, ...]) -> MeanError | None:
    """As DomainBed's averages table: the spread over seeds of each seed's mean; seeds that lack a target give
    none.

    Where no seed has all targets but every target has some seed, the mean of the cells stands without a
    spread.
    """
    if set(cells) != set(targets):
        return None
    by_seed: dict[int, dict[str, float]] = {}
    for line in lines:
        by_seed.setdefault(line.seed, {})[line.target] = line.accuracy
    complete = [float(np.mean([found[t] for t in targets])) for found in by_seed.values() if len(found) == len(targets)]
    if len(complete) == len(by_seed):
        return mean_and_error(complete)
    return MeanError(mean=float(np.mean([cells[t].mean for t in targets])), error=0.0, count=1)


def _interval(answers: Answers, targets: set[str]) -> Interval | None:
    if {target for target, _ in answers} != targets or not _aligned(answers, set(answers)):
        return None
    return hierarchical_bootstrap(_vectors(answers, set(answers)), bootstrap_generator())


def _aligned(answers: Answers, keys: set[tuple[str, int]]) -> bool:
    """Whether all seeds of each target answered the same samples."""
    first: dict[str, set[str]] = {}
    return all(first.setdefault(key[0], set(answers[key])) == set(answers[key]) for key in sorted(keys))


def _vectors(answers: Answers, keys: set[tuple[str, int]]) -> dict[tuple[str, int], NDArray[np.bool_]]:
    return {key: np.array([answers[key][name] for name in sorted(answers[key])]) for key in keys}
