"""The plan is found by trying: a family whose forward takes the tree mask gets trees, any other gets paths."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.mllm.reference import Spoken, nll_alone, picture, tree_of

from throughline.mllm.chat import user_turn
from throughline.mllm.forward import score_trees
from throughline.mllm.load import Mllm, load_mllm, wrap_mllm
from throughline.mllm.plan import Plan, choose_plan

DTYPES = ["float32", "bfloat16", "float16"]


def spoiled(model: Any, forward: Any) -> Any:
    """The model with `forward(real, **arguments)` around its inner one, which every way goes through."""
    real = model.model.forward
    model.model.forward = lambda **arguments: forward(real, **arguments)
    return model


def deaf_to_layouts(model: Any) -> Any:
    """The model made to keep keyword arguments it does not know to itself."""
    return spoiled(model, lambda real, layout=None, **rest: real(**rest))


def deaf(model: Any) -> Any:
    """The model made to ignore layouts and 4-D masks, as a family that builds its own would."""

    def forward(real: Any, attention_mask: Any = None, layout: Any = None, **rest: Any) -> Any:
        return real(attention_mask=None if attention_mask.ndim == 4 else attention_mask, **rest)

    return spoiled(model, forward)


def refusing(model: Any) -> Any:
    """The model made to refuse 4-D masks."""

    def forward(real: Any, attention_mask: Any, **rest: Any) -> Any:
        if attention_mask.ndim == 4:
            raise ValueError("too many values to unpack (expected 2)")
        return real(attention_mask=attention_mask, **rest)

    return spoiled(model, forward)


def axes_of(family: str) -> int:
    return 3 if family == "qwen" else 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_three_families_take_the_fastest_way(
    checkpoints: dict[str, Path], family: str, dtype: str, caplog: Any
) -> None:
    with caplog.at_level(logging.WARNING):
        mllm = load_mllm(str(checkpoints[family]), dtype=dtype)
    assert mllm.plan == Plan("packed")
    assert not caplog.records


@pytest.mark.parametrize(("spoil", "rows"), [(deaf_to_layouts, "masked"), (deaf, "paths"), (refusing, "paths")])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_model_that_ignores_or_refuses_a_way_gets_the_next(
    checkpoints: dict[str, Path], family: str, dtype: str, spoil: Any, rows: str
) -> None:
    mllm = load_mllm(str(checkpoints[family]), dtype=dtype)
    assert choose_plan(spoil(mllm.model), mllm.chat.pad_id, axes_of(family)) == Plan(rows)


def test_a_head_that_does_more_than_a_product_is_called_as_a_whole(checkpoints: dict[str, Path]) -> None:
    model = load_mllm(str(checkpoints["internvl"])).model
    real = model.forward

    def capped(**arguments: Any) -> Any:
        out = real(**arguments)
        out.logits = 3 * torch.tanh(out.logits / 3)
        return out

    model.forward = capped
    assert choose_plan(model, 0, 1) == Plan("packed", whole_logits=True)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (deaf_to_layouts, "takes no attention layout: trees run in padded rows"),
        (deaf, "does not take a 4-D attention mask: paths run as separate rows"),
    ],
)
def test_a_slower_way_is_named_in_one_line_and_gives_the_same_numbers(
    checkpoints: dict[str, Path], family: str, caplog: Any, spoil: Any, said: str
) -> None:
    plain = load_mllm(str(checkpoints[family]))
    with caplog.at_level(logging.WARNING):
        slower = wrap_mllm(spoil(plain.model), plain.chat.processor, "spoiled", "")
    (record,) = caplog.records
    assert record.getMessage() == f"{type(plain.model).__name__} {said} (slower, same numbers)"
    paths = [Spoken(user_turn("What is shown?"), [picture(0)], answer) for answer in ("cat", "cat tower", "dog")]
    del plain.model.model.forward  # the rival gets the model as it was
    with torch.no_grad():
        theirs = torch.cat([nll_alone(plain.model, plain.chat.processor, family, p) for p in paths])
    with torch.no_grad():
        ours = score_trees(spoil(slower.model), slower.collate([[tree_of(slower, paths)]])).token_nll
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_a_fault_of_the_model_itself_is_not_taken_for_a_refusal(mllms: dict[str, Mllm], monkeypatch: Any) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(mllms["internvl"].model.model, "forward", broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        choose_plan(mllms["internvl"].model, 0, 1)


def test_trying_leaves_the_mode_as_it_was(checkpoints: dict[str, Path]) -> None:
    mllm = load_mllm(str(checkpoints["internvl"]))
    mllm.model.train()
    choose_plan(mllm.model, mllm.chat.pad_id, 1)
    assert mllm.model.training
