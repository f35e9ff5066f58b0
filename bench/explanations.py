"""Two explanations of what the full table shows, each by a run that would look otherwise if it were wrong. Called by
`evidence.py explanations`.

Written down before anything was run, in docs/notebook.md: *labels that go*: a round drops an image whose chain is
rejected, and its label with it, so rounds that keep such labels should be ahead of rounds that do not. *Chains half
learnt*: where four epochs were chosen for `mtct`, by likelihood, eight should take its conclusions more than half of
the way to those of `reasoning`. All else is as in the full table, whose answers about the same images, with the same
seeds, are what each trial is compared with. Stopped trials resume.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from pydantic import Field

from budgets import EPOCHS, per_method
from records import Budgets, Machine, Record, this_machine
from reduced_run import read_group, reduce_run
from throughline.core.errors import ThroughlineError
from throughline.core.files import whole_folder
from throughline.experiment.config_files import load_config
from throughline.metrics.intervals import Interval, bootstrap_generator
from throughline.metrics.paired import paired_difference
from throughline.reporting.groups import Group
from throughline.runs.folder import CONFIG, UNITS
from throughline.runs.reader import REDUCED_PREDICTIONS
from throughline.training.methods import METHODS


@dataclass(frozen=True)
class Trial:
    """A method of the full table with one thing changed, on some of the held-out styles."""

    name: str
    method: str
    changed: str
    """What was changed, in the words of a table."""
    targets: tuple[str, ...]
    answers: tuple[str, ...]
    against: tuple[str, ...]
    """Methods of the full table that it is compared with."""
    keys: tuple[str, ...] = ()
    """What `--set` changes of the full table's config."""
    epochs: int | None = None
    """Epochs in the place of those that were chosen."""


TRIALS = (
    Trial(
        "labels",
        "mtct_sarr",
        "labels of rejected chains kept",
        ("photo", "sketch"),
        ("likelihood", "label", "reasoning"),
        ("mtct_sarr", "mtct_matched"),
        keys=("training.rejected=label_only",),
    ),
    Trial("epochs", "mtct", "eight epochs", ("cartoon", "photo"), ("reasoning",), ("mtct", "reasoning"), epochs=8),
)


class Comparison(Record):
    """A trial minus a method of the full table on the same images: shares of answers, -1 to 1, with a 95 % interval
    over seeds and images; and the mean of each held-out style."""

    trial: str
    against: str
    answer: str
    difference: Interval
    by_target: dict[str, float]


class Explanations(Record):
    """What the trials say."""

    command: str
    seeds: int
    comparisons: list[Comparison] = Field(min_length=1)
    environment: Machine


def explain(root: Path, run: Callable[..., None], budgets: Budgets, full: Path, parts: Path) -> Iterator[Explanations]:
    """Runs every trial, a style and seed at a time; after each trial gives what all say that were run so far.

    `run(*words)` is `throughline run`, and `full` the reduced run of the full table. Each reduced run is kept in
    `parts`, from which it is taken if it is there. Raises a ThroughlineError for a run that is not whole, and where the
    table has other images or seeds.
    """
    table = read_group(full)
    seeds = load_config("demo_full").seeds
    comparisons: list[Comparison] = []
    for trial in TRIALS:
        folders = []
        for target in trial.targets:
            for seed in seeds:
                part = parts / f"{trial.name}-{target}-seed{seed}"
                folders.append(part)
                if not (part / REDUCED_PREDICTIONS).is_file():
                    folder = Path("runs") / "explanations" / part.name
                    _borrow(trial, root / "runs" / "demo_full" / f"{target}-seed{seed}", root / folder)
                    run("demo_full", *_settings(trial, target, seed, budgets), "--out", str(folder))
                    reduce_run(root / folder, part)
        comparisons += _compare(trial, [read_group(folder) for folder in folders], table, seeds)
        yield Explanations(
            command="python bench/evidence.py explanations",
            seeds=len(seeds),
            comparisons=list(comparisons),
            environment=this_machine(),
        )


def _settings(trial: Trial, target: str, seed: int, budgets: Budgets) -> list[str]:
    chosen = per_method(budgets)
    if trial.epochs is not None:
        chosen[f"{trial.method}@{target}"][EPOCHS] = trial.epochs
    keys = [f"data.targets={target}", f"seeds={seed}", f"methods={trial.method}", f"per_method={json.dumps(chosen)}"]
    return [word for key in (*keys, *trial.keys) for word in ("--set", key)]


def _borrow(trial: Trial, lender: Path, folder: Path) -> None:
    """Begins a trial's run with the units of the full table that it starts from, if they still lie there: their inputs
    are the same, so the run takes them as its own."""
    parent = METHODS[trial.method].starts_from
    units = sorted((lender / UNITS).glob(f"*-{parent}-*")) if parent else []
    if folder.exists() or not units:
        return
    with whole_folder(folder) as work:
        shutil.copy(lender / CONFIG, work)  # without one it is no run folder; the run writes its own
        for unit in units:
            shutil.copytree(unit, work / UNITS / unit.name)


def _compare(trial: Trial, parts: Sequence[Group], table: Group, seeds: Sequence[int]) -> list[Comparison]:
    """The trial against each method that it is compared with."""
    places = [(target, seed) for target in trial.targets for seed in seeds]
    found = []
    for answer in trial.answers:
        own = {place: right for part in parts for place, right in part.right(trial.method, answer).items()}
        for method in trial.against:
            others = table.right(method, answer)
            lacking = [place for place in places if place not in own or place not in others]
            if lacking:
                what = f"no {answer} answers of {method} or of the trial on {lacking[0][0]} with seed {lacking[0][1]}"
                raise ThroughlineError(what, table.run.folder, "measure all seeds of the full table first")
            ours = {place: own[place] for place in places}
            theirs = {place: _in_the_order_of(ours[place], others[place], table.run.folder) for place in places}
            gaps = pd.Series({place: ours[place].mean() - theirs[place].mean() for place in places})
            found.append(
                Comparison(
                    trial=trial.name,
                    against=method,
                    answer=answer,
                    difference=paired_difference(ours, theirs, bootstrap_generator()).interval,
                    by_target={target: float(gaps[target].mean()) for target in trial.targets},
                )
            )
    return found


def _in_the_order_of(ours: pd.Series[bool], theirs: pd.Series[bool], folder: Path) -> pd.Series[bool]:
    """The table's answers in the order of the trial's. ThroughlineError where they are about other images."""
    if set(ours.index) != set(theirs.index):
        raise ThroughlineError("the trial and the full table have answered other images", folder, "run both again")
    return theirs.loc[ours.index]
