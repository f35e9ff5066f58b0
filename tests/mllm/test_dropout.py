"""What a model answers does not depend on whether somebody trained it last."""

from typing import Any

import pytest
import torch
from tests.mllm.tiny import image_of

from throughline.core.settings import LoraSettings, SamplingSettings
from throughline.mllm.chat import EncodedPrompt, user_turn
from throughline.mllm.likelihood import label_log_likelihood
from throughline.mllm.load import Mllm, load_mllm
from throughline.mllm.lora import add_lora, load_adapter, save_adapter
from throughline.mllm.sampling import sample

QUESTION = user_turn("What is shown? Choose from: cat, dog, cup.")


@pytest.fixture
def adapted(tiny_mllm: Mllm) -> tuple[Mllm, Any]:
    model = add_lora(tiny_mllm.model, LoraSettings(rank=2, dropout=0.5), seed=0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(generator=torch.Generator().manual_seed(1))
    return tiny_mllm, model


def answers(mllm: Mllm) -> tuple[Any, list[float]]:
    image = mllm.chat.encode_image(image_of(0), "0")
    said = sample(mllm, [mllm.chat.prompt(QUESTION, [image])], SamplingSettings(max_new_tokens=12))
    return said, label_log_likelihood(mllm, [EncodedPrompt(QUESTION, [image])], ["cat", "dog", "cup"])[0].tolist()


def test_a_model_in_training_mode_answers_as_one_that_is_not(adapted: tuple[Mllm, Any]) -> None:
    mllm, model = adapted
    model.eval()
    expected = answers(mllm)
    model.train()
    assert answers(mllm) == answers(mllm) == expected
    assert all(module.training for module in model.modules()), "and is in training mode again"


def test_an_adapter_that_was_loaded_to_be_trained_further_answers_as_it_was_saved(
    adapted: tuple[Mllm, Any], tmp_path: Any, tiny_checkpoint: Any
) -> None:
    """A round begins so: its layers come in training mode on a base that is not."""
    mllm, model = adapted
    save_adapter(model, tmp_path)
    model.eval()
    again = load_mllm(str(tiny_checkpoint))
    model_again = load_adapter(again.model, tmp_path, trainable=True)
    mixed = [module.training for module in model_again.modules()]
    assert any(mixed)
    assert answers(again) == answers(mllm)
    assert [module.training for module in model_again.modules()] == mixed


def test_the_mode_is_put_back_after_an_error(adapted: tuple[Mllm, Any]) -> None:
    mllm, model = adapted
    model.train()
    with pytest.raises(RuntimeError), mllm.evaluating():
        assert not any(module.training for module in mllm.model.modules())
        raise RuntimeError
    assert all(module.training for module in model.modules())


def test_loading_and_saving_show_no_progress_bars_of_their_own(
    tiny_checkpoint: Any, tmp_path: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    mllm = load_mllm(str(tiny_checkpoint))
    mllm.model.save_pretrained(str(tmp_path))
    assert capfd.readouterr().err == ""
