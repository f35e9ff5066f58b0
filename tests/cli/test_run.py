import itertools
import json
from types import SimpleNamespace

import pytest

from throughline.cli import progress as progress_module
from throughline.cli.main import main
from throughline.cli.progress import describe, progress, run_progress
from throughline.experiment.engine.local import Progress
from throughline.runs.unit import Unit


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "internvl", "vision_config": {}}')
    (folder / "model.safetensors").write_text("")
    return folder


def test_the_presets_are_listed(capsys):
    assert main(["run", "--list"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("demo ", "demo_full", "paper/pacs", "paper/terra_incognita", "tiny"))


def test_a_dry_run_shows_config_units_and_costs_and_writes_nothing(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["run", "demo", "--dry-run", "--set", f"model.checkpoint={checkpoint}", "--workers", "3"]) == 0
    printed = capsys.readouterr().out
    assert "workers: 3" in printed
    assert "sketch-mtct_sarr-seed0" in printed
    assert "optimiser steps" in printed
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_a_dry_run_for_programs_is_json_alone(checkpoint, capsys):
    assert main(["run", "demo_full", "--dry-run", "--json", "--set", f"model.checkpoint={checkpoint}"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["config"]["name"] == "demo_full"
    assert len(shown["units"]) == 8 * 4 * 3
    assert shown["total"]["answers"] == sum(unit["answers"] for unit in shown["units"])
    sarr = next(unit for unit in shown["units"] if unit["unit"] == "sketch-sarr-seed2")
    assert sarr["needs"] == ["sketch-reasoning-seed2"]


@pytest.mark.slow
def test_a_dry_run_forecasts_tokens_flops_memory_and_hours_on_named_hardware(capsys):
    assert main(["run", "demo", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "Chain length: mean of 300 chains of the describer." in printed
    for hardware in ("this machine", "A100-80G", "H100", "H200"):
        assert any(line.split()[: len(hardware.split())] == hardware.split() for line in printed.splitlines())
    assert "shares reached are assumed, not measured" in printed
    assert all(len(line) <= 140 for line in printed.splitlines())


@pytest.mark.slow
def test_a_forecast_for_programs_adds_up(capsys):
    assert main(["run", "demo", "--dry-run", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["unknown"] is None
    units = {unit["unit"]: unit["forecast"] for unit in shown["units"]}
    mtct = units["sketch-mtct-seed0"]
    assert mtct["phases"][0]["tokens"] > units["sketch-cls-seed0"]["phases"][0]["tokens"] > 0
    assert [phase["name"] for phase in mtct["phases"]] == ["training", "prompts", "label", "reasoning", "likelihood"]
    assert mtct["memory"]["total"] > mtct["memory"]["weights"] > 0
    names = [one["name"] for one in shown["forecast"]["hardware"]]
    assert names == ["this machine", "A100-80G", "H100", "H200"] and set(mtct["seconds"]) == set(names)


def test_a_checkpoint_that_cannot_be_read_keeps_the_counts_and_says_why(checkpoint, capsys):
    assert main(["run", "demo", "--dry-run", "--set", f"model.checkpoint={checkpoint}"]) == 0
    printed = capsys.readouterr().out
    assert "Tokens, FLOPs, memory and hours are unknown: " in printed and "cannot be read" in printed
    assert "optimiser steps" in printed and "H100" not in printed


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        ([], 2, "no config is given"),
        (["demo", "--set", "training.stage.epoch=1"], 1, "did you mean training.stage.epochs?"),
        (["demmo"], 1, "did you mean demo?"),
        (["demo", "--workers", "0"], 2, "greater than or equal to 1"),
        (["demo", "--redo", "all"], 2, "invalid choice"),
        (["paper/pacs"], 1, "--set data.images=DIR"),
    ],
)
def test_a_fault_is_one_line_with_its_exit_code(arguments, code, line, capsys):
    assert main(["run", *arguments]) == code
    errors = capsys.readouterr().err
    assert line in errors
    assert len(errors.splitlines()) == 1


def progress_of(done, total, share, seconds_left, running, lost=0):
    units = tuple(Unit("fold", "images", ("sketch",), "cls", "pocket", seed) for seed in range(total))
    return Progress(SimpleNamespace(sets=()), units, units[:done], share, seconds_left, running, lost)


def test_progress_reads_as_a_sentence():
    state = progress_of(1, 4, 0.25, 90.0, {"sketch-mtct-seed0-01234567": "step 2 of 9"})
    assert describe(state) == "1 of 4 units done, about 90 s left; sketch-mtct-seed0: step 2 of 9"
    state = progress_of(1, 4, 0.5, 90.0, {"sketch-cls-seed0-01234567": "step 2 of 9"}, lost=2)
    assert describe(state) == "1 of 4 units done, 2 failed or skipped, about 90 s left; sketch-cls-seed0: step 2 of 9"
    assert describe(progress_of(2, 4, 1.0, 0.0, {}, lost=2)) == "2 of 4 units done, 2 failed or skipped"


def test_outside_a_terminal_no_progress_line_is_printed_twice(monkeypatch, capsys):
    seconds = itertools.count(step=10)
    monkeypatch.setattr(progress_module, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    with run_progress() as reporter:
        for _ in range(2):
            reporter.report_step("preparing chains")
        for step in (1, 1, 1, 2, 2):
            reporter.report_units(progress_of(0, 1, 0.0, None, {"sketch-cls-seed0-01234567": f"step {step} of 2"}))
    with progress("hashing", "images") as report:
        for done in (0, 0, 0):
            report(done, None)
    assert capsys.readouterr().err.splitlines() == [
        "preparing chains",
        "0 of 1 units done; sketch-cls-seed0: step 1 of 2",
        "0 of 1 units done; sketch-cls-seed0: step 2 of 2",
        "hashing: 0 images",
    ]


@pytest.mark.parametrize(
    ("file", "name"),
    [("my experiment (2).yaml", "my_experiment_2_"), ("Überblick.yaml", "Überblick"), (" -.yaml", "run")],
)
def test_a_config_is_called_after_a_file_with_any_name(file, name, checkpoint, tmp_path, capsys):
    path = tmp_path / file
    path.write_text("data: {drawn: {per_class: 1}}\nmethods: [zero_shot]\n")
    assert main(["run", str(path), "--dry-run", "--json", "--set", f"model.checkpoint={checkpoint}"]) == 0
    assert json.loads(capsys.readouterr().out)["config"]["name"] == name
