"""What stands in the tables of a run: groups of results and their setups.

A *group* is what may stand in one table: one dataset, one model. A *setup* is a row of it: a method at one level of
each factor. What is said of them is in `estimates`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from throughline.runs.order import ANSWER_ORDER, SPLIT_ORDER, in_order
from throughline.runs.reader import Run
from throughline.runs.records import CLASS_MEASURES, Factor
from throughline.runs.unit import CLASSIFIERS, DESCRIBED, PROBE
from throughline.training.methods import CLASSIFIERS as CLASSIFIER_METHODS
from throughline.training.methods import METHODS

# Which method the others are compared with, if none is named: the paper's fair internal control, else the base.
BASELINES = tuple(name for name in reversed(METHODS) if METHODS[name].baseline)
NO_LEVEL = "–"
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
        order = in_order((setup.method for setup in setups.values()), (*METHODS, *CLASSIFIER_METHODS))

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
    def _right(self) -> dict[tuple[str, str, tuple[str, int]], pd.Series[bool]]:
        units = self._answers.groupby(["setup", "answer", "target", "seed"], sort=False)
        return {
            (setup, answer, (target, seed)): rows.set_index("sample_id")["correct"]
            for (setup, answer, target, seed), rows in units
        }

    @cached_property
    def _lines(self) -> pd.DataFrame:
        frame = self.run.frames.results
        ours = (frame["model"] == self.model) | frame["model"].str.startswith(CLASSIFIERS)
        ours &= frame["dataset"] == self.dataset
        return frame[ours & (frame["answer"].str.startswith(PROBE) == self.probes)]

    def _setup(self, row: Mapping[Any, Any]) -> Setup:
        return Setup(row["method"], {name: None if pd.isna(row[name]) else row[name] for name in self.factors})


def groups(run: Run) -> tuple[Group, ...]:
    """All groups of a run, by dataset and model, the first model of the config before the others."""
    answered = {(line.dataset, line.model) for line in run.results if not line.answer.startswith(PROBE)}
    ours = {names for names in answered if not names[1].startswith(CLASSIFIERS)}
    for dataset in {dataset for dataset, _ in answered} - {dataset for dataset, _ in ours}:
        ours.add((dataset, ", ".join(sorted(model for own, model in answered if own == dataset))))
    first = str(run.config.get("model", {}).get("checkpoint")).partition("@http")[0]
    order = sorted(ours, key=lambda names: (names[0], names[1] not in {first, Path(first).name}, names[1]))
    return tuple(Group(run, *names) for names in order)


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
    return tuple(dict.fromkeys(sentences))  # feature-level methods stand in the groups of all models


def joined(predicted: Any) -> Any:
    """Several classes as one name; one, or none, as it is."""
    return ", ".join(predicted) if isinstance(predicted, tuple) else predicted


def empty_rounds(group: Group) -> pd.DataFrame:
    """The rounds of self-labelling that accepted no chain, as rows of `Frames.rounds` with a column `setup`."""
    rounds = group.with_setup(group.run.frames.rounds)
    return rounds[rounds["accepted"] == 0]


def one_class_only(group: Group) -> pd.DataFrame:
    """The (setup, answer) pairs one of whose units answered every image with one and the same class: `setup`, `answer`
    and the class, `predicted`."""
    named = group.predictions.dropna(subset=["predicted"]).assign(predicted=lambda own: own["predicted"].map(joined))
    units = named.groupby(["setup", "answer", "unit"], sort=False)["predicted"].agg(["nunique", "first", "size"])
    alone = units[(units["nunique"] == 1) & (units["size"] > 1)].rename(columns={"first": "predicted"})
    return alone.reset_index().drop_duplicates(["setup", "answer"])
