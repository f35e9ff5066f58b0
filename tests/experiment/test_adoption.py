"""A run that only asks takes over what another one has trained, and nothing that was trained otherwise."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.evaluation.small import in_this_process
from tests.experiment.fake_executor import EXECUTORS, notes

from throughline.cli.main import main
from throughline.core.errors import ThroughlineError
from throughline.experiment import plan
from throughline.experiment import run as running
from throughline.experiment.config_files import load_config
from throughline.experiment.run import FinishedRun, run_experiment
from throughline.runs.unit import FEATURE_LEVEL

pytestmark = pytest.mark.usefixtures("teacher")
METHODS = "methods=zero_shot,mtct,mtct_sarr"
ASKED = "factors={interference: {clean: {}, hint: {evaluation.misled: hint}}}"
CLIP = "baselines.clip.checkpoint=pocket_clip"
VALIDATED = "evaluation.selection=validation"
EVIDENCE = Path(__file__).parents[2] / "evidence"


@pytest.fixture
def run(config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., FinishedRun]:
    """Runs with an executor that knows nothing of units that are only trained: one that is not taken over fails."""
    monkeypatch.setattr(running, "run_units", in_this_process)
    executors = {**EXECUTORS, FEATURE_LEVEL: EXECUTORS["fold"]}

    def run(out: str, *overrides: str, trained_in: Path | None = None) -> FinishedRun:
        config = load_config(str(config_file), overrides)
        return run_experiment(config, tmp_path / out, executors=executors, trained_in=trained_in)

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
    ("trained", "overrides", "said"),
    [
        ([], ["training.stage.lr=0.5"], r"sketch-mtct-seed0-\w+ was trained from other inputs \(stage.lr: .* → 0.5\)"),
        ([], ["seeds=1"], "this run has no finished unit sketch-mtct-seed1 of checkpoint"),
        ([], ["methods=mtct,cls"], "this run has no finished unit sketch-cls-seed0"),
        (
            [VALIDATED],
            [VALIDATED, "evaluation.answering.answers=likelihood,label"],
            r"trained from other inputs \(answering.answers: \['label'\] → \['likelihood'\]\)",
        ),
    ],
)
def test_what_was_not_trained_so_is_refused_before_anything_is_written(
    run: Callable[..., FinishedRun], tmp_path: Path, trained: list[str], overrides: list[str], said: str
) -> None:
    first = run("first", METHODS, *trained)
    with pytest.raises(ThroughlineError, match=said):
        run("asked", METHODS, ASKED, *overrides, trained_in=first.folder)
    assert not (tmp_path / "asked").exists()


def test_what_was_trained_from_other_images_is_refused(run: Callable[..., FinishedRun], images: Path) -> None:
    first = run("first", METHODS)
    (images / "photo" / "cat" / "0.png").write_bytes(b"another one")
    with pytest.raises(ThroughlineError, match=r"was trained from other inputs \(images changed\)"):
        run("asked", METHODS, ASKED, trained_in=first.folder)


@pytest.mark.parametrize(
    ("methods", "trained", "asked"),
    [
        (METHODS, [], ["evaluation.answering.answers=reasoning", "evaluation.answering.batch=4"]),
        (METHODS, ["evaluation.view={kind: fog, severity: 5}"], []),
        (METHODS, [VALIDATED], [VALIDATED, "evaluation.answering.answers=label", "evaluation.answering.batch=4"]),
        ("methods=clip_linear_probe", [CLIP], [CLIP, "evaluation.answering.batch=4"]),
    ],
)
def test_how_a_run_asks_and_asked_changes_no_weights(
    run: Callable[..., FinishedRun],
    monkeypatch: pytest.MonkeyPatch,
    methods: str,
    trained: list[str],
    asked: list[str],
) -> None:
    first = run("first", methods, *trained)
    monkeypatch.setitem(plan.VERSIONS, "answering", plan.VERSIONS["answering"] + 1)
    second = run("asked", methods, ASKED, *asked, trained_in=first.folder)
    assert second.worked == sum(unit.kind == "evaluate" for unit in second.units)


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_what_a_run_has_not_trained_is_refused_before_levels_are_painted(
    run: Callable[..., FinishedRun], capsys: pytest.CaptureFixture[str], dry: list[str]
) -> None:
    folder = run("first", METHODS, "data.images=null", "data.drawn.per_class=1").folder
    for words, said in (
        (["--set", "seeds=1"], "this run has no finished unit sketch-mtct-seed1"),
        (["--combinations"], "this run has no finished unit sketch-mtct-combinations=any-seed0"),
        (["--set", "training.stage.lr=0.5"], "was trained from other inputs (stage.lr: "),
    ):
        assert main(["drift", "robustness", str(folder), *words, *dry]) == 1
        assert said in capsys.readouterr().err
    assert not (folder / "robustness").exists()


def test_a_reduced_run_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["drift", "robustness", str(EVIDENCE / "demo_full"), "--dry-run"]) == 1
    assert capsys.readouterr().err.startswith("throughline: error: a reduced run has no weights to ask [")
