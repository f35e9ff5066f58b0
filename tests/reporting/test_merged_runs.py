"""Evidence measured in parts, a few held-out domains each, is the evidence of one run of all of them."""

import shutil
from pathlib import Path

import pytest
import yaml
from tests.reporting.conftest import write_run

import evidence
from merged_runs import merge_runs, reduce_part
from reduced_run import reduce_run
from throughline.analysis.document import FILE as ANALYSIS
from throughline.analysis.document import Analysis, read_analysis, write_analysis
from throughline.core.errors import ThroughlineError
from throughline.drawn.styles import DOMAIN_STYLES
from throughline.experiment.analyses.sensitivity import rounds_varied
from throughline.reporting.groups import groups
from throughline.reporting.tables import headline_table, rounds_table
from throughline.runs.folder import ADAPTER, PREDICTIONS, round_folder
from throughline.runs.reader import REDUCED_UNITS, read_run

METHODS = ("zero_shot", "cls", "mtct", "mtct_sarr")


def fold(root: Path, targets: tuple[str, ...], seeds: tuple[int, ...], lr: float = 1e-3) -> Path:
    """A run of these targets and seeds, with an analysis of its rounds."""
    fake = write_run(root, targets, METHODS, seeds, 20)
    config = {
        "name": "demo",
        "data": {"images": "images", "targets": list(targets)},
        "methods": list(METHODS),
        "seeds": list(seeds),
        "training": {"stage": {"lr": lr}},
    }
    (fake.folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    for unit in (fake.folder / "units").glob("mtct_sarr-*"):
        like = f"cls-{unit.name.removeprefix('mtct_sarr-').rsplit('-', 1)[0]}-*"
        (before,) = (fake.folder / "units").glob(like)
        for number, answers in enumerate((before, unit), start=1):
            (round_folder(unit, number) / ADAPTER).mkdir(parents=True)
            shutil.copy(answers / PREDICTIONS, round_folder(unit, number) / PREDICTIONS)
    rounds = tuple(rounds_varied(read_run(fake.folder)))
    analysis = Analysis(dataset="fake", model="pocket", drawn=True, limit=20, classes=(), folds=(), sensitivity=rounds)
    write_analysis(fake.folder / ANALYSIS, analysis)
    return fake.folder


def part(root: Path, target: str, seed: int, lr: float = 1e-3) -> Path:
    """One fold, reduced."""
    return reduce_part(fold(root, (target,), (seed,), lr), root / "reduced").folder


@pytest.mark.slow
def test_parts_give_the_tables_of_the_whole(tmp_path: Path) -> None:
    parts = [part(tmp_path / f"{t}{s}", t, s) for s in (0, 1) for t in ("painting", "sketch")]
    merged = merge_runs(parts, tmp_path / "merged")
    whole = reduce_run(fold(tmp_path / "whole", ("painting", "sketch"), (0, 1)), tmp_path / "w")
    (ours,), (theirs,) = groups(merged), groups(whole)
    assert headline_table(ours, "all") == headline_table(theirs, "all")
    assert rounds_table(ours) == rounds_table(theirs)
    assert (merged.folder / REDUCED_UNITS).read_text() == (whole.folder / REDUCED_UNITS).read_text()
    assert (merged.config["data"]["targets"], merged.config["seeds"]) == (["painting", "sketch"], [0, 1])
    rounds, of_whole = (read_analysis(run.folder / ANALYSIS) for run in (merged, whole))
    assert rounds is not None
    assert of_whole is not None
    assert rounds.sensitivity == of_whole.sensitivity != ()


def test_parts_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    first, twice = (part(tmp_path / name, "painting", 0) for name in ("first", "twice"))
    with pytest.raises(ThroughlineError, match="every seed once"):
        merge_runs([first, twice], tmp_path / "merged")
    with pytest.raises(ThroughlineError, match="every seed once"):
        merge_runs([first, part(tmp_path / "sketch", "sketch", 1)], tmp_path / "merged")
    with pytest.raises(ThroughlineError, match=r"differs in more than data\.targets and seeds"):
        merge_runs([first, part(tmp_path / "other", "sketch", 0, lr=3e-3)], tmp_path / "merged")
    default = part(tmp_path / "default", "sketch", 0)
    config = yaml.safe_load((default / "config.yaml").read_text())
    (default / "config.yaml").write_text(yaml.safe_dump({**config, "threads": 1, "workers": 2}))
    # a key that another version wrote, and a number of workers, on which no number depends
    assert merge_runs([first, default], tmp_path / "merged").config["data"]["targets"] == ["painting", "sketch"]


@pytest.mark.slow
def test_a_seed_that_all_targets_have_is_shown_before_the_next_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence, "EVIDENCE", tmp_path)

    def stopped(*arguments: str) -> None:
        assert "seeds=1" in arguments
        raise KeyboardInterrupt

    monkeypatch.setattr(evidence, "throughline", stopped)
    for target in DOMAIN_STYLES:
        shutil.copytree(part(tmp_path / target, target, 0), tmp_path / "demo_full_parts" / f"{target}-seed0")
    with pytest.raises(KeyboardInterrupt):
        evidence.demo_full()
    assert {line.seed for line in read_run(tmp_path / "demo_full").results} == {0}
    assert len(list((tmp_path / "demo_full_parts").iterdir())) == len(DOMAIN_STYLES)
