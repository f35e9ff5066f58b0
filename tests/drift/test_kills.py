"""Ten kills, at any file that is written: the same pairs, the same adapters, the same results."""

import signal
from pathlib import Path
from typing import Any

import pytest
from tests.drift.kill_run import make
from tests.forks import started

from kills import results_without_seconds
from throughline.core.seeding import generator

KILLS = 10


def content(folder: Path) -> dict[str, Any]:
    """Every pair with the images made for it, every adapter with those of its stages, and the results."""
    files = [*(folder / "pairs").rglob("*.*"), *(folder / "run" / "units").rglob("adapter_model.safetensors")]
    found: dict[str, Any] = {str(path.relative_to(folder)): path.read_bytes() for path in files if path.is_file()}
    return {**found, "results": results_without_seconds(folder / "run")}


@pytest.mark.slow
def test_ten_kills_change_no_pair_and_no_adapter(tiny_checkpoint: Path, tmp_path: Path) -> None:
    count = make(tmp_path / "undisturbed", tiny_checkpoint)
    expected = content(tmp_path / "undisturbed")
    assert sum("adapter_model" in name for name in expected) >= 3 and "pairs/pairs.jsonl" in expected
    moments = sorted(generator(0, "drift kills").integers(1, count, KILLS).tolist())
    folders = [tmp_path / "killed-1"]
    while moments:
        process = started(make, (folders[-1], tiny_checkpoint, moments[0]), tmp_path / "said")
        process.join(120)
        if process.exitcode == -signal.SIGKILL:
            moments.pop(0)
        else:
            assert process.exitcode == 0, (tmp_path / "said").read_text()
            folders.append(tmp_path / f"killed-{len(folders) + 1}")
    make(folders[-1], tiny_checkpoint)
    for folder in folders:
        assert content(folder) == expected
