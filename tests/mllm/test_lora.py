"""LoRA: which modules are adapted, that a saved adapter comes back whole, and that it goes on no other model."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.mllm.reference import Spoken, picture, processed
from torch import nn

from throughline.core.errors import ThroughlineError
from throughline.core.settings import LoraSettings
from throughline.mllm.chat import user_turn
from throughline.mllm.load import load_mllm
from throughline.mllm.lora import (
    adapted_modules,
    adapter_fingerprint,
    add_lora,
    base_of,
    load_adapter,
    save_adapter,
)

TOWERS = {"internvl": "model.vision_tower.", "qwen": "model.visual.", "llava": "model.vision_tower."}
QUERIES = {"internvl": "q_proj", "qwen": "qkv", "llava": "q_proj"}
ASKED = Spoken(user_turn("What is shown?"), [picture(0)], "cat")


def base(checkpoints: dict[str, Path], family: str) -> Any:
    return load_mllm(str(checkpoints[family])).model


def logits(model: Any, checkpoints: dict[str, Path], family: str) -> torch.Tensor:
    processor = load_mllm(str(checkpoints[family])).chat.processor
    with torch.no_grad():
        return torch.as_tensor(model.eval()(**processed(processor, family, ASKED, True)).logits)


def trained(model: Any, seed: int = 0) -> Any:
    """As after some steps: second factors no longer zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator))
    return model


def test_by_default_every_linear_layer_of_both_towers_and_nothing_else(
    checkpoints: dict[str, Path], family: str
) -> None:
    model = base(checkpoints, family)
    towers = (TOWERS[family], "model.language_model.")
    expected = {n for n, m in model.named_modules() if isinstance(m, nn.Linear) and n.startswith(towers)}
    assert set(adapted_modules(model, LoraSettings())) == expected
    wrapped = add_lora(model, LoraSettings(), seed=0)
    assert set(wrapped.targeted_module_names) == expected
    assert all("lora_" in n for n, p in wrapped.named_parameters() if p.requires_grad)
    assert not any("lm_head" in n or "projector" in n for n in wrapped.targeted_module_names)


def test_named_layers_of_one_tower_only(checkpoints: dict[str, Path], family: str) -> None:
    """`q_proj` in the decoder must not reach the vision tower, whose layers bear the same name."""
    model = base(checkpoints, family)
    chosen = adapted_modules(model, LoraSettings(vision=(), decoder=("q_proj", "v_proj")))
    assert chosen == [
        f"model.language_model.layers.{i}.self_attn.{name}" for name in ("q_proj", "v_proj") for i in range(2)
    ]
    wrapped = add_lora(model, LoraSettings(vision=(), decoder=("q_proj", "v_proj")), seed=0)
    assert set(wrapped.targeted_module_names) == set(chosen)
    seen = adapted_modules(base(checkpoints, family), LoraSettings(vision=(QUERIES[family],), decoder=()))
    assert len(seen) == 2
    assert all(n.startswith(TOWERS[family]) and n.endswith(f".{QUERIES[family]}") for n in seen)


def test_an_unknown_layer_name_is_told_with_the_known_ones(checkpoints: dict[str, Path], family: str) -> None:
    with pytest.raises(ThroughlineError, match=r"no linear layer 'c_attn' in the decoder tower.*o_proj") as raised:
        adapted_modules(base(checkpoints, family), LoraSettings(decoder=("q_proj", "c_attn")))
    assert "\n" not in str(raised.value)


def test_a_new_adapter_changes_nothing_yet_and_is_drawn_from_its_seed(
    checkpoints: dict[str, Path], family: str
) -> None:
    plain = logits(base(checkpoints, family), checkpoints, family)
    wrapped = add_lora(base(checkpoints, family), LoraSettings(rank=2), seed=5)
    torch.testing.assert_close(logits(wrapped, checkpoints, family), plain)
    again, other = (add_lora(base(checkpoints, family), LoraSettings(rank=2), seed=s) for s in (5, 6))
    assert adapter_fingerprint(wrapped) == adapter_fingerprint(again) != adapter_fingerprint(other)


@pytest.mark.slow
def test_saving_and_loading_gives_the_same_output_and_not_the_bases(
    checkpoints: dict[str, Path], family: str, tmp_path: Path
) -> None:
    plain = logits(base(checkpoints, family), checkpoints, family)
    wrapped = trained(add_lora(base(checkpoints, family), LoraSettings(rank=2), seed=1))
    before = logits(wrapped, checkpoints, family)
    assert (before - plain).abs().max() > 0.1
    save_adapter(wrapped, tmp_path / "adapter")
    again = load_adapter(base(checkpoints, family), tmp_path / "adapter")
    assert logits(again, checkpoints, family).equal(before)
    assert adapter_fingerprint(again) == adapter_fingerprint(wrapped)
    assert json.loads((tmp_path / "adapter/adapted_modules.json").read_text()) == sorted(wrapped.targeted_module_names)
    assert not any(p.requires_grad for p in again.parameters())
    further = load_adapter(base(checkpoints, family), tmp_path / "adapter", trainable=True)
    assert {n for n, p in further.named_parameters() if p.requires_grad} == {
        n for n, p in wrapped.named_parameters() if p.requires_grad
    }


def test_a_saved_adapter_tells_nothing_of_the_place_it_was_made(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    settings = LoraSettings(rank=2)
    elsewhere = Path(shutil.copytree(checkpoints["internvl"], tmp_path / "base"))
    save_adapter(add_lora(base(checkpoints, "internvl"), settings, seed=1), tmp_path / "one")
    save_adapter(add_lora(load_mllm(str(elsewhere)).model, settings, seed=1), tmp_path / "two")
    files = [{p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("one", "two")]
    assert files[0] == files[1]
    assert set(files[0]) == {"adapter_config.json", "adapter_model.safetensors", "adapted_modules.json"}
    targets = json.loads(files[0]["adapter_config.json"])["target_modules"]
    assert targets == sorted(targets)  # peft keeps a set, whose order changes from process to process


def test_an_untrained_adapter_may_be_loaded(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    save_adapter(add_lora(base(checkpoints, "internvl"), LoraSettings(rank=2), seed=1), tmp_path)
    load_adapter(base(checkpoints, "internvl"), tmp_path)


def refusal(model: Any, folder: Path) -> str:
    with pytest.raises(ThroughlineError) as raised:
        load_adapter(model, folder)
    line = str(raised.value)
    assert "\n" not in line
    assert str(folder) in line
    return line


def test_a_folder_without_an_adapter_is_told(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    assert "no adapter here" in refusal(base(checkpoints, "internvl"), tmp_path)


def test_an_adapter_without_its_config_is_told(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    save_adapter(add_lora(base(checkpoints, "internvl"), LoraSettings(rank=2), seed=1), tmp_path)
    (tmp_path / "adapter_config.json").unlink()
    assert "adapter_config.json" in refusal(base(checkpoints, "internvl"), tmp_path)


@pytest.mark.parametrize("other", ["qwen", "llava"])
def test_an_adapter_of_another_family_is_refused(checkpoints: dict[str, Path], tmp_path: Path, other: str) -> None:
    save_adapter(trained(add_lora(base(checkpoints, "internvl"), LoraSettings(rank=2), seed=1)), tmp_path)
    assert "does not fit this model" in refusal(base(checkpoints, other), tmp_path)


def test_a_decoder_adapter_of_another_size_is_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    settings = LoraSettings(rank=2, vision=(), decoder=("q_proj",))
    save_adapter(trained(add_lora(base(checkpoints, "internvl"), settings, seed=1)), tmp_path)
    model = base(checkpoints, "internvl")
    for layer in model.model.language_model.layers:
        layer.self_attn.q_proj = nn.Linear(48, 32)
    assert "does not fit this model" in refusal(model, tmp_path)


@pytest.mark.parametrize("change", ["fewer", "renamed"])
def test_an_adapter_that_fits_in_part_is_refused(checkpoints: dict[str, Path], tmp_path: Path, change: str) -> None:
    """peft passes over both with a warning: some modules keep a random or zero adapter."""
    save_adapter(trained(add_lora(base(checkpoints, "internvl"), LoraSettings(rank=2), seed=1)), tmp_path)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    for name in [n for n in weights if "language_model.layers.1" in n]:
        value = weights.pop(name)
        if change == "renamed":
            weights[name.replace("layers.1", "layers.7")] = value
    save_file(weights, tmp_path / "adapter_model.safetensors")
    assert "weights have no place" in refusal(base(checkpoints, "internvl"), tmp_path)


def test_a_corrupt_adapter_is_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    save_adapter(trained(add_lora(base(checkpoints, "internvl"), LoraSettings(rank=2), seed=1)), tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"\x00" * 100)
    refusal(base(checkpoints, "internvl"), tmp_path)


def test_the_transformers_model_is_found_under_its_adapter(checkpoints: dict[str, Path]) -> None:
    model = base(checkpoints, "internvl")
    assert base_of(model) is model
    assert base_of(add_lora(model, LoraSettings(rank=2), seed=0)) is model
