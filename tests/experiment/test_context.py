"""What a run's longest prompt takes of a checkpoint's context, counted before any weights are loaded."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.mllm.tiny import image_of
from transformers import AutoProcessor, tokenization_utils_base

from throughline.cli.main import main
from throughline.core.errors import ThroughlineError
from throughline.domains.samples import ImageSet
from throughline.experiment.config_files import load_config
from throughline.experiment.context import longest_prompt
from throughline.experiment.run import preview_run, run_experiment
from throughline.mllm.shapes import open_outline
from throughline.questions.in_context import EXAMPLE_QUESTION
from throughline.questions.question_set import make_question_set

SHOTS = "evaluation.examples.shots"


@pytest.fixture
def asked(tiny_images: ImageSet, tiny_checkpoint: Path) -> Any:
    """A config that asks the tiny checkpoint, of 1,024 positions, behind examples."""

    def asked(**keys: Any) -> Any:
        changes = {"data.images": str(tiny_images.root), "methods": ["zero_shot"], "evaluation.sample.per_class": 1}
        changes |= {"model.checkpoint": str(tiny_checkpoint), "evaluation.answering.answers": ["label"]}
        changes |= {"evaluation.answering.label_tokens": 32, "evaluation.answering.chain_tokens": 512}
        return load_config("demo", ["data.drawn=null", "chains.teacher=null"], changes | keys)

    return asked


def turn(role: str, text: str, image: bool = False) -> dict[str, Any]:
    return {"role": role, "content": [*([{"type": "image"}] * image), {"type": "text", "text": text}]}


@pytest.mark.parametrize(("answers", "new"), [(["label"], 32), (["label", "reasoning"], 512), (["likelihood"], None)])
def test_tokens_are_those_of_the_processor(
    asked: Any, answers: list[str], new: int | None, tiny_images: ImageSet, tiny_checkpoint: Path
) -> None:
    config = asked(**{SHOTS: 3, "evaluation.answering.answers": answers})
    _, chat = open_outline(str(tiny_checkpoint))
    found = longest_prompt(config, tiny_images, chat, chat.encode_image(image_of(0), ""))
    questions = make_question_set(tiny_images.classes)
    processor = AutoProcessor.from_pretrained(str(tiny_checkpoint))
    examples = [own for _ in range(3) for own in (turn("user", EXAMPLE_QUESTION, True), turn("assistant", "cup"))]
    messages = [*examples, turn("user", questions.reasoning if "reasoning" in answers else questions.label, True)]
    text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    options = {"crop_to_patches": False, "max_patches": 1}
    whole = processor(text=[text], images=[image_of(n) for n in range(4)], return_tensors="pt", **options)
    assert found[0] == whole["input_ids"].shape[1]
    if new is not None:
        assert found[1] == new
    else:
        longest = max(len(processor.tokenizer(name + "<|im_end|>")["input_ids"]) for name in tiny_images.classes)
        assert found[1] == longest


def test_a_prompt_that_is_too_long_is_told_before_anything_is_written(asked: Any, tmp_path: Path) -> None:
    levels = {f"{shots} target 0": {SHOTS: shots} for shots in (1, 8, 64)}
    config = asked(factors={"examples": levels})
    said = (
        r"examples=64_target_0-seed0 asks with [\d,]+ tokens for up to 32: .* takes 1,024: .*evaluation.examples.shots"
    )
    with pytest.raises(ThroughlineError, match=said):
        run_experiment(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    del levels["64 target 0"]
    assert len(preview_run(asked(factors={"examples": levels})).units) == 2
    assert preview_run(asked(**{"evaluation.examples": {"shots": 12, "vote": 1}})).units  # shows no prompt
    long = {"evaluation.examples": {"shots": 1}, "evaluation.answering.answers": ["reasoning"]}
    with pytest.raises(ThroughlineError, match="for up to 1,000"):
        preview_run(asked(**long, **{"evaluation.answering.chain_tokens": 1000}))


def test_the_dry_run_says_so_too_and_nothing_else(
    tiny_images: ImageSet,
    tiny_checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also of a checkpoint whose tokenizer knows the limit and would warn."""
    checkpoint = Path(shutil.copytree(tiny_checkpoint, tmp_path / "limited"))
    settings = json.loads((checkpoint / "tokenizer_config.json").read_text("utf-8"))
    (checkpoint / "tokenizer_config.json").write_text(json.dumps(settings | {"model_max_length": 1024}))
    warned: list[str] = []
    monkeypatch.setattr(tokenization_utils_base.logger, "warning", warned.append)
    words = ["--model", str(checkpoint), "--shots", "0,64", "--examples", "target", "--per-class", "1"]
    assert main(["ood", "icl", str(tiny_images.root), *words, "--dry-run"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "takes 1,024" in line and "evaluation.examples.shots" in line
    assert warned == []
