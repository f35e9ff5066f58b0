"""The folders of the evidence, and the program as a user starts it. Called by `evidence.py` and `timings.py`."""

import subprocess
import sys
from pathlib import Path

from throughline.core.errors import ThroughlineError

ROOT = Path(__file__).resolve().parent.parent
EVIDENCE = ROOT / "evidence"
SCRATCH = ROOT / "runs" / "evidence"


def executable() -> Path:
    """The `throughline` of the Python that runs this file, as a user would start it."""
    path = Path(sys.executable).with_name("throughline")
    if not path.is_file():
        raise ThroughlineError("throughline is not installed beside this Python", path, "run make setup")
    return path


def throughline(*words: str) -> None:
    """Runs a command from the checkout's root with its output on the terminal; its failure ends this one too."""
    print("throughline", *words, flush=True)
    code = subprocess.run([executable(), *words], cwd=ROOT, check=False).returncode
    if code != 0:
        raise SystemExit(code)
