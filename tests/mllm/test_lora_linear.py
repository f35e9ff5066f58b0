"""LoRA in one node against peft's own five operations, and adapters folded while a model is only asked."""

from typing import Any

import pytest
import torch
from peft import LoraConfig
from peft.tuners import lora
from tests.mllm.tiny import image_of
from torch import Tensor, nn

from throughline.core.settings import LoraSettings, SamplingSettings
from throughline.mllm.chat import user_turn
from throughline.mllm.load import Mllm
from throughline.mllm.lora import adapter_fingerprint, add_lora, folded
from throughline.mllm.lora_linear import LoraLinear
from throughline.mllm.sampling import sample


def layer(kind: type[lora.Linear], bias: bool = True, dropout: float = 0.0, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    base = nn.Linear(6, 10, bias=bias).to(dtype).requires_grad_(False)
    made = kind(base, "default", LoraConfig(r=2, lora_alpha=6, lora_dropout=dropout), r=2, lora_alpha=6)
    with torch.no_grad():
        made.lora_A["default"].weight.normal_()
        made.lora_B["default"].weight.normal_()
    return made.train()


def passed(made: Any, x: Tensor) -> list[Tensor]:
    """Output, and the gradients of input and both factors."""
    torch.manual_seed(1)  # dropout draws the same mask
    y = made(x)
    y.square().sum().backward()
    return [y.detach(), *(t.grad for t in (x, made.lora_A["default"].weight, made.lora_B["default"].weight))]


@pytest.mark.parametrize("shape", [(5, 6), (2, 5, 6), (3, 1, 2, 6)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_output_and_gradients_are_those_of_peft(shape: tuple[int, ...], bias: bool, dropout: float) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found, expected = (
        passed(layer(kind, bias, dropout).double(), x.clone().requires_grad_()) for kind in (LoraLinear, lora.Linear)
    )
    torch.testing.assert_close(found, expected)


def test_an_input_without_gradient_costs_none() -> None:
    made = layer(LoraLinear)
    made(torch.ones(3, 6)).sum().backward()
    assert made.lora_A["default"].weight.grad is not None
    assert made.get_base_layer().weight.grad is None


def test_gradients_are_the_derivatives() -> None:
    made = layer(LoraLinear).double()
    x = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(made, (x,))


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_on_a_half_precision_base_it_is_peft_up_to_rounding(dropout: float) -> None:
    """peft multiplies the factors in float32; here they are rounded first, and their gradients are float32 again."""
    both, weights_of_outputs = [], torch.randn(40, 10, generator=torch.Generator().manual_seed(3))
    for kind in (LoraLinear, lora.Linear):
        made = layer(kind, dropout=dropout, dtype=torch.bfloat16)
        for factor in (made.lora_A, made.lora_B):
            factor.float()
        x = torch.randn(40, 6, generator=torch.Generator().manual_seed(2)).bfloat16().requires_grad_()
        torch.manual_seed(1)
        y = made(x)
        (y.float() * weights_of_outputs).sum().backward()
        gradients = [x.grad, made.lora_A["default"].weight.grad, made.lora_B["default"].weight.grad]
        both.append([y.detach().float(), *(gradient.float() for gradient in gradients)])
        assert y.dtype == x.grad.dtype == torch.bfloat16
        assert all(gradient.dtype == torch.float32 for gradient in gradients[1:])
    for found, expected in zip(*both, strict=True):
        assert float((found - expected).norm() / expected.norm()) < 0.03


@pytest.mark.parametrize("case", ["autocast", "merged", "disabled"])
def test_what_is_not_the_plain_case_goes_pefts_own_way(case: str) -> None:
    outputs = []
    for kind in (LoraLinear, lora.Linear):
        made = layer(kind)
        if case == "merged":
            made.merge()
        if case == "disabled":
            made.enable_adapters(False)
        x = torch.ones(3, 6, dtype=made.get_base_layer().weight.dtype)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=case == "autocast"):
            outputs.append(made(x))
    assert outputs[0].equal(outputs[1])


@pytest.fixture
def adapted(tiny_mllm: Mllm) -> tuple[Mllm, Any]:
    model = add_lora(tiny_mllm.model, LoraSettings(rank=2), seed=0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(generator=torch.Generator().manual_seed(1))
    return tiny_mllm, model.eval()


def weights(model: Any) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_folded_it_says_the_same_and_afterwards_is_what_it_was(adapted: tuple[Mllm, Any]) -> None:
    mllm, model = adapted
    before, fingerprint = weights(model), adapter_fingerprint(model)
    prompts = [mllm.chat.prompt(user_turn("What is shown?"), [mllm.chat.encode_image(image_of(i), "")]) for i in (0, 1)]
    inputs = torch.randn(2, 3, model.config.text_config.hidden_size)
    plain = model(inputs_embeds=inputs).logits
    with folded(model):
        assert any(not value.equal(before[name]) for name, value in model.state_dict().items())
        torch.testing.assert_close(model(inputs_embeds=inputs).logits, plain)
    said = sample(mllm, prompts, SamplingSettings(max_new_tokens=12))
    with torch.no_grad():
        greedy = model.generate(
            input_ids=torch.tensor([list(prompts[0].tokens)]),
            pixel_values=prompts[0].images[0].inputs["pixel_values"],
            max_new_tokens=12,
            do_sample=False,
        )
    assert tuple(greedy[0, len(prompts[0].tokens) :].tolist())[: len(said[0][0].tokens)] == said[0][0].tokens
    after = weights(model)
    assert after.keys() == before.keys()
    assert all(after[name].equal(before[name]) for name in before)
    assert adapter_fingerprint(model) == fingerprint


def test_the_base_comes_back_after_an_error(adapted: tuple[Mllm, Any]) -> None:
    _, model = adapted
    before = weights(model)
    with pytest.raises(RuntimeError), folded(model):
        raise RuntimeError
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


def test_in_half_precision_nothing_is_folded(adapted: tuple[Mllm, Any]) -> None:
    _, model = adapted
    before = weights(model.bfloat16())
    with folded(model):
        assert all(value.equal(before[name]) for name, value in model.state_dict().items())


def test_disabled_adapters_stay_out(adapted: tuple[Mllm, Any]) -> None:
    _, model = adapted
    before = weights(model)
    with model.disable_adapter(), folded(model):
        assert all(value.equal(before[name]) for name, value in model.state_dict().items())
