"""One model, fitted once and read only, with the images and the config it came from."""

from pathlib import Path

import pytest
from tests.evaluation.small import in_this_process, write_images, write_preset

from throughline.experiment import run
from throughline.experiment.final_model import fit_config, fit_model


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("world") / "animals")


@pytest.fixture(scope="session")
def preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_preset(tmp_path_factory.mktemp("preset"))


@pytest.fixture(scope="session")
def model(images: Path, preset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("models") / "animals-cls"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "run_units", in_this_process)
        fit_model(fit_config(images, preset=str(preset)), out)
    return out
