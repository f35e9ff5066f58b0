"""The making of the pocket checkpoint, in small: what comes out can be opened and asked."""

import json
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.mllm.tiny import image_of

import pocket as making
from throughline.drawn.concepts import CLASSES
from throughline.drawn.styles import AUXILIARY_STYLES
from throughline.mllm.chat import EncodedPrompt, user_turn
from throughline.mllm.likelihood import label_log_likelihood
from throughline.mllm.load import load_mllm
from throughline.questions.question_set import make_question_set

SMALL = making.Recipe(
    scenes=72, vocabulary=700, see_epochs=1, see_batch=24, speak_steps=3, speak_batch=4, join_steps=1, unnamed=("bowl",)
)


@pytest.mark.slow
def test_a_small_making_ends_in_a_checkpoint_that_can_be_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoken_of = []
    spoken_tree = making.spoken_tree

    def noted(mllm: Any, scene: Any, *rest: Any) -> Any:
        spoken_of.append(scene.cls)
        return spoken_tree(mllm, scene, *rest)

    monkeypatch.setattr(making, "spoken_tree", noted)
    told: list[str] = []
    making.make(SMALL, tmp_path / "base", told.append)
    assert len(spoken_of) == 16
    assert not {"bowl"} & set(spoken_of)
    assert json.loads((tmp_path / "base" / "recipe.json").read_text()) == json.loads(json.dumps(asdict(SMALL)))
    mllm = load_mllm(str(tmp_path / "base"))
    question = user_turn(make_question_set(CLASSES).label)
    prompt = EncodedPrompt(question, [mllm.chat.encode_image(image_of(0), "0")])
    found = label_log_likelihood(mllm, [prompt], CLASSES)
    assert found.shape == (1, len(CLASSES))
    assert torch.isfinite(found).all()
    assert any(line.startswith("72 scenes") for line in told)


def test_the_base_that_ships_was_made_by_the_recipe_of_this_code() -> None:
    shipped = json.loads((files("throughline.mllm.pocket") / "checkpoint" / "recipe.json").read_text())
    assert shipped == json.loads(json.dumps(asdict(making.Recipe())))
    assert set(shipped["styles"]) < set(AUXILIARY_STYLES), "no domain style"


def test_jitter_turns_a_quarter_grey_and_an_eighth_negative() -> None:
    pixels = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0)).repeat(2000, 1, 1, 1)
    found = making.jitter(pixels, np.random.default_rng(0)).flatten(2)
    centred = found - found.mean(dim=2, keepdim=True)
    red, green = (centred[:, i] / centred[:, i].norm(dim=1, keepdim=True) for i in (0, 1))
    grey = (red * green).sum(dim=1) > 0.9999  # one pattern in both channels
    assert grey.float().mean().item() == pytest.approx(1 / 4, abs=0.03)
    before = pixels[0].mean(dim=0).flatten()
    negative = (red[grey] * before).sum(dim=1) < 0
    assert negative.float().mean().item() == pytest.approx(1 / 8, abs=0.03)
