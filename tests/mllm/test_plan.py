"""The plan is found by trying: a family whose forward takes the tree mask gets trees, any other gets paths."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.mllm.reference import Spoken, nll_alone, picture, tree_of

from throughline.mllm.chat import user_turn
from throughline.mllm.forward import score_trees
from throughline.mllm.load import Mllm, load_mllm, wrap_mllm
from throughline.mllm.plan import takes_tree_mask

DTYPES = ["float32", "bfloat16", "float16"]


def deaf(model: Any) -> Any:
    """The model made to ignore 4-D masks, as a family that builds its own would."""
    real = model.forward

    def forward(*args: Any, attention_mask: torch.Tensor | None = None, **rest: Any) -> Any:
        if attention_mask is not None and attention_mask.ndim == 4:
            attention_mask = None
        return real(*args, attention_mask=attention_mask, **rest)

    model.forward = forward
    return model


def refusing(model: Any) -> Any:
    """The model made to refuse 4-D masks."""
    real = model.forward

    def forward(*args: Any, attention_mask: torch.Tensor | None = None, **rest: Any) -> Any:
        if attention_mask is not None and attention_mask.ndim == 4:
            raise ValueError("too many values to unpack (expected 2)")
        return real(*args, attention_mask=attention_mask, **rest)

    model.forward = forward
    return model


def axes_of(family: str) -> int:
    return 3 if family == "qwen" else 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_three_families_take_trees(checkpoints: dict[str, Path], family: str, dtype: str, caplog: Any) -> None:
    with caplog.at_level(logging.WARNING):
        mllm = load_mllm(str(checkpoints[family]), dtype=dtype)
    assert takes_tree_mask(mllm.model, mllm.chat.pad_id, axes_of(family))
    assert not caplog.records


@pytest.mark.parametrize("spoil", [deaf, refusing])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_model_that_ignores_or_refuses_the_mask_does_not(
    checkpoints: dict[str, Path], family: str, dtype: str, spoil: Any
) -> None:
    mllm = load_mllm(str(checkpoints[family]), dtype=dtype)
    assert not takes_tree_mask(spoil(mllm.model), mllm.chat.pad_id, axes_of(family))


def test_the_slower_plan_is_named_in_one_line_and_gives_the_same_numbers(
    checkpoints: dict[str, Path], family: str, caplog: Any
) -> None:
    plain = load_mllm(str(checkpoints[family]))
    with caplog.at_level(logging.WARNING):
        slower = wrap_mllm(deaf(plain.model), plain.chat.processor, "deaf", "")
    (record,) = caplog.records
    assert record.getMessage() == (
        f"{type(plain.model).__name__} does not take a 4-D attention mask: "
        "paths run as separate rows (slower, same numbers)"
    )
    paths = [Spoken(user_turn("What is shown?"), [picture(0)], answer) for answer in ("cat", "cat tower", "dog")]
    with torch.no_grad():
        ours = score_trees(slower.model, slower.collate([[tree_of(slower, paths)]])).token_nll
        theirs = torch.cat([nll_alone(plain.model, plain.chat.processor, family, p) for p in paths])
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_a_fault_of_the_model_itself_is_not_taken_for_a_refusal(mllms: dict[str, Mllm], monkeypatch: Any) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(mllms["internvl"].model, "forward", broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        takes_tree_mask(mllms["internvl"].model, 0, 1)


def test_trying_leaves_the_mode_as_it_was(checkpoints: dict[str, Path]) -> None:
    mllm = load_mllm(str(checkpoints["internvl"]))
    mllm.model.train()
    takes_tree_mask(mllm.model, mllm.chat.pad_id, 1)
    assert mllm.model.training
