"""An executor without torch: results follow from the unit's hash and its parents' results, and it can be slow, fail,
or die. What to do stands in environment variables, which worker processes inherit.
"""

import json
import os
import signal
import sys
import time
import types
from pathlib import Path

from safetensors import SafetensorError

from throughline.core.errors import ThroughlineError
from throughline.core.files import write_json, write_json_lines

EXECUTORS = dict.fromkeys(("fold", "evaluate", "final"), "tests.experiment.fake_executor:execute")
STEPS = 3


def execute(task):
    unit, run_folder, folder = task.unit, task.run_folder, task.folder
    note(run_folder, f"begin {unit.slug} {os.getpid()}")
    for name in unit.needs.values():
        assert (run_folder / "units" / name / "done").is_file(), f"{name} is not done"
    for step in range(STEPS):
        task.report_progress(f"step {step + 1} of {STEPS}")
        mark = folder / f"step-{step}.json"
        if not mark.is_file():
            time.sleep(float(os.environ.get("FAKE_SECONDS", "0")) / STEPS)
            write_json(mark, step)
        misbehave(unit, folder)
    parents = [json.loads((run_folder / "units" / name / "metrics.json").read_text()) for name in unit.needs.values()]
    correct = int(unit.hash[:4], 16) % 10 + sum(row["correct"] for parent in parents for row in parent["results"])
    write_json_lines(folder / "predictions.jsonl", [])
    write_json(folder / "metrics.json", {"results": [line(unit, split, correct) for split in ("out", "in", "all")]})
    note(run_folder, f"end {unit.slug} {os.getpid()}")


def misbehave(unit, folder):
    """What goes wrong is named by a method, or by a unit as `sketch-cls-seed0`."""
    if os.environ.get("FAKE_DIES") in (unit.method, unit.slug):
        os.kill(os.getpid(), signal.SIGKILL)
    if os.environ.get("FAKE_RAISES") in (unit.method, unit.slug):
        raise ValueError("a bug\nwith two lines")
    if os.environ.get("FAKE_RAISES_UNNOTED") == unit.method:
        (folder / "failure.txt").mkdir(exist_ok=True)  # so that no file can be written there
        raise ValueError("a bug")
    if os.environ.get("FAKE_DIVERGES") == unit.method:
        raise ThroughlineError("the loss is not finite at step 3", folder, "lower training.stage.lr")
    kind, _, method = os.environ.get("FAKE_FULL_DISK", "").partition(":")
    if method == unit.method:
        write_to_full_disk(kind)


def write_to_full_disk(kind):
    """The errors are those that came on a full disk."""
    if kind == "python":
        Path("/dev/full").write_text("x")
    if kind == "safetensors":
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    try:
        raise RuntimeError("basic_ios::clear: iostream error")
    finally:
        raise RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos 704 vs 598")


def line(unit, split, correct):
    return {
        "schema": 1,
        "unit": unit.name,
        "dataset": unit.dataset,
        "model": unit.model,
        "targets": list(unit.targets),
        "method": unit.method,
        "seed": unit.seed,
        "round": None,
        "answer": "label",
        "split": split,
        "factors": dict(unit.factors),
        "n": 100,
        "correct": correct,
        "accuracy": correct / 100,
        "metrics": {},
        "unparsed": 0,
        "errors": 0,
        "seconds": 1.0,
    }


def note(run_folder, text):
    with (run_folder.parent / f"{run_folder.name}.log").open("a") as log:
        log.write(text + "\n")


def notes(run_folder):
    path = run_folder.parent / f"{run_folder.name}.log"
    return [tuple(line.split()) for line in path.read_text().splitlines()] if path.is_file() else []


def fake_teacher():
    """A stand-in for throughline.teaching.building: one chain an image, in no time."""
    module = types.ModuleType("throughline.teaching.building")
    module.accepted_chains = lambda paths, images, format, rule: {
        s.id: (f"chain of {s.id}", f"second chain of {s.id}") for s in images.samples
    }
    module.build_chains = lambda plan, teacher, store: None
    return module


def main(arguments):
    """`python -m tests.experiment.fake_executor RUN CONFIG [KEY=VALUE]...`: a run in its own process, to be killed."""
    from throughline.cli.main import main as throughline
    from throughline.experiment.run import run_experiment

    sys.modules["throughline.teaching.building"] = fake_teacher()
    run_experiment.__kwdefaults__["executors"] = EXECUTORS
    run, config, *overrides = arguments
    options = [option for override in overrides for option in ("--set", override)]
    sys.argv[1:] = ["run", config, "--out", run, *options]
    return throughline()


def main_of_a_fork(arguments):
    """The same with its exit code, for `tests.forks.started`."""
    sys.exit(main(arguments))


if __name__ == "__main__":
    main_of_a_fork(sys.argv[1:])
