"""What is at fault with a checkpoint is said in one line; what is loaded is what lies on disk."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.mllm.tiny import write_text_checkpoint

from throughline.core.errors import ThroughlineError
from throughline.mllm.load import fingerprint_checkpoint, load_mllm


@pytest.fixture
def copy(checkpoints: dict[str, Path], tmp_path: Path) -> Path:
    """An InternVL checkpoint to damage."""
    return Path(shutil.copytree(checkpoints["internvl"], tmp_path / "copy"))


def fault(folder: Path | str, **options: int | str) -> str:
    with pytest.raises(ThroughlineError) as raised:
        load_mllm(str(folder), **options)  # type: ignore[arg-type]
    line = str(raised.value)
    assert "\n" not in line
    assert len(line) < 600
    return line


def named(weights: dict[str, torch.Tensor], end: str) -> str:
    """The one weight whose name ends so: checkpoints keep the names of older versions."""
    (name,) = (n for n in weights if n.endswith(end))
    return name


def test_a_missing_folder(tmp_path: Path) -> None:
    line = fault(tmp_path / "nowhere")
    assert "no such checkpoint folder" in line
    assert "nowhere" in line


def test_a_hub_name_without_leave_to_ask_the_hub() -> None:
    assert "model.hub: true" in fault("OpenGVLab/InternVL3-1B-hf")


def test_a_folder_without_a_checkpoint(tmp_path: Path) -> None:
    assert "config.json" in fault(tmp_path)


def test_a_text_only_checkpoint(tmp_path: Path) -> None:
    assert "'qwen2' checkpoint is not an image-text-to-text model" in fault(write_text_checkpoint(tmp_path / "text"))


def test_pickled_weights(copy: Path) -> None:
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    assert "pickled weights are not loaded" in fault(copy)


def test_pickles_are_not_read_even_beside_safetensors(copy: Path) -> None:
    (copy / "pytorch_model.bin").write_bytes(b"no pickle at all")
    load_mllm(str(copy))


@pytest.mark.parametrize("damage", ["cut", "header", "empty"])
def test_corrupt_safetensors(copy: Path, damage: str) -> None:
    weights = copy / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes({"cut": data[: len(data) // 2], "header": b"\xff" * 64 + data[64:], "empty": b""}[damage])
    line = fault(copy)
    assert "cannot load the checkpoint" in line
    assert "copy" in line


def test_weights_that_are_not_all_there(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    del weights[named(weights, "layers.1.mlp.up_proj.weight")]
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    assert "lacks 1 weights, e.g. model.language_model.layers.1.mlp.up_proj.weight" in fault(copy)


def test_weights_of_another_size(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    weights[named(weights, "layers.1.mlp.up_proj.weight")] = torch.ones(7, 3)
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    assert "cannot load the checkpoint" in fault(copy)


def test_a_broken_config(copy: Path) -> None:
    (copy / "config.json").write_text("{")
    assert "config.json" in fault(copy)


def test_an_unknown_family(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text()) | {"model_type": "never_heard_of"}
    (copy / "config.json").write_text(json.dumps(config))
    assert "never_heard_of" in fault(copy)


def test_a_checkpoint_without_its_processor(copy: Path) -> None:
    for name in ("processor_config.json", "tokenizer.json", "tokenizer_config.json"):
        (copy / name).unlink()
    assert "cannot load the checkpoint" in fault(copy)


@pytest.mark.parametrize("family", ["qwen", "llava"])
def test_tiles_where_the_family_has_none(checkpoints: dict[str, Path], family: str) -> None:
    assert "does not cut images into tiles" in fault(checkpoints[family], tiles=4)


def test_a_loaded_model_is_frozen_in_evaluation_mode_and_named_by_its_folder(
    checkpoints: dict[str, Path], family: str
) -> None:
    mllm = load_mllm(str(checkpoints[family]))
    assert not mllm.model.training
    assert not any(p.requires_grad for p in mllm.model.parameters())
    assert mllm.name == checkpoints[family].name
    assert {p.dtype for p in mllm.model.parameters()} == {torch.float32}


def test_the_fingerprint_names_content_not_place(copy: Path, checkpoints: dict[str, Path]) -> None:
    before = fingerprint_checkpoint(str(copy))
    assert before == fingerprint_checkpoint(str(checkpoints["internvl"]))
    weights = load_file(copy / "model.safetensors")
    weights[named(weights, "lm_head.weight")][0, 0] += 1
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    assert fingerprint_checkpoint(str(copy)) != before
