"""Base and adapter as one checkpoint: the base's own names, weights as peft merges them, outputs as the adapter's; and
what must not pass."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tests.mllm.tiny import image_of
from tests.training.small import PROMPTS, with_lora
from torch import Tensor

from throughline.chains.formats import FIVE_STAGE
from throughline.core.errors import ThroughlineError
from throughline.mllm.load import Mllm, load_mllm
from throughline.mllm.lora import base_of
from throughline.mllm.merge_check import EXACT, Probe, check_merged, make_probe
from throughline.mllm.merging import Merged, write_merged

WEIGHTS = "model.safetensors"


@pytest.fixture
def adapted(checkpoints: dict[str, Path], family: str) -> Mllm:
    """A family's checkpoint with an adapter that matters, loaded for this test alone."""
    return adapt(load_mllm(str(checkpoints[family])))


@pytest.fixture
def internvl(checkpoints: dict[str, Path]) -> Mllm:
    return adapt(load_mllm(str(checkpoints["internvl"])))


def adapt(mllm: Mllm) -> Mllm:
    mllm.model = with_lora(mllm)
    return mllm


def probe(*images: Any) -> Probe:
    return make_probe(images, PROMPTS.texts, ("cat", "cup", "dog"), FIVE_STAGE)


def merged_by_peft(mllm: Mllm) -> dict[str, Tensor]:
    """Changes the model for good."""
    return dict(mllm.model.merge_and_unload().state_dict())


def test_a_server_finds_the_bases_names_and_the_adapters_weights(
    adapted: Mllm, checkpoints: dict[str, Path], family: str, tmp_path: Path
) -> None:
    merged = write_merged(adapted, tmp_path, "float32")
    own, written = load_file(checkpoints[family] / WEIGHTS), load_file(tmp_path / WEIGHTS)
    assert own.keys() == written.keys()
    changed = {name for name in own if not torch.equal(own[name], written[name])}
    assert len(changed) == merged.layers == len(adapted.model.targeted_module_names)
    expected = merged_by_peft(adapted)
    for name, weight in load_mllm(str(tmp_path)).model.state_dict().items():
        torch.testing.assert_close(weight, expected[name], atol=1e-6, rtol=1e-5)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in checkpoints[family].iterdir()}


def test_it_says_what_base_and_adapter_say(adapted: Mllm, tmp_path: Path) -> None:
    check = check_merged(adapted, tmp_path, write_merged(adapted, tmp_path, "float32"), probe())
    assert check.difference <= check.tolerance == EXACT
    assert check.adapter_change > 0.1
    assert check.images == 4 and check.values > 4 * (3 + 20)


def test_half_precision_is_rounded_once_from_the_sum(internvl: Mllm, tmp_path: Path) -> None:
    plain = {
        name.replace(".base_layer.", "."): weight.clone()
        for name, weight in base_of(internvl.model).state_dict().items()
    }
    merged = write_merged(internvl, tmp_path, "bfloat16")
    check = check_merged(internvl, tmp_path, merged, probe())
    assert EXACT < check.difference <= check.tolerance < check.adapter_change
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    written = load_mllm(str(tmp_path), dtype="bfloat16").model.state_dict()
    lost = learnt = 0.0
    for name, whole in merged_by_peft(internvl).items():
        # not always to the bit: fp32 sums in another order fall on the other side of a half now and then
        torch.testing.assert_close(written[name].float(), whole, atol=1e-7, rtol=2**-8)
        if not torch.equal(whole, plain[name]):
            lost += float((whole.bfloat16().float() - whole).square().sum())
            learnt += float((whole - plain[name]).square().sum())
    assert merged.rounding == pytest.approx((lost / learnt) ** 0.5, rel=1e-2)


def test_the_model_in_memory_stays_as_it_was(internvl: Mllm, tmp_path: Path) -> None:
    wrapped = internvl.model
    internvl.model = base_of(wrapped)  # as training has it: adapted in place, and not told so
    wrapped.train()
    trained = [name for name, weight in wrapped.named_parameters() if weight.requires_grad]
    before = {name: weight.clone() for name, weight in internvl.model.state_dict().items()}
    check_merged(internvl, tmp_path, write_merged(internvl, tmp_path, "bfloat16"), probe())
    after = internvl.model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert internvl.model.training
    assert [name for name, weight in wrapped.named_parameters() if weight.requires_grad] == trained


def test_what_a_server_does_by_itself_stands_in_the_checkpoint(internvl: Mllm, tmp_path: Path) -> None:
    internvl.model.config.text_config.use_cache = False  # as training may leave it
    base_of(internvl.model).generation_config.eos_token_id = 0
    write_merged(internvl, tmp_path / "plain", "float32")
    write_merged(internvl, tmp_path / "sampled", "float32", sampled=True)
    plain, sampled = (
        json.loads((tmp_path / name / "generation_config.json").read_text()) for name in ("plain", "sampled")
    )
    assert plain["eos_token_id"] == sampled["eos_token_id"] == [0, internvl.chat.end_of_turn_id]
    assert not plain.get("do_sample") and (sampled["do_sample"], sampled["top_k"]) == (True, 0)
    assert json.loads((tmp_path / "plain" / "config.json").read_text())["text_config"]["use_cache"]


@pytest.mark.parametrize("tiles", [1, 2])
def test_tiles_are_cut_as_in_training_without_being_told(
    checkpoints: dict[str, Path], tmp_path: Path, tiles: int
) -> None:
    """A server passes no options, and InternVL's processor then cuts up to twelve tiles."""
    mllm = adapt(load_mllm(str(checkpoints["internvl"]), tiles=tiles))
    merged = write_merged(mllm, tmp_path, "float32")
    wide = probe(image_of(0, 120, 40))
    check_merged(mllm, tmp_path, merged, wide)
    path = tmp_path / "processor_config.json"
    settings = json.loads(path.read_text())
    settings["image_processor"]["max_patches"] = 12
    path.write_text(json.dumps(settings))
    for shown in (wide, probe()):
        with pytest.raises(ThroughlineError, match="a server would show this model other tokens or pixels"):
            check_merged(mllm, tmp_path, merged, shown)


def spoil(folder: Path, change: Callable[[Tensor], Tensor]) -> None:
    weights = load_file(folder / WEIGHTS)
    name = next(name for name in sorted(weights) if name.endswith("mlp.down_proj.weight"))
    save_file({**weights, name: change(weights[name])}, folder / WEIGHTS, metadata={"format": "pt"})


def test_other_weights_than_the_adapters_do_not_pass(internvl: Mllm, tmp_path: Path) -> None:
    merged = write_merged(internvl, tmp_path, "float32")
    spoil(tmp_path, lambda weight: weight * 1.01)
    with pytest.raises(ThroughlineError, match=r"differs from the adapter: .* tolerance 1\.0e-04"):
        check_merged(internvl, tmp_path, merged, probe())
    spoil(tmp_path, lambda weight: weight * float("nan"))
    with pytest.raises(ThroughlineError, match="differ from its own by nan"):
        check_merged(internvl, tmp_path, merged, probe())


def test_an_adapter_that_changes_nothing_does_not_pass(internvl: Mllm, tmp_path: Path) -> None:
    with torch.no_grad():
        for name, weight in internvl.model.named_parameters():
            if "lora_B" in name:
                weight.zero_()
    merged = write_merged(internvl, tmp_path, "float32")
    assert merged == Merged("float32", merged.layers, 0.0)
    with pytest.raises(ThroughlineError, match="does not change the base's likelihoods"):
        check_merged(internvl, tmp_path, merged, probe())


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft's own call
@pytest.mark.parametrize("settings", [{"use_dora": True}, {"lora_bias": True}, {"modules_to_save": ["lm_head"]}])
def test_what_is_no_plain_lora_is_refused(
    checkpoints: dict[str, Path], tmp_path: Path, settings: dict[str, Any]
) -> None:
    mllm = load_mllm(str(checkpoints["internvl"]))
    mllm.model = get_peft_model(mllm.model, LoraConfig(r=2, target_modules=["q_proj"], **settings))
    with pytest.raises(ThroughlineError, match="cannot be merged"):
        write_merged(mllm, tmp_path, "float32")


def test_a_model_without_an_adapter_is_refused(tiny_mllm: Mllm, tmp_path: Path) -> None:
    with pytest.raises(ThroughlineError, match="no adapter to merge"):
        write_merged(tiny_mllm, tmp_path, "float32")
