"""Base weights in 4 bits: which layers, what they compute, that adapters train on them and come back."""

import json
import logging
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from peft.tuners.lora import Linear4bit as LoraLinear4bit
from tests.mllm.families import write_family
from tests.mllm.reference import Spoken, picture, tree_of
from tests.mllm.tiny import image_of
from tests.training.small import samples_of, settings, train
from torch import nn

from throughline.chains.formats import FIVE_STAGE
from throughline.core.errors import ThroughlineError
from throughline.core.settings import LoraSettings, SamplingSettings
from throughline.domains.samples import ImageSet
from throughline.mllm.chat import EncodedPrompt, user_turn
from throughline.mllm.forward import score_trees
from throughline.mllm.likelihood import label_log_likelihood
from throughline.mllm.load import Mllm, load_mllm
from throughline.mllm.lora import add_lora, base_of, load_adapter, save_adapter
from throughline.mllm.lora_linear import LoraLinear
from throughline.mllm.sampling import sample
from throughline.questions.question_set import make_question_set

CLASSES = ("cat", "cup", "dog")
QUESTION = user_turn(make_question_set(CLASSES, FIVE_STAGE).label)


@pytest.fixture
def pocket() -> Mllm:
    return load_mllm("pocket", quantization="nf4")


def quantized(model: Any) -> dict[str, Linear4bit]:
    return {name: module for name, module in base_of(model).named_modules() if isinstance(module, Linear4bit)}


def answers(mllm: Mllm) -> tuple[Any, list[float]]:
    image = mllm.chat.encode_image(image_of(0), "0")
    said = sample(mllm, [mllm.chat.prompt(QUESTION, [image])], SamplingSettings(max_new_tokens=12))
    return said, label_log_likelihood(mllm, [EncodedPrompt(QUESTION, [image])], list(CLASSES))[0].tolist()


def gradients(mllm: Mllm, model: Any) -> dict[str, torch.Tensor]:
    batch = mllm.collate([[tree_of(mllm, [Spoken(QUESTION, [picture(0)], "cat")])]])
    model.train()
    model.zero_grad()
    score_trees(model, batch).loss_sum().backward()
    return {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}


def stirred(model: Any) -> Any:
    """Second factors no longer zero, so that the adapter matters."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.copy_(0.05 * torch.randn(weight.shape, generator=generator))
    return model


def test_the_decoders_linear_layers_are_quantized_and_no_others(checkpoints: dict[str, Path], family: str) -> None:
    plain = load_mllm(str(checkpoints[family])).model
    mllm = load_mllm(str(checkpoints[family]), quantization="nf4")
    linear = {name for name, module in plain.named_modules() if isinstance(module, nn.Linear)}
    assert set(quantized(mllm.model)) == {name for name in linear if name.startswith("model.language_model.")}
    assert mllm.quantization == "nf4"
    assert mllm.fingerprint == load_mllm(str(checkpoints[family])).fingerprint


@pytest.mark.parametrize("family", ["idefics3", "internvl35"])
def test_a_decoder_is_quantized_under_either_name(family: str, tmp_path: Path) -> None:
    layers = quantized(load_mllm(str(write_family(family, tmp_path)), quantization="nf4").model)
    assert layers and {name.split(".")[1] for name in layers} <= {"language_model", "text_model"}


def test_quantized_weights_take_about_a_quarter_of_half_precision(pocket: Mllm) -> None:
    layers = quantized(pocket.model).values()
    states = [layer.weight.quant_state for layer in layers]
    held = sum(layer.weight.nbytes for layer in layers)
    held += sum(state.absmax.nbytes + state.state2.absmax.nbytes for state in states)
    assert 0.25 < held / sum(2 * layer.in_features * layer.out_features for layer in layers) < 0.26


@pytest.fixture
def dequantized(pocket: Mllm) -> Iterator[Mllm]:
    """The pocket in plain fp32 with the weights that the 4 bits stand for."""
    plain = load_mllm("pocket")
    with torch.no_grad():
        for name, layer in quantized(pocket.model).items():
            plain.model.get_submodule(name).weight.copy_(dequantize_4bit(layer.weight.data, layer.weight.quant_state))
    yield plain


def test_it_computes_with_what_the_four_bits_stand_for_asked_and_trained(pocket: Mllm, dequantized: Mllm) -> None:
    """bitsandbytes' own way on CPUs with AVX-512 BF16 is off by more than 1e-2."""
    said, likelihood = answers(pocket)
    expected, expected_likelihood = answers(dequantized)
    assert said == expected
    assert likelihood == pytest.approx(expected_likelihood, abs=1e-3)
    lora = LoraSettings(dropout=0.0)
    ours, theirs = (stirred(add_lora(one.model, lora, seed=0)) for one in (pocket, dequantized))
    expected_gradients = gradients(dequantized, theirs)
    found = gradients(pocket, ours)
    assert found.keys() == expected_gradients.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected_gradients[name], rtol=1e-3, atol=1e-4)


def test_asking_in_between_changes_no_gradient(pocket: Mllm) -> None:
    """As a round of self-labelling does: sampling first, then training the same layers."""
    model = stirred(add_lora(pocket.model, LoraSettings(dropout=0.0), seed=0))
    before = gradients(pocket, model)
    answers(pocket)
    after = gradients(pocket, model)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert any("language_model" in name and gradient.abs().max() > 0 for name, gradient in after.items())


def test_adapters_on_four_bits_are_pefts_own_and_ours_elsewhere(pocket: Mllm) -> None:
    model = add_lora(pocket.model, LoraSettings(), seed=0)
    adapted = {name: module for name, module in model.get_base_model().named_modules() if hasattr(module, "lora_A")}
    on_four_bits = {name for name, module in adapted.items() if isinstance(module, LoraLinear4bit)}
    assert on_four_bits == {name for name in adapted if "language_model" in name}
    assert all(type(adapted[name]) is LoraLinear for name in set(adapted) - on_four_bits)


def test_folding_leaves_four_bits_alone(pocket: Mllm) -> None:
    model = stirred(add_lora(pocket.model, LoraSettings(), seed=0))
    before = {name: layer.weight.data.clone() for name, layer in quantized(model).items()}
    with pocket.evaluating():
        assert not any(module.merged for module in model.modules() if isinstance(module, LoraLinear4bit))
        assert all(torch.equal(layer.weight.data, before[name]) for name, layer in quantized(model).items())
    assert all(torch.equal(layer.weight.data, before[name]) for name, layer in quantized(model).items())


@pytest.mark.slow
def test_training_lowers_the_loss_and_what_is_saved_answers_the_same(
    pocket: Mllm, tiny_images: ImageSet, tmp_path: Path
) -> None:
    model = add_lora(pocket.model, LoraSettings(), seed=0)
    base = {name: layer.weight.data.clone() for name, layer in quantized(model).items()}
    given = samples_of(tiny_images, 4)
    trained, lines = train(pocket, model, given, tmp_path, settings(epochs=4, batch=4), log_steps=1)
    assert trained.optimiser_steps == 4
    assert lines[-1].loss < lines[0].loss
    assert all(torch.equal(layer.weight.data, base[name]) for name, layer in quantized(model).items())
    save_adapter(model, tmp_path / "adapter")
    again = load_mllm("pocket", quantization="nf4")
    untrained = answers(again)
    load_adapter(again.model, tmp_path / "adapter")
    assert answers(again) == answers(pocket) != untrained


def fault(name: str) -> str:
    with pytest.raises(ThroughlineError) as raised:
        load_mllm(name, quantization="nf4")
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_without_bitsandbytes_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    assert "pip install '.[quantized]'" in fault("pocket")
    load_mllm("pocket")


def test_a_checkpoint_that_is_quantized_already_is_told(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(checkpoints["internvl"], tmp_path / "copy"))
    config = json.loads((copy / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "awq", "bits": 4}
    (copy / "config.json").write_text(json.dumps(config))
    assert "quantised already" in fault(str(copy))


def test_the_missing_kernel_is_no_news_and_other_warnings_are(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    with caplog.at_level(logging.WARNING):
        logger.warning("Failed to load CPU gemm_4bit_forward from kernels-community: %s.", "No module named 'kernels'")
        logger.warning("something else")
    assert [record.getMessage() for record in caplog.records] == ["something else"]
