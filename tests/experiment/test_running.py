import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.experiment.fake_executor import EXECUTORS, notes

from throughline.core.errors import ThroughlineError
from throughline.core.files import read_json_lines
from throughline.experiment.config import load_config
from throughline.experiment.preparation import read_accepted_chains
from throughline.experiment.run import run_experiment
from throughline.runs.folder import locked

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("teacher")]
ALL = "methods=zero_shot,cls,reasoning,mtct,sarr,mtct_sarr,cls_matched,mtct_matched"


@pytest.fixture
def run(config_file, tmp_path):
    def run(*overrides, out="run", **settings):
        folder = tmp_path / out
        config = load_config(str(config_file), overrides)
        return run_experiment(config, folder, executors=EXECUTORS, **settings)

    return run


def heed_ctrl_c():
    """Whoever runs the tests in the background of a shell has them started deaf to it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def process(config_file, tmp_path):
    """Starts a run in a process of its own."""

    def process(*overrides, out="run", seconds=0.0):
        command = [
            sys.executable,
            "-m",
            "tests.experiment.fake_executor",
            str(tmp_path / out),
            str(config_file),
            *overrides,
        ]
        environment = os.environ | {"FAKE_SECONDS": str(seconds)}
        return subprocess.Popen(
            command,
            cwd=Path(__file__).parents[2],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=heed_ctrl_c,  # noqa: PLW1509 (the tests have no threads)
        )

    return process


def results(folder):
    return (folder / "results.jsonl").read_bytes()


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # a process that ended and that nobody has waited for is no longer at work
    stat = Path(f"/proc/{pid}/stat")
    return not (stat.is_file() and stat.read_text().rsplit(")", 1)[1].split()[0] == "Z")


def wait_until(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


def test_a_run_folder_holds_what_the_contract_says(run):
    finished = run("methods=mtct_sarr")
    folder = finished.folder
    assert {unit.method for unit in finished.units} == {"mtct", "mtct_sarr"}
    assert load_config(str(folder / "config.yaml")).methods == ("mtct_sarr",)
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["packages"]["throughline"]
    for unit in finished.units:
        described = json.loads((folder / "units" / unit.name / "unit.json").read_text())
        assert (described["method"], described["targets"], described["seed"]) == (unit.method, ["sketch"], 0)
        done = json.loads((folder / "units" / unit.name / "done").read_text())
        assert (done["hash"], done["inputs"]) == (unit.hash, json.loads(json.dumps(dict(unit.inputs))))
    rows = read_json_lines(folder / "results.jsonl")
    assert len(rows) == 2 * 3
    assert [row["method"] for row in rows] == ["mtct"] * 3 + ["mtct_sarr"] * 3
    assert {row["dataset"] for row in rows} == {"trial"}


def test_workers_find_the_accepted_chains_of_source_domains_in_the_folder(run):
    chains = read_accepted_chains(run("methods=mtct").folder / "chains")
    assert len(chains) == 20
    assert not [name for name in chains if name.startswith("sketch/")]


def test_a_second_call_does_nothing_and_leaves_the_same_results(run):
    first = run(ALL)
    before = results(first.folder)
    again = run(ALL)
    assert (first.worked, again.worked) == (8, 0)
    assert results(again.folder) == before
    begun = [slug for what, slug, _ in notes(first.folder) if what == "begin"]
    assert len(begun) == len(set(begun)) == 8


def test_one_worker_and_two_give_the_same_results(run):
    alone = run(ALL, "seeds=[0,1]", out="alone")
    pair = run(ALL, "seeds=[0,1]", "workers=2", out="pair")
    assert results(alone.folder) == results(pair.folder)
    assert len({pid for _, _, pid in notes(alone.folder)}) == 1
    assert len({pid for _, _, pid in notes(pair.folder)}) == 2


def test_progress_tells_what_runs_and_ends_with_everything_done(run):
    seen = []
    run("methods=zero_shot,cls", on_progress=seen.append)
    assert (seen[-1].done, seen[-1].total, seen[-1].share) == (2, 2, 1.0)
    assert any("step" in line for progress in seen for line in progress.running.values())


def test_more_methods_later_reuse_what_is_done(run):
    run("methods=mtct")
    assert run("methods=mtct,mtct_sarr").worked == 1


def test_a_stale_unit_is_an_error_that_names_the_change_and_writes_nothing(run):
    folder = run("methods=cls,zero_shot").folder
    before = (results(folder), (folder / "config.yaml").read_bytes())
    with pytest.raises(ThroughlineError) as caught:
        run("methods=cls,zero_shot", "training.stage.lr=0.01")
    assert "stage.lr: 0.0005 → 0.01" in str(caught.value)
    assert "--redo stale" in str(caught.value)
    assert "sketch-cls-seed0" in str(caught.value)
    assert before == (results(folder), (folder / "config.yaml").read_bytes())


def test_a_stale_parent_is_told_by_its_cause(run):
    run("methods=mtct_sarr")
    with pytest.raises(ThroughlineError, match=r"\(stage\.batch: 128 → 4\).* and 1 more"):
        run("methods=mtct_sarr", "training.stage.batch=4")


def test_changed_images_make_a_unit_stale(run, images):
    run("methods=cls")
    (images / "photo" / "cat" / "0.png").write_bytes(b"another picture")
    with pytest.raises(ThroughlineError, match=r"\(images changed\)"):
        run("methods=cls")


def test_a_tampered_done_is_stale(run):
    finished = run("methods=cls")
    path = finished.folder / "units" / finished.units[0].name / "done"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 0').replace('"dropout": 0.05', '"dropout": 0.5'))
    with pytest.raises(ThroughlineError, match=r"model.lora.dropout: 0\.5 → 0\.05"):
        run("methods=cls")
    path.write_text("{")
    with pytest.raises(ThroughlineError, match="cannot be read"):
        run("methods=cls")


def test_redo_stale_sets_the_old_unit_aside_and_does_it_again(run):
    old = run("methods=cls,zero_shot")
    new = run("methods=cls,zero_shot", "training.stage.lr=0.01", redo_stale=True)
    assert new.worked == 1
    units = new.folder / "units"
    assert {path.name for path in units.glob("[!.]*")} == {unit.name for unit in new.units}
    kept = [path.name for path in (units / ".stale").iterdir()]
    assert kept == [unit.name for unit in old.units if unit.method == "cls"]


def test_a_bug_in_one_unit_is_one_line_and_nothing_else_is_lost(run, monkeypatch):
    monkeypatch.setenv("FAKE_RAISES", "mtct")
    with pytest.raises(ThroughlineError, match=r"sketch-mtct-seed0.*ValueError: a bug") as caught:
        run(ALL, "workers=2")
    assert "two lines" not in str(caught.value)
    monkeypatch.delenv("FAKE_RAISES")
    finished = run(ALL, "workers=2")
    assert not list(finished.folder.rglob("failure.txt"))
    assert results(finished.folder) == results(run(ALL, out="undisturbed").folder)


def test_a_bug_leaves_its_traceback_in_the_unit(run, monkeypatch, tmp_path):
    monkeypatch.setenv("FAKE_RAISES", "cls")
    with pytest.raises(ThroughlineError, match=r"failure\.txt"):
        run("methods=cls")
    (note,) = (tmp_path / "run").rglob("failure.txt")
    assert "in misbehave" in note.read_text()


def test_a_worker_that_is_killed_is_one_line_and_the_same_command_continues(run, monkeypatch):
    monkeypatch.setenv("FAKE_DIES", "cls")
    with pytest.raises(ThroughlineError, match=r"sketch-cls-seed0-\w+: its worker was killed by signal 9"):
        run("methods=zero_shot,cls")
    monkeypatch.delenv("FAKE_DIES")
    assert run("methods=zero_shot,cls").worked >= 1


def test_what_a_kill_left_half_written_goes_when_its_unit_is_done(run):
    folder = run("methods=zero_shot").folder
    (unit,) = (folder / "units").iterdir()
    (unit / "done").rename(unit / ".done.abc_12x9")
    (unit / ".metrics.json.0a1b2c3d").write_text("{")
    run("methods=zero_shot")
    assert (unit / "done").is_file() and not list(unit.rglob(".*"))


def test_killed_at_random_moments_and_started_again_it_ends_with_the_same_results(run, process, tmp_path):
    undisturbed = results(run(ALL, out="undisturbed").folder)
    moments = random.Random(0)
    folder = tmp_path / "run"
    for _ in range(4):
        # once while it starts, else at some point of the first units of its own
        enough = len(notes(folder)) + moments.randint(0, 3)
        killed = process(ALL, "workers=2", seconds=0.1)
        wait_until(lambda enough=enough: len(notes(folder)) >= enough)
        time.sleep(moments.uniform(0, 0.1))
        assert killed.poll() is None, "it was over before it could be killed"
        killed.kill()
        killed.communicate()
    last = process(ALL, "workers=2")
    assert last.wait(60) == 0, last.communicate()[1]
    last.communicate()
    assert results(folder) == undisturbed
    assert not list((folder / "units").rglob(".*")), "what a kill left half written"


def test_no_worker_outlives_a_killed_parent(process, tmp_path):
    killed = process(ALL, "workers=2", seconds=30)
    wait_until(lambda: len(notes(tmp_path / "run")) == 2)
    workers = [int(pid) for _, _, pid in notes(tmp_path / "run")]
    killed.kill()
    killed.communicate()
    wait_until(lambda: not any(map(alive, workers)))


def test_ctrl_c_ends_workers_and_exits_with_3(process, tmp_path):
    interrupted = process(ALL, "workers=2", seconds=30)
    wait_until(lambda: len(notes(tmp_path / "run")) == 2)
    workers = [int(pid) for _, _, pid in notes(tmp_path / "run")]
    os.killpg(interrupted.pid, signal.SIGINT)  # as a terminal does it: to everyone
    _, errors = interrupted.communicate(timeout=20)
    assert interrupted.returncode == 3
    assert "Traceback" not in errors
    assert errors.strip().endswith("the same command continues")
    assert not any(map(alive, workers))


def test_two_processes_do_not_share_a_run_folder(run, tmp_path):
    with locked(tmp_path / "run"), pytest.raises(ThroughlineError, match="another process is at work"):
        run("methods=cls")
    run("methods=cls")


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["data.targets=sketsch"], "did you mean sketch"),
        (["data.images=/nowhere/at/all"], "/nowhere/at/all"),
        (["data.images=/nowhere/table.csv"], "no such table"),
        (["model.checkpoint=/nowhere"], "no such checkpoint"),
        (["chains.journal=null"], "learn from reasoning chains"),
        (["chains.journal=/nowhere.jsonl"], "no chain journal"),
        (["chains.journal=null", "chains.teacher=describer"], "drawn worlds only"),
    ],
)
def test_faulty_input_is_found_before_anything_is_written(run, tmp_path, overrides, line):
    with pytest.raises(ThroughlineError, match=line):
        run(*overrides)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("files", "line"),
    [
        ({"pytorch_model.bin": ""}, "pickled"),
        ({"config.json": '{"model_type": "bert"}', "model.safetensors": ""}, "'bert' checkpoint is no image-text"),
        ({}, "no checkpoint here"),
    ],
)
def test_a_checkpoint_that_cannot_work_is_found_before_anything_is_written(run, tmp_path, files, line):
    folder = tmp_path / "other"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_text(content)
    with pytest.raises(ThroughlineError, match=line):
        run(f"model.checkpoint={folder}")
    assert not (tmp_path / "run").exists()


def test_a_folder_with_something_else_in_it_is_left_alone(run, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("x")
    with pytest.raises(ThroughlineError, match="something else than a run"):
        run("methods=cls")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.tex"]


def test_a_file_in_the_way_of_the_run_folder_is_one_line(run, tmp_path):
    (tmp_path / "run").write_text("x")
    with pytest.raises(ThroughlineError, match="a file is in the way"):
        run("methods=cls")


def test_the_drawn_world_is_written_into_the_run_folder(run):
    overrides = ("data.images=null", "data.drawn={per_class: 2, seed: 1}", "chains.journal=null", "methods=zero_shot")
    finished = run(*overrides)
    assert finished.sets[0].root == finished.folder / "images"
    assert {row["dataset"] for row in read_json_lines(finished.folder / "results.jsonl")} == {"drawn"}
    assert run(*overrides).worked == 0
