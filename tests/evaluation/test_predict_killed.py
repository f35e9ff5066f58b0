"""`throughline predict --csv` over drawn images, killed three times: the table of a call that nobody disturbed.

`PREDICT_IMAGES=700` in the environment takes as many images; the suite takes fewer."""

import csv
import os
import time

import pytest
from tests.forks import typed

from throughline.drawn.concepts import CLASSES
from throughline.drawn.styles import DOMAIN_STYLES
from throughline.drawn.world import write_world

KILLS, IMAGES = 3, int(os.environ.get("PREDICT_IMAGES", "50"))
BATCH = IMAGES // (KILLS + 2)


def rows_at(path):
    return path.read_bytes().count(b"\n") - 1 if path.is_file() else 0


@pytest.mark.slow
def test_kills_change_nothing(tiny_checkpoint, tmp_path):
    write_world(tmp_path / "world", per_class=-(-IMAGES // (len(DOMAIN_STYLES) * len(CLASSES))), seed=0)
    images = sorted(map(str, (tmp_path / "world").rglob("*.png")))[:IMAGES]
    assert len(images) == IMAGES
    words = ["predict", str(tiny_checkpoint), *images, "--no-chain", "--batch", str(BATCH)]
    words += ["--classes", ",".join(CLASSES)]
    undisturbed, killed, said = (tmp_path / name for name in ("undisturbed.csv", "killed.csv", "said"))

    def started(table):
        return typed([*words, "--csv", str(table)], said)

    def end_of(process):
        process.join()
        assert process.exitcode == 0, said.read_text()

    end_of(started(undisturbed))
    whole, before = undisturbed.read_bytes(), 0
    for kill in range(1, KILLS + 1):
        process = started(killed)
        deadline = time.monotonic() + 240
        while rows_at(killed) < max(before + 1, kill * IMAGES // (KILLS + 1)):
            assert process.is_alive() and time.monotonic() < deadline, said.read_text()
            time.sleep(0.002)
        process.kill()
        process.join()
        content = killed.read_bytes()
        assert whole.startswith(content)  # what was answered before stands, and nothing twice
        assert before < rows_at(killed) < IMAGES
        before = rows_at(killed)
        killed.write_bytes(content[:-3])  # a kill within a row
    end_of(started(killed))
    assert f"{before - 1} of {IMAGES} images already have an answer" in said.read_text()
    assert killed.read_bytes() == whole
    names = [row["image"] for row in csv.DictReader(killed.open(newline=""))]
    assert sorted(names) == images
