import contextlib
import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.experiment.fake_executor import EXECUTORS, main_of_a_fork, notes
from tests.forks import started

from throughline.cli.main import main
from throughline.core.errors import ThroughlineError
from throughline.core.files import read_json_lines
from throughline.domains.folders import read_images
from throughline.domains.samples import balanced
from throughline.experiment.config_files import load_config
from throughline.experiment.preparation import read_accepted_chains
from throughline.experiment.run import run_experiment
from throughline.runs.folder import hold_run

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("teacher")]
ALL = "methods=zero_shot,cls,reasoning,mtct,sarr,mtct_sarr,cls_matched,mtct_matched"


@pytest.fixture
def run(config_file, tmp_path, forked_workers):
    def run(*overrides, out="run", **settings):
        folder = tmp_path / out
        config = load_config(str(config_file), overrides)
        return run_experiment(config, folder, executors=EXECUTORS, **settings)

    return run


@pytest.fixture
def command(config_file, tmp_path, monkeypatch, capsys, forked_workers, undrawn):
    """The verb: exit code, stdout, and the error lines of stderr."""

    def command(*options, out="run", seeds="[0]", methods=ALL):
        arguments = ["run", str(config_file), "--out", str(tmp_path / out), "--set", f"seeds={seeds}"]
        code = main([*arguments, "--set", methods, *options])
        printed = capsys.readouterr()
        return code, printed.out, [line for line in printed.err.splitlines() if line.startswith("throughline: error: ")]

    monkeypatch.setitem(run_experiment.__kwdefaults__, "executors", EXECUTORS)
    return command


def heed_ctrl_c():
    """Whoever runs the tests in the background of a shell has them started deaf to it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def ignore_ctrl_c():
    """As a shell starts what stands before an ampersand."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@pytest.fixture
def process(config_file, tmp_path):
    """Starts a run in a process of its own."""

    def process(
        *overrides, out="run", seconds=0.0, before=heed_ctrl_c, python=("-m", "tests.experiment.fake_executor")
    ):
        command = [sys.executable, *python, str(tmp_path / out), str(config_file), *overrides]
        environment = os.environ | {"FAKE_SECONDS": str(seconds)}
        return subprocess.Popen(
            command,
            cwd=Path(__file__).parents[2],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=before,  # noqa: PLW1509 (the tests have no threads)
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


def test_doubts_about_the_images_are_told_before_a_unit_starts(run, images):
    (images / "photo" / "ghost").mkdir()
    for index in range(5):
        Image.fromarray(np.full((4, 4), 4000 + index, np.uint16)).save(images / "sketch" / "cat" / f"{index}.png")
    said = []
    run("methods=cls", report_progress=said.append)
    warnings = [line for line in said if line.startswith("warning: images: ")]
    assert "photo/ghost is empty" in warnings[0]
    assert "4 of 4 16-bit images looked at in sketch use only 12 bits" in warnings[1] and len(warnings) == 2
    assert said[:2] == warnings


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
    assert {row["dataset"] for row in rows} == {"images"}


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
    assert (len(seen[-1].done), len(seen[-1].units), seen[-1].share) == (2, 2, 1.0)
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


def manifest(folder):
    with (folder / "manifest.csv").open(newline="") as file:
        return {row["image"]: row for row in csv.DictReader(file)}


def test_the_images_asked_about_are_fixed_before_a_unit_starts(command, images, monkeypatch, tmp_path):
    monkeypatch.setenv("FAKE_RAISES", "zero_shot")
    only = ("--set", "evaluation.sample.per_class=2", "--set", "evaluation.view={kind: occlusion_grey, severity: 0.2}")
    code, _, _ = command(*only, methods="methods=zero_shot")
    asked = manifest(tmp_path / "run")
    assert code == 1 and not (tmp_path / "run/results.jsonl").read_bytes()
    chosen = balanced(read_images(images).in_domain("sketch"), 2, 0)
    assert [(row["image"], row["label"], row["image_sha256"]) for row in asked.values()] == [
        (sample.id, sample.label, sample.image_sha256) for sample in chosen
    ]
    (images / chosen[1].id).write_bytes((images / "photo/cat/1.png").read_bytes())
    code, _, (line,) = command(*only, methods="methods=zero_shot")
    assert code == 1 and chosen[1].id in line and "changed or no longer asked about (1)" in line
    assert manifest(tmp_path / "run") == asked
    monkeypatch.delenv("FAKE_RAISES")
    assert command(*only, "--redo", "stale", methods="methods=zero_shot")[0] == 0
    assert manifest(tmp_path / "run")[chosen[1].id] != asked[chosen[1].id]


def test_asking_about_more_later_adds_images_and_about_fewer_is_refused(run):
    run("methods=zero_shot", "evaluation.sample.per_class=1", "factors={size: {'2': {evaluation.sample.per_class: 2}}}")
    two = manifest(run("methods=cls", "evaluation.sample.per_class=3").folder)
    assert len(two) == 2 * 3
    with pytest.raises(ThroughlineError, match="no longer asked about"):
        run("methods=zero_shot", "evaluation.sample.per_class=2")


def test_each_image_set_has_its_manifest(run, images):
    folder = run(
        "methods=zero_shot", f"data=[{{images: {images}, targets: [sketch]}}, {{images: {images}, name: again}}]"
    ).folder
    assert {row["domain"] for row in manifest(folder).values()} == {"sketch"}
    assert "photo" in (folder / "manifest-2.csv").read_text()


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


def slugs(folder, what="begin"):
    return [slug for said, slug, _ in notes(folder) if said == what]


def test_a_failed_unit_ends_nothing_but_what_needs_it_and_the_next_call_does_those_alone(
    command, run, monkeypatch, tmp_path
):
    folder, lost = tmp_path / "run", {"sketch-mtct-seed0", "sketch-mtct_sarr-seed0", "sketch-mtct_matched-seed0"}
    methods = "methods=zero_shot,cls,mtct_sarr,mtct_matched"
    monkeypatch.setenv("FAKE_RAISES", "sketch-mtct-seed0")
    code, printed, errors = command("--workers", "2", methods=methods, seeds="[0,1]")
    assert code == 1
    (line,) = errors
    assert "sketch-mtct-seed0-" in line and "ValueError: a bug [" in line and "two lines" not in line
    skipped = line.partition("(skipped, since they need it: ")[2].removesuffix(")").split(", ")
    assert {name.rpartition("-")[0] for name in skipped} == lost - {"sketch-mtct-seed0"}
    assert set(slugs(folder, "end")) == {f"sketch-{m}-seed1" for m in ("mtct", "mtct_sarr", "mtct_matched")} | {
        f"sketch-{method}-seed{seed}" for method in ("zero_shot", "cls") for seed in (0, 1)
    }
    assert len(read_json_lines(folder / "results.jsonl")) == 7 * 3
    missing = f"Not done yet: {', '.join(sorted(lost))}."
    assert missing in " ".join(printed.split())
    assert missing in (folder / "report" / "index.html").read_text()

    monkeypatch.delenv("FAKE_RAISES")
    before = len(slugs(folder))
    code, printed, errors = command("--workers", "2", methods=methods, seeds="[0,1]")
    assert (code, errors) == (0, []) and "Missing" not in printed
    assert sorted(slugs(folder)[before:]) == sorted(lost)
    assert not list(folder.rglob("failure.txt"))
    assert results(folder) == results(run(methods, "seeds=[0,1]", out="undisturbed").folder)


def test_every_failed_unit_has_a_line_and_a_run_of_nothing_but_failures_says_only_that(command, monkeypatch):
    monkeypatch.setenv("FAKE_DIVERGES", "cls")
    code, printed, errors = command(methods="methods=cls", seeds="[0,1,2]")
    assert (code, printed) == (1, "")
    assert len(errors) == 3
    for seed, line in enumerate(errors):
        assert f"sketch-cls-seed{seed}-" in line and line.endswith("lower training.stage.lr")
        assert "the loss is not finite at step 3" in line


def test_what_failed_and_is_done_with_other_settings_is_not_missing(command, monkeypatch):
    monkeypatch.setenv("FAKE_DIVERGES", "cls")
    _, printed, _ = command(methods="methods=cls,zero_shot")
    assert "Not done yet: sketch-cls-seed0." in " ".join(printed.split())
    monkeypatch.delenv("FAKE_DIVERGES")
    code, printed, errors = command("--set", "training.stage.lr=1e-5", methods="methods=cls,zero_shot")
    assert (code, errors) == (0, []) and "Missing" not in printed


def test_what_failed_is_listed_for_programs_too(command, monkeypatch):
    monkeypatch.setenv("FAKE_DIVERGES", "cls")
    code, printed, errors = command("--json", methods="methods=cls,zero_shot")
    shown = json.loads(printed)
    assert (code, [f"throughline: error: {line}" for line in shown["failed"]]) == (1, errors)
    assert {row["method"] for row in shown["results"]} == {"zero_shot"}


def test_with_fail_fast_no_unit_starts_after_a_failure(command, monkeypatch, tmp_path):
    monkeypatch.setenv("FAKE_DIVERGES", "mtct")
    code, _, errors = command("--fail-fast")
    assert (code, len(errors)) == (1, 1)
    assert slugs(tmp_path / "run")[-1] == "sketch-mtct-seed0"
    assert "sketch-cls-seed0" not in slugs(tmp_path / "run")
    monkeypatch.delenv("FAKE_DIVERGES")
    assert command("--fail-fast")[0] == 0


def test_a_bug_leaves_its_traceback_in_the_unit(command, monkeypatch, tmp_path):
    monkeypatch.setenv("FAKE_RAISES", "cls")
    _, _, (line,) = command(methods="methods=cls")
    (note,) = (tmp_path / "run").rglob("failure.txt")
    assert str(note) in line
    assert "in misbehave" in note.read_text()


def test_a_bug_whose_traceback_cannot_be_written_ends_no_other_unit(command, monkeypatch, tmp_path):
    monkeypatch.setenv("FAKE_RAISES_UNNOTED", "cls")
    code, _, (line,) = command(methods="methods=cls,zero_shot")
    assert (code, slugs(tmp_path / "run", "end")) == (1, ["sketch-zero_shot-seed0"])
    assert "ValueError: a bug (its traceback is lost: cannot write" in line


def test_after_a_failure_another_process_goes_on(command, monkeypatch, tmp_path):
    monkeypatch.setenv("FAKE_RAISES", "zero_shot")
    command(methods="methods=cls,zero_shot")
    begun = {slug: pid for what, slug, pid in notes(tmp_path / "run") if what == "begin"}
    assert begun["sketch-cls-seed0"] != begun["sketch-zero_shot-seed0"]


def test_where_a_worker_is_killed_another_does_the_rest(command, monkeypatch, tmp_path):
    monkeypatch.setenv("FAKE_DIES", "cls")
    code, printed, (line,) = command(methods="methods=zero_shot,cls,reasoning")
    assert code == 1 and "sketch-cls-seed0-" in line and ": its worker was killed by signal 9" in line
    assert sorted(slugs(tmp_path / "run", "end")) == ["sketch-reasoning-seed0", "sketch-zero_shot-seed0"]
    assert "Not done yet: sketch-cls-seed0." in " ".join(printed.split())
    monkeypatch.delenv("FAKE_DIES")
    assert command(methods="methods=zero_shot,cls,reasoning")[0] == 0


@pytest.mark.parametrize("kind", ["python", "safetensors", "torch"])
def test_a_full_disk_in_a_unit_is_one_line_without_traceback(command, monkeypatch, tmp_path, kind):
    monkeypatch.setenv("FAKE_FULL_DISK", f"{kind}:cls")
    code, _, (line,) = command(methods="methods=cls,zero_shot")
    assert code == 1 and "cannot write: " in line and line.endswith("free disk space")
    assert not list((tmp_path / "run").rglob("failure.txt"))
    assert slugs(tmp_path / "run", "end") == ["sketch-zero_shot-seed0"]


def test_what_a_kill_left_half_written_goes_when_its_unit_is_done(run):
    folder = run("methods=zero_shot").folder
    (unit,) = (folder / "units").iterdir()
    (unit / "done").rename(unit / ".done.abc_12x9")
    (unit / ".metrics.json.0a1b2c3d").write_text("{")
    run("methods=zero_shot")
    assert (unit / "done").is_file() and not list(unit.rglob(".*"))


def test_killed_at_random_moments_and_started_again_it_ends_with_the_same_results(
    run, config_file, tmp_path, monkeypatch
):
    def start(seconds):
        monkeypatch.setenv("FAKE_SECONDS", str(seconds))
        return started(main_of_a_fork, ([str(folder), str(config_file), ALL, "workers=2"],), said)

    undisturbed = results(run(ALL, out="undisturbed").folder)
    moments = random.Random(0)
    folder, said = tmp_path / "run", tmp_path / "said"
    for _ in range(3):
        # once while it starts, else at some point of the first units of its own
        enough = len(notes(folder)) + moments.randint(0, 3)
        killed = start(seconds=0.3)
        wait_until(lambda enough=enough: len(notes(folder)) >= enough)
        time.sleep(moments.uniform(0, 0.1))
        assert killed.is_alive(), "it was over before it could be killed"
        killed.kill()
        killed.join()
    last = start(seconds=0)
    last.join(60)
    assert last.exitcode == 0, said.read_text()
    assert results(folder) == undisturbed
    assert not list((folder / "units").rglob(".*")), "what a kill left half written"


def test_workers_start_where_there_is_no_file_that_they_could_import_as_in_a_notebook(process, tmp_path):
    code = "import sys; from tests.experiment.fake_executor import main; sys.exit(main(sys.argv[1:]))"
    notebook = process("methods=cls", python=("-c", code))
    _, errors = notebook.communicate(timeout=60)
    assert notebook.returncode == 0, errors
    assert slugs(tmp_path / "run", "end") == ["sketch-cls-seed0"]


def test_no_worker_outlives_a_killed_parent(process, tmp_path):
    killed = process(ALL, "workers=2", seconds=30)
    wait_until(lambda: len(notes(tmp_path / "run")) == 2)
    workers = [int(pid) for _, _, pid in notes(tmp_path / "run")]
    killed.kill()
    killed.communicate()
    wait_until(lambda: not any(map(alive, workers)))


def end_of(process, folder):
    """How an interrupted run ended, once none of its workers is left."""
    workers = [int(pid) for what, _, pid in notes(folder) if what == "begin"]
    _, errors = process.communicate(timeout=20)
    assert not any(map(alive, workers))
    assert "Traceback" not in errors
    assert errors.strip().endswith("the same command continues")
    return process.returncode


def press_often(pid):
    for _ in range(12):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGINT)
        time.sleep(0.05)


@pytest.mark.parametrize(
    "stop",
    [
        pytest.param(lambda pid: os.killpg(pid, signal.SIGINT), id="Ctrl-C in a terminal: to everyone"),
        pytest.param(press_often, id="Ctrl-C again and again"),
        pytest.param(lambda pid: os.kill(pid, signal.SIGTERM), id="SIGTERM"),
        pytest.param(lambda pid: os.killpg(pid, signal.SIGTERM), id="SIGTERM as Slurm sends it: to everyone"),
    ],
)
def test_a_run_that_is_told_to_stop_ends_its_workers_exits_with_3_and_continues(run, process, tmp_path, stop):
    interrupted = process("methods=zero_shot,cls", "workers=2", seconds=30)
    wait_until(lambda: len(notes(tmp_path / "run")) == 2)
    stop(interrupted.pid)
    assert end_of(interrupted, tmp_path / "run") == 3
    folder = run("methods=zero_shot,cls").folder
    assert results(folder) == results(run("methods=zero_shot,cls", out="undisturbed").folder)


def test_sigterm_ends_a_run_that_was_started_deaf_to_ctrl_c(process, tmp_path):
    interrupted = process("methods=cls", seconds=30, before=ignore_ctrl_c)
    wait_until(lambda: len(notes(tmp_path / "run")) == 1)
    os.kill(interrupted.pid, signal.SIGINT)
    time.sleep(0.3)
    assert interrupted.poll() is None
    os.kill(interrupted.pid, signal.SIGTERM)
    assert end_of(interrupted, tmp_path / "run") == 3


def test_a_run_that_is_told_to_stop_before_its_units_start_exits_with_3(process, tmp_path):
    interrupted = process("methods=cls", seconds=30)
    wait_until((tmp_path / "run").exists)
    os.killpg(interrupted.pid, signal.SIGTERM)
    assert end_of(interrupted, tmp_path / "run") == 3


def test_two_processes_do_not_share_a_run_folder(run, tmp_path):
    with hold_run(tmp_path / "run"), pytest.raises(ThroughlineError, match="another process is at work"):
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
        (["chains.journal=null", "chains.teacher=describer"], "knows drawn images only"),
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
        ({"config.json": '{"model_type": "bert"}', "model.safetensors": ""}, "'bert' checkpoint is not an image-text"),
        ({}, "no checkpoint in this folder"),
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
    with pytest.raises(ThroughlineError, match="a file has the name of the folder of a run"):
        run("methods=cls")


def test_the_drawn_world_is_written_into_the_run_folder(run):
    overrides = ("data.images=null", "data.drawn={per_class: 2, seed: 1}", "chains.journal=null", "methods=zero_shot")
    finished = run(*overrides)
    assert finished.sets[0].root == finished.folder / "images"
    assert {row["dataset"] for row in read_json_lines(finished.folder / "results.jsonl")} == {"drawn"}
    assert run(*overrides).worked == 0
