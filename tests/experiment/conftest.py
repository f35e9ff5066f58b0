import sys

import pytest
import yaml
from tests.experiment.fake_executor import fake_teacher

CHECKPOINT_FILES = {"config.json": '{"model_type": "internvl", "vision_config": {}}', "model.safetensors": ""}


@pytest.fixture
def images(tmp_path):
    """Three domains of two classes; the files are no pictures, since nothing here decodes them."""
    root = tmp_path / "images"
    for domain in ("photo", "real world", "sketch"):
        for label in ("cat", "dog"):
            for index in range(5):
                path = root / domain / label / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(f"{domain}{label}{index}".encode())
    return root


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for name, content in CHECKPOINT_FILES.items():
        (folder / name).write_text(content)
    return folder


@pytest.fixture
def config_file(tmp_path, images, checkpoint):
    journal = tmp_path / "journal-0.jsonl"
    journal.write_text("")
    path = tmp_path / "trial.yaml"
    values = {
        "data": {"images": str(images), "targets": ["sketch"]},
        "model": {"checkpoint": str(checkpoint)},
        "chains": {"journal": str(journal)},
    }
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture
def teacher(monkeypatch):
    monkeypatch.setitem(sys.modules, "throughline.teaching.building", fake_teacher())
