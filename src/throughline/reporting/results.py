"""The numbers behind the tables: results gathered by setup, with intervals and comparisons drawn from the predictions.

A *group* is what may stand in one table: one dataset, one model. A *setup* is a row of it: a method at one level of
each factor. Called by everything in this room that shows results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from throughline.metrics.intervals import (
    Interval,
    MeanError,
    bootstrap_generator,
    hierarchical_bootstrap,
    mean_and_error,
)
from throughline.metrics.paired import PairedDifference, holm, paired_difference
from throughline.runs.order import ANSWER_ORDER, SPLIT_ORDER, in_order, ordered
from throughline.runs.reader import Run
from throughline.runs.records import CLASS_MEASURES, Factor
from throughline.runs.unit import DESCRIBED, PROBE, TIMM
from throughline.training.methods import FEATURE_LEVEL, METHODS

# Which method the others are compared with, if none is named: the paper's fair internal control, else the base.
BASELINES = tuple(name for name in reversed(METHODS) if METHODS[name].baseline)
NO_LEVEL = "–"
MEASURES = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "macro_f1": "Macro-F1",
    "macro_auc": "Macro-AUC",
}
"""Columns of the results that a table may be of, and what they are called."""

Pair = TypeVar("Pair", bound=tuple[str, str])
Right = Mapping[tuple[str, int], "pd.Series[bool]"]
"""Right or wrong by sample id, in the order of the ids, for each (target, seed)."""


@dataclass(frozen=True)
class Setup:
    """A method at one level of each of a group's factors; None where it does not have the factor."""

    method: str
    levels: Mapping[str, Factor | None] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """`cls`, or with factors `zero_shot, wording=short`."""
        return ", ".join(
            [self.method, *(f"{name}={level}" for name, level in self.levels.items() if level is not None)]
        )

    @property
    def cells(self) -> tuple[str, ...]:
        """The first cells of its row."""
        return (self.method, *(NO_LEVEL if level is None else str(level) for level in self.levels.values()))

    def of_method(self, method: str | None) -> str:
        """The name of another method at the same levels."""
        return Setup(method or "", self.levels).name

    def without(self, *factors: str) -> Setup:
        """It without the levels of these factors."""
        return Setup(self.method, {name: level for name, level in self.levels.items() if name not in factors})


@dataclass(frozen=True, eq=False)
class Group:
    """The results of one dataset and one model in a run, with those of feature-level methods on the dataset."""

    run: Run
    dataset: str
    model: str
    probes: bool = False
    """Whether it is of the linear probes beside the answers, each point of the model in the place of an answer path."""

    @property
    def title(self) -> str:
        """In one line, for a table's title."""
        return f"{self.dataset} · {self.model}"

    @property
    def drawn(self) -> bool:
        """Whether the images are the drawn world's."""
        return self.dataset == "drawn" or self.dataset.startswith(("drawn-", "drawn_"))

    @cached_property
    def factors(self) -> tuple[str, ...]:
        """The factors in which its units differ: a column each, behind that of the method."""
        return tuple(name for name in self.run.frames.factors if self._lines[name].notna().any())

    @property
    def heads(self) -> tuple[str, ...]:
        """The names of the first columns of its tables."""
        return ("method", *self.factors)

    @cached_property
    def setups(self) -> dict[str, Setup]:
        """By name: methods in their order, then by the levels of the factors."""
        setups = {setup.name: setup for setup in map(self._setup, self._lines.to_dict("records"))}
        order = in_order((setup.method for setup in setups.values()), (*METHODS, *FEATURE_LEVEL))

        def place(setup: Setup) -> tuple[Any, ...]:
            levels = ((level is not None, isinstance(level, str), level) for level in setup.levels.values())
            return order.index(setup.method), *levels

        return {setup.name: setup for setup in sorted(setups.values(), key=place)}

    @cached_property
    def results(self) -> pd.DataFrame:
        """Its results lines with a column `setup`."""
        return self._lines.assign(setup=[self._setup(row).name for row in self._lines.to_dict("records")])

    @cached_property
    def final(self) -> pd.DataFrame:
        """The results of finished units, not of their rounds."""
        return self.results[self.results["round"].isna()]

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """The answers about images of its finished units with a column `setup`, in the order of the sample ids."""
        return self._answers[self._answers["domain"] != DESCRIBED]

    @cached_property
    def _answers(self) -> pd.DataFrame:
        frame = self.run.frames.predictions
        ours = self.with_setup(frame[frame["unit"].isin(self.final["unit"])])
        ours = ours.drop_duplicates(["unit", "answer", "sample_id"], keep="last")
        return ours.sort_values("sample_id", kind="stable")

    def with_setup(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Those rows of a frame that are about its units, with a column `setup`; units by name."""
        setup_of = self.results.drop_duplicates("unit").set_index("unit")["setup"]
        ours = frame[frame["unit"].isin(setup_of.index)]
        return ours.assign(setup=ours["unit"].map(setup_of))

    @property
    def splits(self) -> tuple[str, ...]:
        """Those with final results."""
        return in_order(self.final["split"], SPLIT_ORDER)

    @property
    def main_split(self) -> str:
        """The split that headlines are about: the whole target where it was measured, since intervals exist for it."""
        return "all" if "all" in self.splits else next(iter(self.splits), "all")

    @property
    def answers(self) -> tuple[str, ...]:
        """The answer paths with final results."""
        return in_order(self.final["answer"], ANSWER_ORDER)

    @property
    def class_measured(self) -> tuple[str, ...]:
        """The measures that count every class alike and that any final result has."""
        return tuple(name for name in CLASS_MEASURES if self.final[name].notna().any())

    @property
    def main_answer(self) -> str:
        """The answer path that headlines are about: the label path where it was asked, since every method can answer on
        it and it is what the baselines are trained for; else the first there is. Never the one that looks best."""
        return next(iter(self.answers), "label")

    @property
    def measured(self) -> set[tuple[str, str]]:
        """The splits and answer paths that have final results together."""
        return set(zip(self.final["split"], self.final["answer"], strict=True))

    @property
    def targets(self) -> tuple[str, ...]:
        """The held-out domains that any result names, sorted."""
        return tuple(sorted(set(self.results["target"])))

    @property
    def seeds(self) -> int:
        """How many seeds its results are of."""
        return int(self.results["seed"].nunique())

    def final_setups(self, answer: str | None = None) -> tuple[str, ...]:
        """Setups with final results, on an answer path if one is named."""
        rows = self.final if answer is None else self.final[self.final["answer"] == answer]
        return in_order(rows["setup"], self.setups)

    def right(self, setup: str, answer: str) -> Right:
        """Right or wrong for each (target, seed) of the finished units, whatever samples their predictions hold."""
        return {place: right for (*path, place), right in self._right.items() if path == [setup, answer]}

    def baseline(self, answer: str, method: str | None = None) -> str | None:
        """The setup that others are compared with: of the method named, else of the first of BASELINES there is."""
        setups = [self.setups[name] for name in self.final_setups(answer)]
        methods = {setup.method for setup in setups}
        chosen = method or next((name for name in BASELINES if name in methods), None)
        return next((setup.name for setup in setups if setup.method == chosen), None)

    @cached_property
    def summaries(self) -> dict[tuple[str, str, str], dict[str, Summary]]:
        """What `summarise` has found so far, by split, answer path and measure."""
        return {}

    @cached_property
    def _right(self) -> dict[tuple[str, str, tuple[str, int]], pd.Series[bool]]:
        units = self._answers.groupby(["setup", "answer", "target", "seed"], sort=False)
        return {
            (setup, answer, (target, seed)): rows.set_index("sample_id")["correct"]
            for (setup, answer, target, seed), rows in units
        }

    @cached_property
    def _lines(self) -> pd.DataFrame:
        frame = self.run.frames.results
        ours = (frame["model"] == self.model) | frame["model"].str.startswith(TIMM)
        ours &= frame["dataset"] == self.dataset
        return frame[ours & (frame["answer"].str.startswith(PROBE) == self.probes)]

    def _setup(self, row: Mapping[Any, Any]) -> Setup:
        return Setup(row["method"], {name: None if pd.isna(row[name]) else row[name] for name in self.factors})


@dataclass(frozen=True)
class Summary:
    """One setup's row. All shares in 0..1."""

    setup: Setup
    cells: Mapping[str, MeanError]
    """For each target mean and standard error over seeds; a target without results has no entry."""
    average: MeanError | None
    """Over seeds, of each seed's mean over all targets; None when a target is missing."""
    interval: Interval | None
    """Hierarchical bootstrap of the average over images and seeds, where the predictions are there."""
    n: int
    unparsed: int
    errors: int


@dataclass(frozen=True)
class Comparison:
    """A setup minus a baseline on the units that both have, with Holm's correction over the pairs compared."""

    setup: Setup
    baseline: Setup
    units: int
    paired: PairedDifference
    adjusted_p: float


def groups(run: Run) -> tuple[Group, ...]:
    """All groups of a run, by dataset and model, the first model of the config before the others."""
    answered = {(line.dataset, line.model) for line in run.results if not line.answer.startswith(PROBE)}
    models = {dataset for dataset, model in answered if not model.startswith(TIMM)}
    answered = {names for names in answered if names[0] not in models or not names[1].startswith(TIMM)}
    first = str(run.config.get("model", {}).get("checkpoint")).partition("@http")[0]
    order = sorted(answered, key=lambda names: (names[0], names[1] not in {first, Path(first).name}, names[1]))
    return tuple(Group(run, *names) for names in order)


def summarise(group: Group, split: str, answer: str, measure: str = "accuracy") -> dict[str, Summary]:
    """By setup, for those that have any result in this split and answer path; `measure` is a key of MEASURES.

    Predictions are the target's `all` split, so there are intervals for that split only, and of accuracy only.
    """
    key = split, answer, measure  # a page asks for the same several times
    if key not in group.summaries:
        group.summaries[key] = _summarised(group, *key)
    return group.summaries[key]


def _summarised(group: Group, split: str, answer: str, measure: str) -> dict[str, Summary]:
    with_interval = split == "all" and measure == "accuracy"
    rows = group.final[(group.final["split"] == split) & (group.final["answer"] == answer)].dropna(subset=[measure])
    targets = group.targets
    summaries = {}
    for name, ours in ordered(rows, setup=group.setups).groupby("setup", observed=True):
        cells = {str(target): mean_and_error(list(values)) for target, values in ours.groupby("target")[measure]}
        whole = set(cells) == set(targets)
        summaries[name] = Summary(
            setup=group.setups[name],
            cells=cells,
            average=_average(ours, cells, measure) if whole else None,
            interval=_interval(group.right(name, answer), targets) if whole and with_interval else None,
            **{count: int(ours[count].sum()) for count in ("n", "unparsed", "errors")},
        )
    return summaries


def averages(group: Group, split: str, measure: str) -> pd.Series[float]:
    """Avg of a measure by setup and answer path, the mean over targets of the mean over seeds; NaN where a target has
    none."""
    rows = group.final[group.final["split"] == split]
    by_target = rows.groupby(["setup", "answer", "target"])[measure].mean().unstack()
    return by_target.reindex(columns=group.targets).mean(axis=1, skipna=False)


def compare(group: Group, answer: str, pairs: Iterable[tuple[str, str]]) -> tuple[Comparison, ...]:
    """Every (setup, baseline) on the (target, seed) units and samples that both answered."""
    rights: dict[tuple[str, str], tuple[Right, Right]] = {}
    for name, baseline in pairs:
        ours, theirs = group.right(name, answer), group.right(baseline, answer)
        shared = {key: ours[key] for key in ours if key in theirs and ours[key].index.equals(theirs[key].index)}
        if name != baseline:
            rights[name, baseline] = shared, theirs
    return tuple(
        Comparison(group.setups[name], group.setups[baseline], len(rights[name, baseline][0]), *difference)
        for (name, baseline), difference in differences(rights).items()
    )


def against_baseline(group: Group, answer: str, baseline: str | None = None) -> tuple[Comparison, ...]:
    """Every setup minus the baseline (a method; None: see `Group.baseline`) on an answer path; Holm over them all."""
    reference = group.baseline(answer, baseline)
    if reference is None:
        return ()
    return compare(group, answer, [(name, reference) for name in group.final_setups(answer)])


def ahead_of_all(group: Group, answer: str, rows: Mapping[str, Summary]) -> str | None:
    """The setup whose difference from every other of the `rows` is above 0, by its interval and by p after Holm over
    these pairs (below 0.05); None where no setup is that."""
    means = {name: row.average.mean for name, row in rows.items() if row.average}
    if not means:
        return None
    best = max(means, key=means.__getitem__)
    compared = compare(group, answer, [(best, name) for name in rows if name != best])
    ahead = [row for row in compared if row.paired.interval.low > 0 and row.adjusted_p < 0.05]
    return best if ahead and len(ahead) == len(rows) - 1 else None


def differences(rights: Mapping[Pair, tuple[Right, Right]]) -> dict[Pair, tuple[PairedDifference, float]]:
    """By pair the first minus the second, over all of the first, which the second has on the same samples, and p after
    Holm's correction over them all. Left out where the first is empty, or the seeds of a target answered other
    samples."""
    paired = {
        pair: paired_difference(_vectors(ours), _vectors({key: theirs[key] for key in ours}), bootstrap_generator())
        for pair, (ours, theirs) in rights.items()
        if ours and _aligned(ours)
    }
    adjusted = holm([difference.p_value for difference in paired.values()])
    return {pair: (paired[pair], p_value) for pair, p_value in zip(paired, adjusted, strict=True)}


def same_samples(ours: Right, theirs: Right) -> bool:
    """Whether both are of the same targets, seeds and samples."""
    return ours.keys() == theirs.keys() and all(ours[key].index.equals(theirs[key].index) for key in ours)


def contradictions(run: Run) -> tuple[str, ...]:
    """Results lines of the `all` split whose count is not what their predictions say, as sentences."""
    sentences = []
    for group in groups(run):
        for line in group.final[group.final["split"] == "all"].itertuples():
            answers = group.right(line.setup, line.answer).get((line.target, line.seed))
            if answers is not None and (len(answers), int(answers.sum())) != (line.n, line.correct):
                sentences.append(
                    f"{line.unit}: {line.answer}: {line.correct} of {line.n} right in the results, "
                    f"{int(answers.sum())} of {len(answers)} in the predictions"
                )
    return tuple(sentences)


def empty_rounds(group: Group) -> pd.DataFrame:
    """The rounds of self-labelling that accepted no chain, as rows of `Frames.rounds` with a column `setup`."""
    rounds = group.with_setup(group.run.frames.rounds)
    return rounds[rounds["accepted"] == 0]


def one_class_only(group: Group) -> pd.DataFrame:
    """The (setup, answer) pairs one of whose units answered every image with one and the same class: `setup`, `answer`
    and the class, `predicted`."""
    named = group.predictions.dropna(subset=["predicted"])
    units = named.groupby(["setup", "answer", "unit"], sort=False)["predicted"].agg(["nunique", "first", "size"])
    alone = units[(units["nunique"] == 1) & (units["size"] > 1)].rename(columns={"first": "predicted"})
    return alone.reset_index().drop_duplicates(["setup", "answer"])


def drawn_over(seeds: int) -> str:
    """What a bootstrap interval of so many seeds speaks of."""
    return "seeds and images" if seeds > 1 else "images only, one seed"


def _average(rows: pd.DataFrame, cells: Mapping[str, MeanError], measure: str) -> MeanError:
    """As DomainBed's averages table: the spread over seeds of each seed's mean over targets.

    Where a seed lacks a target but every target has some seed, the mean of the cells stands without a spread.
    """
    last = dict(zip(zip(rows["seed"], rows["target"], strict=True), rows[measure], strict=True))
    by_seed = np.array([[last.get((seed, name), np.nan) for name in cells] for seed in sorted(set(rows["seed"]))])
    if not np.isnan(by_seed).any():
        return mean_and_error(list(map(float, by_seed.mean(axis=1))))
    return MeanError(mean=float(np.mean([cell.mean for cell in cells.values()])), error=0.0, count=1)


def _interval(right: Right, targets: tuple[str, ...]) -> Interval | None:
    if {target for target, _ in right} != set(targets) or not _aligned(right):
        return None
    first = right[min(right)]
    if all(own.index.equals(first.index) for own in right.values()):  # descriptions are the same for every target
        right = {key: own for key, own in right.items() if key[0] == targets[0]}
    return hierarchical_bootstrap(_vectors(right), bootstrap_generator())


def _aligned(right: Right) -> bool:
    """Whether all seeds of each target answered the same samples."""
    first: dict[str, pd.Index[Any]] = {}
    return all(first.setdefault(key[0], right[key].index).equals(right[key].index) for key in right)


def _vectors(right: Right) -> dict[tuple[str, int], NDArray[np.bool_]]:
    return {key: answers.to_numpy(dtype=bool) for key, answers in right.items()}
