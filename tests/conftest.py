"""A tiny checkpoint and a few images for every room that needs a model. Imports torch only where a test asks for it."""

from __future__ import annotations

import gc
import multiprocessing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests import forks

if TYPE_CHECKING:
    from collections.abc import Callable

    from throughline.domains.samples import ImageSet
    from throughline.experiment.run import FinishedRun
    from throughline.mllm.load import Mllm

DOMAINS = ("photo", "painting", "sketch")
CLASSES = ("cat", "cup", "dog")


@pytest.fixture(scope="module", autouse=True)
def _frozen() -> None:
    """What imports left stays: a training or a measurement that collects garbage need not look at it each time."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random InternVL checkpoint; read only."""
    from tests.mllm.tiny import write_checkpoint

    return write_checkpoint("internvl", tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def tiny_mllm(tiny_checkpoint: Path) -> Mllm:
    """That checkpoint, loaded for this test alone."""
    from throughline.mllm.load import load_mllm

    return load_mllm(str(tiny_checkpoint))


@pytest.fixture(scope="session")
def tiny_images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    """Three domains of three classes, five random pictures each; the n-th sample is `tests.mllm.tiny.image_of(n)`."""
    from tests.mllm.tiny import image_of

    from throughline.domains.folders import read_images

    root = tmp_path_factory.mktemp("images")
    places = [(d, c, i) for d in sorted(DOMAINS) for c in CLASSES for i in range(5)]
    for number, (domain, label, index) in enumerate(places):
        path = root / domain / label / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image_of(number).save(path)
    return read_images(root)


@pytest.fixture
def forked_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers of a run, and whatever else would be spawned, have torch when they start."""
    monkeypatch.setattr(multiprocessing, "get_context", forks.context)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages whose figures are empty."""
    monkeypatch.setattr("throughline.reporting.page.write_figures", forks.no_figures)


@pytest.fixture(scope="module")
def here(config_file: Path) -> Callable[..., FinishedRun]:
    """Runs the config of a test module, with overrides, in this process."""
    from tests.evaluation.small import in_this_process

    from throughline.experiment import run
    from throughline.experiment.config_files import load_config

    def run_here(folder: Path, *overrides: str) -> FinishedRun:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(run, "run_units", in_this_process)
            return run.run_experiment(load_config(str(config_file), overrides), folder)

    return run_here


@pytest.fixture(scope="module")
def undisturbed(here: Callable[..., FinishedRun], tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """A whole run of that config; read only."""
    return here(tmp_path_factory.mktemp("runs") / "undisturbed")
