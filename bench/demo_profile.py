"""Where the demo's processor time goes: py-spy looks at every thread that is at work, in all its processes, and each
look is put to the first of the named parts that its stack goes through. `evidence.py demo-profile` calls this.

The names fit the program as it is and as it was before its speed work, so that both can be put side by side: check the
older commit out, and run the same with `--source` naming its `src`.
"""

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

from records import DemoProfile, this_machine
from throughline.core.errors import ThroughlineError

RATE = 50  # looks a second: a hundredth of a demo's seconds is still a hundred looks

START = "import sys; from throughline.cli.main import main; sys.exit(main())"
"""The command, whatever the source: its script would bring the installed one."""

PARTS = {
    "reading images": r"(?<!<module>) \(\S*mllm/(images|pixel_cache)\.py|load_image|encode_image",
    "training: backward pass": r"autograd/graph\.py",
    "training: building trees": r"TreeDataset|merge_paths|tree \(objectives",
    "training: laying trees out": r"collat",
    "training: forward pass": r"compute_loss",
    "training: optimiser, checkpoints, the rest": r"train_stage",
    "self-labelling": r"self_label",
    "answering": r"answer_samples",
    "drawing, the describer's chains": r"write_world|draw_images|build_chains|gather_chains",
    "the report": r"write_page",
    "starting: imports, loading the checkpoint": r"importlib|_find_and_load|load_mllm|<module> \((?!<string>)",
    "the rest": r"",
}
"""Part: what its stacks go through; the first that fits counts, and the last fits all. Images come first: they are read
in a thread of their own, on whose stack nobody stands who asked for them, and once were read by whoever asked. Every
stack of the main thread begins with the `<module>` of `<string>`, the command itself."""


def profile_demo(folder: Path, source: Path | None, commit: str) -> DemoProfile:
    """Runs the demo under py-spy, its run and the stacks below `folder`. The machine has to be idle."""
    spy = Path(sys.executable).with_name("py-spy")
    if not spy.is_file():
        raise ThroughlineError("py-spy is not installed beside this Python", spy, "run make setup")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    stacks = folder / "stacks.txt"
    demo = [sys.executable, "-c", START, "demo", "--out", str(folder / "run")]
    options = ["record", "--subprocesses", "--nonblocking", "--format", "raw", "--rate", str(RATE), "--output"]
    environment = dict(os.environ) | ({"PYTHONPATH": str(source)} if source is not None else {})
    done = subprocess.run([spy, *options, stacks, "--", *demo], env=environment, check=False)
    if done.returncode != 0 or not stacks.is_file():
        raise ThroughlineError(f"py-spy ended with exit code {done.returncode}", stacks)
    return DemoProfile(
        command="throughline demo",
        commit=commit,
        rate=RATE,
        seconds=seconds_by_part(stacks.read_text()),
        environment=this_machine(),
    )


def seconds_by_part(stacks: str) -> dict[str, float]:
    """Of py-spy's raw format: `frame;frame;… looks` in every line."""
    looks: Counter[str] = Counter()
    for line in stacks.splitlines():
        stack, _, count = line.rpartition(" ")
        part = next(name for name, frames in PARTS.items() if re.search(frames, stack))
        looks[part] += int(count)
    return {part: round(looks[part] / RATE, 2) for part in PARTS if looks[part]}
