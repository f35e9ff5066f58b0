"""A run that only asks takes over what another one has trained, and nothing that was trained otherwise."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.evaluation.small import in_this_process
from tests.experiment.fake_executor import EXECUTORS, notes

from throughline.core.errors import ThroughlineError
from throughline.experiment import run as running
from throughline.experiment.config_files import load_config
from throughline.experiment.run import FinishedRun, run_experiment

pytestmark = pytest.mark.usefixtures("teacher")
METHODS = "methods=zero_shot,mtct,mtct_sarr"
ASKED = "factors={interference: {clean: {}, hint: {evaluation.misled: hint}}}"


@pytest.fixture
def run(config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., FinishedRun]:
    """Runs with an executor that knows nothing of units that are only trained: one that is not taken over fails."""
    monkeypatch.setattr(running, "run_units", in_this_process)

    def run(out: str, *overrides: str, trained_in: Path | None = None) -> FinishedRun:
        config = load_config(str(config_file), overrides)
        return run_experiment(config, tmp_path / out, executors=EXECUTORS, trained_in=trained_in)

    return run


def test_adapters_of_another_run_are_asked_and_nothing_is_trained(run: Callable[..., FinishedRun]) -> None:
    first = run("first", METHODS)
    asked = run("asked", METHODS, ASKED, trained_in=first.folder)
    trained = [unit for unit in asked.units if unit.kind == "validate"]
    assert [unit.method for unit in trained] == ["mtct", "mtct_sarr"]
    begun = {words[1] for words in notes(asked.folder) if words[0] == "begin"}
    assert begun == {unit.slug for unit in asked.units if unit.kind == "evaluate"} and len(begun) == 6
    theirs = {unit.method: unit for unit in first.units}
    for unit in trained:
        own, other = (each.folder / "units" for each in (asked, first))
        files = {path.name for path in (own / unit.name).iterdir()}
        assert "step-2.json" in files and "predictions.jsonl" not in files
        assert "cost.json" not in files  # its seconds are those of answers, too
        assert (own / unit.name / "step-2.json").read_text() == (
            other / theirs[unit.method].name / "step-2.json"
        ).read_text()
    assert run("asked", METHODS, ASKED, trained_in=first.folder).worked == 0


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["training.stage.lr=0.5"], r"sketch-mtct-seed0-\w+ was trained from other inputs \(stage.lr: .* → 0.5\)"),
        (["seeds=1"], "this run has no finished unit sketch-mtct-seed1"),
        (["methods=mtct,cls"], "this run has no finished unit sketch-cls-seed0"),
    ],
)
def test_what_was_not_trained_so_is_refused(run: Callable[..., FinishedRun], overrides: list[str], said: str) -> None:
    first = run("first", METHODS)
    with pytest.raises(ThroughlineError, match=said):
        run("asked", METHODS, ASKED, *overrides, trained_in=first.folder)
