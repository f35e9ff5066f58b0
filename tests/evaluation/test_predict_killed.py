"""`throughline predict --csv` over drawn images, killed five times: the table of a call that nobody disturbed.

`PREDICT_IMAGES=700` in the environment takes as many images; the suite takes fewer."""

import csv
import os
import signal
import subprocess
import sys
import time

import pytest

from throughline.drawn.concepts import CLASSES
from throughline.drawn.styles import DOMAIN_STYLES
from throughline.drawn.world import write_world

KILLS, IMAGES = 5, int(os.environ.get("PREDICT_IMAGES", "200"))
PROGRAM = "import sys; from throughline.cli.main import main; sys.exit(main(sys.argv[1:]))"


def rows_at(path):
    return path.read_bytes().count(b"\n") - 1 if path.is_file() else 0


@pytest.mark.slow
def test_five_kills_change_nothing(tiny_checkpoint, tmp_path):
    write_world(tmp_path / "world", per_class=-(-IMAGES // (len(DOMAIN_STYLES) * len(CLASSES))), seed=0)
    images = sorted(map(str, (tmp_path / "world").rglob("*.png")))[:IMAGES]
    assert len(images) == IMAGES
    command = [sys.executable, "-c", PROGRAM, "predict", str(tiny_checkpoint), *images, "--no-chain", "--batch", "28"]
    command += ["--classes", ",".join(CLASSES)]
    undisturbed, killed = tmp_path / "undisturbed.csv", tmp_path / "killed.csv"
    subprocess.run([*command, "--csv", str(undisturbed)], check=True, capture_output=True)
    whole, before = undisturbed.read_bytes(), 0
    for kill in range(1, KILLS + 1):
        process = subprocess.Popen([*command, "--csv", str(killed)], stderr=subprocess.PIPE)
        deadline = time.monotonic() + 240
        while rows_at(killed) < max(before + 1, kill * IMAGES // (KILLS + 1)):
            assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        content = killed.read_bytes()
        assert whole.startswith(content)  # what was answered before stands, and nothing twice
        assert before < rows_at(killed) < IMAGES
        before = rows_at(killed)
        killed.write_bytes(content[:-3])  # a kill within a row
    last = subprocess.run([*command, "--csv", str(killed)], check=True, capture_output=True, text=True)
    assert f"{before - 1} of {IMAGES} images are answered already" in last.stderr
    assert killed.read_bytes() == whole
    names = [row["image"] for row in csv.DictReader(killed.open(newline=""))]
    assert sorted(names) == images
