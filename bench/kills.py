"""Ten kills: the demo is killed at random moments and started again until it ends, and has to end with the results of
a run that nobody disturbed. Called by `evidence.py demo-kills`; a stopped measurement goes on where it was."""

import json
import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from records import DemoKills, Kill, this_machine
from throughline.core.files import content_hash, read_json_lines, write_json
from throughline.core.seeding import generator


@dataclass(frozen=True)
class Plan:
    """What is run and how often it is killed."""

    command: tuple[str, ...]
    """Words of the run's command without `--out` and `--workers`; run in `cwd`."""
    shown: str
    """The command as the evidence names it."""
    scratch: Path
    cwd: Path
    kills: int = 10
    seed: int = 0


def measure_kills(plan: Plan) -> DemoKills:
    """Runs undisturbed, with one worker, and killed; compares the three."""
    undisturbed, seconds = _undisturbed(plan)
    one_worker = plan.scratch / "one_worker"
    _finish(_start(plan, one_worker, "--workers", "1"))
    kills, killed = _killed(plan, seconds)
    expected = results_without_seconds(undisturbed)
    return DemoKills(
        command=plan.shown,
        kills=kills,
        killed_equal=all(results_without_seconds(folder) == expected for folder in killed),
        workers_equal=results_without_seconds(one_worker) == expected,
        result_lines=len(expected),
        results_sha256=content_hash(expected),
        environment=this_machine(),
    )


def results_without_seconds(run_folder: Path) -> list[dict[str, Any]]:
    """The results lines as they stand, in their order, without the one key that time may change."""
    rows = read_json_lines(run_folder / "results.jsonl")
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def kill_delays(kills: int, seconds: float, seed: int) -> list[float]:
    """Seconds from each start to its kill: moments uniform over the `seconds` of a whole run, in their order."""
    moments = np.sort(generator(seed, "demo kills").uniform(0, seconds, kills))
    return [float(delay) for delay in np.diff(moments, prepend=0.0)]


def _undisturbed(plan: Plan) -> tuple[Path, float]:
    """The run and its seconds. One that was stopped on its way is no undisturbed run, so it starts over."""
    folder, marker = plan.scratch / "undisturbed", plan.scratch / "undisturbed.json"
    if marker.is_file():
        return folder, float(json.loads(marker.read_text())["seconds"])
    shutil.rmtree(folder, ignore_errors=True)
    began = time.monotonic()
    _finish(_start(plan, folder))
    seconds = time.monotonic() - began
    write_json(marker, {"seconds": seconds})
    return folder, seconds


def _killed(plan: Plan, seconds: float) -> tuple[list[Kill], list[Path]]:
    """All kills, and the runs that took them. A run that ends before its next kill makes room for a fresh one."""
    notes = plan.scratch / "kills.json"
    kept: dict[str, Any] = json.loads(notes.read_text()) if notes.is_file() else {"kills": [], "runs": 1}
    kills, runs = [Kill.model_validate(kill) for kill in kept["kills"]], int(kept["runs"])
    delays = kill_delays(plan.kills, seconds, plan.seed)
    while True:
        process = _start(plan, plan.scratch / f"killed-{runs}")
        if len(kills) == plan.kills:
            _finish(process)
            return kills, [plan.scratch / f"killed-{number}" for number in range(1, runs + 1)]
        delay, whole_group = delays[len(kills)], len(kills) % 2 == 1
        try:
            process.wait(timeout=delay)
        except subprocess.TimeoutExpired:
            _kill(process, whole_group)
            kills.append(Kill(after_seconds=round(delay, 3), whole_group=whole_group))
            print(f"kill {len(kills)} of {plan.kills} after {delay:.1f} s", flush=True)
        else:
            _finish(process)
            runs += 1
        write_json(notes, {"kills": [kill.model_dump() for kill in kills], "runs": runs})


def _start(plan: Plan, folder: Path, *more: str) -> subprocess.Popen[bytes]:
    """In a process group of its own, so that its workers can be killed with it."""
    words = [*plan.command, "--out", str(folder.relative_to(plan.cwd)), *more]
    return subprocess.Popen(words, cwd=plan.cwd, stdout=subprocess.DEVNULL, start_new_session=True)


def _finish(process: subprocess.Popen[bytes]) -> None:
    try:
        code = process.wait()
    except BaseException:
        _kill(process, whole_group=True)
        raise
    if code != 0:
        raise SystemExit(f"the run ended with exit code {code}; its own message stands above")


def _kill(process: subprocess.Popen[bytes], whole_group: bool) -> None:
    if whole_group:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()
