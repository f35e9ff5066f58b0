"""Evidence about time, which needs an idle machine: the demo, `--help`, and every bench. Called by `evidence.py`."""

import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from commands import EVIDENCE, ROOT, SCRATCH, executable, throughline
from cost_model import compare_with_run
from demo_profile import profile_demo
from records import Bench, BenchRow, CostOfDemo, CostPart, DemoTime, HelpTime, this_machine, write_record
from throughline.runs.reader import read_run

DEMO_LIMIT = 240.0  # seconds, best of three, on two idle cores, analyses and page among them
HELP_LIMIT = 0.4  # seconds, median of seven


def demo_time() -> None:
    """The demo three times into fresh folders. The machine has to be idle."""
    seconds = []
    for number in range(1, 4):
        folder = SCRATCH / "demo_time" / str(number)
        shutil.rmtree(folder, ignore_errors=True)
        began = time.monotonic()
        throughline("demo", "--out", str(folder.relative_to(ROOT)))
        seconds.append(round(time.monotonic() - began, 2))
    results = read_run(folder).results
    record = DemoTime(
        command="throughline demo",
        seconds=seconds,
        best=min(seconds),
        limit=DEMO_LIMIT,
        held_out_images=max(line.n for line in results if line.split == "all"),
        methods=sorted({line.method for line in results}),
        environment=this_machine(),
    )
    write_record(EVIDENCE / "demo_time.json", record)
    print(f"best of three: {record.best} s")


def demo_profile(source: Path | None, commit: str | None, when: str) -> None:
    """Where the demo's processor time goes. The machine has to be idle."""
    commit = (
        commit
        or subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout.strip()
    )
    found = profile_demo(SCRATCH / "demo_profile" / when, source, commit)
    write_record(EVIDENCE / f"demo_profile_{when}.json", found)
    for part, seconds in found.seconds.items():
        print(f"{seconds:8.1f} s  {part}")


def cost_of_demo() -> None:
    """What the dry run says of the demo against the first of the demos that demo-time has run just now."""
    folder = SCRATCH / "demo_time" / "1"
    rows, _ = compare_with_run(folder)
    parts = [CostPart.model_validate({key: getattr(row, key) for key in CostPart.model_fields}) for row in rows]
    command = f"python bench/cost_model.py {folder.relative_to(ROOT)}"
    write_record(EVIDENCE / "cost_model.json", CostOfDemo(command=command, parts=parts, environment=this_machine()))
    print(f"{len(parts)} phases")


def help_time() -> None:
    """`throughline --help` seven times."""
    seconds = []
    for _ in range(7):
        began = time.perf_counter()
        subprocess.run([executable(), "--help"], check=True, stdout=subprocess.DEVNULL)
        seconds.append(round(time.perf_counter() - began, 4))
    record = HelpTime(
        command="throughline --help",
        seconds=seconds,
        median=statistics.median(seconds),
        limit=HELP_LIMIT,
        environment=this_machine(),
    )
    write_record(EVIDENCE / "help_time.json", record)
    print(f"median of seven: {record.median} s")


BENCH_COMMANDS = {
    "step": "throughline bench step",
    "step_ablated": "throughline bench step --ablate --tiles 1 --classes 65",
    "memory": "throughline bench memory --ablate",
    "score": "throughline bench score --ablate",
    "sample": "throughline bench sample --ablate",
    "gpu": "throughline bench gpu",
    "evaluate": "python bench/evaluate.py --ablate",
    "ood": "python bench/ood.py",
    "drift": "python bench/drift.py",
    "preference": "python bench/preference_step.py",
    "input": "python bench/input.py",
    "scale": "python bench/scale.py",
    "teacher": "python bench/teacher.py",
    "classifiers": "python bench/classifiers.py",
}
"""What measures evidence/bench_NAME.json; `step_ablated` is what each of our ways is worth."""


def bench(name: str) -> None:
    """A bench into evidence/bench_NAME.json. The machine has to be idle."""
    command = f"{BENCH_COMMANDS[name]} --json"
    program, *words = command.split()
    path = executable() if program == "throughline" else Path(sys.executable)
    done = subprocess.run([path, *words], cwd=ROOT, stdout=subprocess.PIPE, check=False)
    if done.returncode != 0:
        raise SystemExit(done.returncode)
    rows = [BenchRow.model_validate(row) for row in json.loads(done.stdout)]
    record = Bench(command=command, rows=rows, environment=this_machine())
    write_record(EVIDENCE / f"bench_{name}.json", record)
    print(f"{len(rows)} rows")
