"""GRPO by TRL as a method of a user's: it trains this class of model, and what is whole is not trained again."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tests.training.test_preference_rounds import context_of

from grpo import REWARDS, GrpoStage
from throughline.core.files import read_json_lines
from throughline.core.settings import SelfLabelling
from throughline.domains.samples import ImageSet

ADAPTER = "adapter/adapter_model.safetensors"


@pytest.mark.slow
def test_trl_rewards_the_models_own_chains(tiny_checkpoint: Path, tiny_images: ImageSet, tmp_path: Path) -> None:
    pytest.importorskip("trl")
    context = context_of(tiny_checkpoint, tiny_images.samples[:4], tmp_path)
    words = SelfLabelling(max_new_tokens=4)
    context = replace(context, settings=context.settings.model_copy(update={"self_labelling": words}))
    stage = GrpoStage(steps=2, prompts=1, generations=2, per_class=1)
    stage.run(context)
    rewards = list(read_json_lines(context.folder / REWARDS))
    assert [row["step"] for row in rewards] == [1, 2] and all(0 <= row["reward"] <= 1 for row in rewards)
    assert len(list(read_json_lines(context.folder / "training.jsonl"))) == 2
    mark = json.loads((context.folder / "stage.json").read_text())
    assert (mark["samples"], mark["seconds"] > 0) == (2, True)  # images, of two answers each
    written = (context.folder / ADAPTER).stat().st_mtime_ns
    stage.run(context)
    assert (context.folder / ADAPTER).stat().st_mtime_ns == written
