"""Pairs, and methods trained on them, in a process that kills itself when it is about to put its n-th file in place."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.evaluation.small import in_this_process

from throughline.cli.main import main
from throughline.drawn.world import write_world
from throughline.experiment import run
from throughline.experiment.config_files import load_config


def make(folder: Path, checkpoint: Path, dies_at: int | None = None) -> int:
    """Makes what is not there yet of images, pairs and a run; gives the number of files put in place by this call."""
    images, pairs, config, written, put = folder / "images", folder / "pairs", folder / "run.yaml", 0, Path.replace

    def replace(path: Path, target: Any) -> Path:
        nonlocal written
        written += 1
        if written == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return put(path, target)

    values = {
        "data": {"images": str(images), "targets": ["sketch"]},
        "model": {"checkpoint": str(checkpoint)},
        "chains": {"teacher": "describer", "pairs": str(pairs)},
        "methods": ["cfp", "cfp_rounds"],
        "training": {
            "rounds": 1,
            "candidates": 2,
            "stage": {"epochs": 1, "batch": 6, "micro_batch": 6, "save_steps": 1},
            "self_labelling": {"max_new_tokens": 8},
        },
        "evaluation": {"answering": {"answers": ["likelihood"]}, "sample": {"per_class": 1}},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        patch.setattr(run, "run_units", in_this_process)
        folder.mkdir(exist_ok=True)
        config.write_text(yaml.safe_dump(values))
        write_world(images, per_class=1, seed=3, styles=("photo", "sketch"))
        if not pairs.exists():
            assert main(["drift", "pairs", str(images), "--out", str(pairs)]) == 0
        run.run_experiment(load_config(str(config)), folder / "run")
    return written
