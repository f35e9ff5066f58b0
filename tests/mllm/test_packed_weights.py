"""Packed weights: the same continuations, only where it is worth it, and nothing of it left afterwards."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.mllm.test_sampling import prompts_of

from throughline.core.settings import LoraSettings, SamplingSettings
from throughline.mllm import packed_weights as room
from throughline.mllm.load import Mllm
from throughline.mllm.lora import add_lora
from throughline.mllm.packed_weights import STEPS, packed_weights
from throughline.mllm.plan import Plan
from throughline.mllm.sampling import sample


@pytest.fixture
def small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' models have no weight that is worth packing."""
    monkeypatch.setattr(room, "LEAST", 1)


def forwards(mllm: Mllm) -> list[str]:
    """Modules whose forward is not their class's."""
    return [name for name, module in mllm.model.named_modules() if {"forward", "packed"} & module.__dict__.keys()]


@pytest.mark.usefixtures("small_is_large")
def test_layers_of_decoder_and_head_compute_the_same_and_are_left_as_they_were(
    mllms: dict[str, Mllm], family: str
) -> None:
    mllm = mllms[family]
    before = forwards(mllm)
    layer = mllm.model.get_output_embeddings()
    decoder = [m for m in mllm.model.get_decoder().modules() if isinstance(m, torch.nn.Linear)]
    x = torch.randn(3, 1, layer.in_features, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = layer(x)
        with packed_weights(mllm.model, STEPS) as count:
            assert count == len(decoder) + 1
            assert "packed" in layer.__dict__
            torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)
    assert forwards(mllm) == before


@pytest.mark.usefixtures("small_is_large")
@pytest.mark.parametrize("rows", ["packed", "masked"])
@pytest.mark.parametrize("adapted", [False, True])
def test_continuations_are_those_of_weights_as_they_lie(
    mllms: dict[str, Mllm], family: str, rows: str, adapted: bool
) -> None:
    mllm = replace(mllms[family], plan=Plan(rows))  # type: ignore[arg-type]
    if adapted:
        model = add_lora(copy.deepcopy(mllm.model), LoraSettings(), seed=0)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
        mllm = replace(mllm, model=model)
    unpacked = replace(mllm, plan=Plan(rows, packed_weights=False))  # type: ignore[arg-type]
    settings = SamplingSettings(temperature=1.0, max_new_tokens=STEPS)

    def drawn(who: Mllm) -> list[list[tuple[int, ...]]]:
        generators = [[np.random.default_rng([p, k]) for k in range(2)] for p in range(len(prompts_of(who)))]
        return [[one.tokens for one in some] for some in sample(who, prompts_of(who), settings, generators)]

    assert drawn(mllm) == drawn(unpacked)


def test_short_continuations_and_small_or_too_many_weights_stay_as_they_lie(
    mllms: dict[str, Mllm], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = mllms["internvl"].model
    with packed_weights(model, STEPS) as count:
        assert count == 0
    monkeypatch.setattr(room, "LEAST", 1)
    with packed_weights(model, STEPS - 1) as count:
        assert count == 0
    monkeypatch.setattr(room, "MOST", 1000)
    with packed_weights(model, STEPS) as count:
        assert count == 0


@pytest.mark.usefixtures("small_is_large")
def test_an_error_inside_leaves_nothing_behind(mllms: dict[str, Mllm]) -> None:
    mllm = mllms["internvl"]
    before = forwards(mllm)
    with pytest.raises(KeyError), packed_weights(mllm.model, STEPS):
        raise KeyError
    assert forwards(mllm) == before
