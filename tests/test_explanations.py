"""Two explanations of the full table: what each trial changes, what it is compared with, and how it is shown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.answered_run import Answered, write_answered

import documents
from commands import EVIDENCE
from explanations import TRIALS, Explanations, explain
from explanations_block import RECORD
from records import Budgets, read_record, write_record
from reduced_run import reduce_run
from throughline.core.errors import ThroughlineError
from throughline.experiment.config import RunConfig
from throughline.experiment.config_files import load_config

SIZE = 40
SEEDS = (0, 1, 2)
STYLES = ("cartoon", "photo", "sketch")
TABLE = ("mtct", "mtct_sarr", "mtct_matched", "reasoning")


def answers(method: str, target: str, seed: int, path: str, trial: str = "") -> NDArray[np.bool_]:
    """Right answers, other ones for every unit and path."""
    name = f"{method} {target} {seed} {path} {trial}"
    rng = np.random.default_rng(list(bytes(name, "utf-8")))
    return rng.uniform(size=SIZE) < 0.5 + 0.2 * bool(trial)


def answered(method: str, target: str, seed: int, trial: str = "") -> Answered:
    paths = ("likelihood", "label", "reasoning")
    return Answered(target, {path: answers(method, target, seed, path, trial) for path in paths}, method, seed)


def chosen() -> Budgets:
    budgets = read_record(EVIDENCE / "budgets.json", Budgets)
    assert budgets is not None
    return budgets


@pytest.fixture
def runner(tmp_path: Path) -> Any:
    """Stands for `throughline run`, and keeps the configs that it was called with by folder; a full table stands
    beside it. `explain()` runs the trials."""
    units = [answered(method, target, seed) for method in TABLE for target in STYLES for seed in SEEDS]
    write_answered(tmp_path / "table", units, "drawn", "pocket")
    reduce_run(tmp_path / "table", tmp_path / "full")
    configs: dict[str, RunConfig] = {}

    def run(preset: str, *words: str) -> None:
        config = load_config(preset, [words[at + 1] for at, word in enumerate(words) if word == "--set"])
        folder = Path(words[-1])
        configs[folder.name] = config
        (method,), (target,), (seed,) = config.methods, tuple(config.data.targets), config.seeds
        write_answered(tmp_path / folder, [answered(method, target, seed, folder.name[:6])], "drawn", "pocket")

    def explained(run: Callable[..., None] = run) -> Explanations:
        *_, found = explain(tmp_path, run, chosen(), tmp_path / "full", tmp_path / "parts")
        return found

    return SimpleNamespace(root=tmp_path, run=run, configs=configs, explain=explained)


def test_a_trial_changes_one_thing_of_the_full_table(runner: Any) -> None:
    runner.explain()
    places = {f"{trial.name}-{target}-seed{seed}" for trial in TRIALS for target in trial.targets for seed in SEEDS}
    assert runner.configs.keys() == places
    full = load_config("demo_full")
    for name, config in runner.configs.items():
        [method], targets = config.methods, config.data.targets
        ours, theirs = (each.at(each.data, {}, method, targets) for each in (config, full))
        assert ours.data == theirs.data.model_copy(update={"targets": targets})
        assert (ours.model, ours.chains, ours.evaluation) == (theirs.model, theirs.chains, theirs.evaluation)
        if name.startswith("labels"):
            assert method == "mtct_sarr"
            assert ours.training == theirs.training.model_copy(update={"rejected": "label_only"})
        else:
            assert (method, theirs.training.stage.epochs) == ("mtct", 4)
            longer = theirs.training.stage.model_copy(update={"epochs": 8})
            assert ours.training == theirs.training.model_copy(update={"stage": longer})


def test_differences_are_those_of_the_answers_about_the_same_images(runner: Any) -> None:
    found = {(row.trial, row.against, row.answer): row for row in runner.explain().comparisons}
    assert len(found) == sum(len(trial.answers) * len(trial.against) for trial in TRIALS)
    for trial in TRIALS:
        for against in trial.against:
            for path in trial.answers:
                row = found[trial.name, against, path]
                gaps = {
                    target: np.mean(
                        [
                            answers(trial.method, target, seed, path, trial.name).mean()
                            - answers(against, target, seed, path).mean()
                            for seed in SEEDS
                        ]
                    )
                    for target in trial.targets
                }
                assert row.by_target == pytest.approx(gaps)
                assert row.difference.mean == pytest.approx(np.mean([*gaps.values()]))
                assert row.difference.low < row.difference.mean < row.difference.high


def test_what_is_measured_is_not_run_again(runner: Any) -> None:
    first = runner.explain()

    def nothing(*words: str) -> None:
        raise AssertionError(words)

    assert runner.explain(nothing) == first


def test_the_parent_is_the_full_tables_own_where_it_still_lies_there(runner: Any) -> None:
    lender = runner.root / "runs/demo_full/photo-seed1"
    for name in ("photo-mtct-seed1-0a", "photo-mtct_sarr-seed1-0b", "photo-mtct_matched-seed1-0c"):
        (lender / "units" / name).mkdir(parents=True)
        (lender / "units" / name / "done").write_text("x")
    (lender / "config.yaml").write_text("name: lent\n")
    seen: dict[str, list[str]] = {}

    def run(*words: str) -> None:
        folder = runner.root / words[-1]
        seen[folder.name] = sorted(unit.name for unit in (folder / "units").glob("*"))
        assert (folder / "config.yaml").exists() == bool(seen[folder.name])
        for unit in (folder / "units").glob("*"):
            (unit / "done").unlink()
            unit.rmdir()
        runner.run(*words)

    runner.explain(run)
    assert {name: units for name, units in seen.items() if units} == {"labels-photo-seed1": ["photo-mtct-seed1-0a"]}


def test_a_table_that_lacks_a_seed_is_refused(runner: Any) -> None:
    units = [answered(method, target, seed) for method in TABLE for target in STYLES for seed in SEEDS[:2]]
    write_answered(runner.root / "short", units, "drawn", "pocket")
    reduce_run(runner.root / "short", runner.root / "full")
    with pytest.raises(ThroughlineError, match=r"no likelihood answers of mtct_sarr .* on photo with seed 2"):
        runner.explain()


def test_the_block_shows_the_record_and_nothing_without(runner: Any, tmp_path: Path) -> None:
    evidence = tmp_path / "evidence"
    assert documents.BLOCKS["explanations"](evidence) == documents.NOT_MEASURED
    record = runner.explain()
    write_record(evidence / RECORD, record)
    block = documents.BLOCKS["explanations"](evidence)
    row = next(row for row in record.comparisons if (row.trial, row.against) == ("epochs", "reasoning"))
    low, high = 100 * row.difference.low, 100 * row.difference.high
    shown = f"{100 * row.difference.mean:+.1f} ({low:+.1f} to {high:+.1f})"
    styles = ", ".join(f"{name} {100 * gap:+.1f}" for name, gap in row.by_target.items())
    assert f"| mtct, eight epochs | reasoning | reasoning | {shown} | {styles} |" in block


def test_a_trial_is_shown_before_the_next_is_run(runner: Any) -> None:
    def first_alone(*words: str) -> None:
        if words[-1].startswith("runs/explanations/epochs"):
            raise KeyboardInterrupt
        runner.run(*words)

    shown = explain(runner.root, first_alone, chosen(), runner.root / "full", runner.root / "parts")
    assert {row.trial for row in next(shown).comparisons} == {"labels"}
    with pytest.raises(KeyboardInterrupt):
        next(shown)
