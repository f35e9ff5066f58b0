"""A family runs as its own processor and model do, or is refused in one line when it is loaded."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.mllm.families import write_family
from tests.mllm.reference import Spoken, assert_same_gradients, gradients, loss_alone, nll_alone, picture, tree_of
from tests.mllm.tiny import image_of

from throughline.cli.main import main
from throughline.core.errors import ThroughlineError
from throughline.core.settings import LoraSettings
from throughline.mllm import lora, self_check
from throughline.mllm.chat import user_turn
from throughline.mllm.forward import score_trees
from throughline.mllm.load import load_mllm
from throughline.mllm.lora import add_lora
from throughline.mllm.plan import Plan

FAMILIES = (
    *("internvl", "internvl35", "qwen", "qwen3", "llava"),
    *("llava_next", "llava_onevision", "mistral3", "idefics3"),
)
QUESTION = "What is shown? Choose from: cat, cat tower, dog."
ODD, WIDE, TALL = (61, 47), (90, 20), (33, 80)


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory, checkpoints: dict[str, Path]) -> Any:
    """A family's checkpoint, written when it is first asked for; read only."""
    folders = dict(checkpoints)

    def folder_of(family: str) -> Path:
        if family not in folders:
            folders[family] = write_family(family, tmp_path_factory.mktemp(family))
        return folders[family]

    return folder_of


def asked(seed: int, size: tuple[int, int]) -> list[Spoken]:
    shown = picture(seed, *size)
    return [
        Spoken(user_turn(QUESTION), [shown], "cat", 1.0, "sum"),
        Spoken(user_turn(QUESTION + " Think step by step."), [shown], "The picture has a handle, no sail.", 0.5),
    ]


@pytest.mark.parametrize("sizes", [(ODD,), (ODD, WIDE, TALL)], ids=["alone", "several sizes"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_gives_the_numbers_of_the_plain_model(
    folder_of: Any, family: str, sizes: list[tuple[int, int]], caplog: Any
) -> None:
    with caplog.at_level(logging.WARNING):
        mllm = load_mllm(str(folder_of(family)))
    assert mllm.plan == Plan("packed") and not caplog.records
    mllm.model.requires_grad_(True)
    trees = [asked(seed, size) for seed, size in enumerate(sizes)]
    paths = [path for tree in trees for path in tree]
    alone = [nll_alone(mllm.model, mllm.chat.processor, family, path) for path in paths]
    loss = loss_alone(alone, paths)
    expected = gradients(mllm.model, loss)
    scores = score_trees(mllm.model, mllm.collate([[tree_of(mllm, tree) for tree in trees]]))
    torch.testing.assert_close(scores.token_nll, torch.cat(alone), atol=1e-5, rtol=1e-5)
    assert_same_gradients(gradients(mllm.model, scores.loss_sum()), expected)


def test_a_window_is_kept_however_long_the_path(folder_of: Any, caplog: Any) -> None:
    with caplog.at_level(logging.WARNING):
        mllm = load_mllm(str(folder_of("windowed")))
    assert mllm.plan == Plan("paths")
    assert "paths run as separate rows" in caplog.text
    paths = [Spoken(user_turn(QUESTION * 3), [picture(0, *ODD)], answer) for answer in ("cat", "dog house")]
    with torch.no_grad():
        theirs = torch.cat([nll_alone(mllm.model, mllm.chat.processor, "internvl", path) for path in paths])
        ours = score_trees(mllm.model, mllm.collate([[tree_of(mllm, paths)]])).token_nll
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_a_plan_that_ignores_a_window_of_thousands_is_refused(folder_of: Any) -> None:
    mllm = load_mllm(str(folder_of("widely_windowed")))
    with pytest.raises(ThroughlineError, match=r"by .* nats a token in layers with a window of 16 tokens"):
        self_check.check_family(mllm.model, mllm.chat, Plan("masked"))
    assert mllm.model.get_decoder().config.sliding_window == 4096


def refusal(folder: Path) -> str:
    with pytest.raises(ThroughlineError) as raised:
        load_mllm(str(folder))
    line = str(raised.value)
    assert "\n" not in line
    assert str(folder) in line
    return line


def test_prefix_attention_is_refused(folder_of: Any) -> None:
    assert "lets image or prompt tokens attend to later ones" in refusal(folder_of("paligemma"))


def test_what_differs_from_the_models_own_call_is_refused(
    folder_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(folder_of("internvl"), tmp_path / "another"))
    monkeypatch.setattr(self_check, "score_trees", lambda *given: _shifted(score_trees(*given)))
    (folder / "generation_config.json").write_text("{}")  # another checkpoint, not looked at before
    assert "likelihoods differ from its own by" in refusal(folder)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_weights_that_differ_slightly_are_found_in_every_type(
    folder_of: Any, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mllm = load_mllm(str(folder_of("internvl")), dtype=dtype)
    head = mllm.model.get_output_embeddings().weight

    def with_another_head(*given: Any) -> Any:
        whole, head.data = head.data, 1.1 * head.data
        scores = score_trees(*given)
        head.data = whole
        return scores

    monkeypatch.setattr(self_check, "score_trees", with_another_head)
    with pytest.raises(ThroughlineError, match="likelihoods differ"):
        self_check.check_family(mllm.model, mllm.chat, mllm.plan)


def _shifted(scores: Any) -> Any:
    scores.token_nll.add_(0.1)
    return scores


def test_what_its_processor_raises_is_one_line(folder_of: Any, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folder_of("llava_onevision"), tmp_path / "bent"))
    config = json.loads((folder / "processor_config.json").read_text())
    config["vision_aspect_ratio"] = "anyres_max_many"
    (folder / "processor_config.json").write_text(json.dumps(config))
    assert "cannot load the checkpoint" in refusal(folder)


def test_a_checkpoint_is_looked_at_once(tmp_path: Path, folder_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    looked: list[Any] = []
    check = self_check.check_family
    monkeypatch.setattr(self_check, "check_family", lambda *given: (looked.append(given), check(*given)))
    for _ in range(2):
        load_mllm(str(folder_of("internvl")))
    assert len(looked) == 1
    load_mllm(str(folder_of("internvl")), tiles=2)
    assert len(looked) == 2


def test_no_chat_template_is_told_before_anything_is_loaded(folder_of: Any, tmp_path: Path, capsys: Any) -> None:
    folder = Path(shutil.copytree(folder_of("qwen3"), tmp_path / "base"))
    (folder / "chat_template.jinja").unlink()
    assert "no chat template" in refusal(folder)
    assert main(["run", "tiny", "--dry-run", "--set", f"model.checkpoint={folder}"]) == 1
    assert "the checkpoint has no chat template" in capsys.readouterr().err


@pytest.mark.parametrize("mark", ["think", "thinking"])
def test_a_thought_that_the_template_opens_is_closed_before_the_answer(
    folder_of: Any, tmp_path: Path, mark: str
) -> None:
    folder = Path(shutil.copytree(folder_of("internvl"), tmp_path / "thinking"))
    template = folder / "chat_template.jinja"
    opening = "<|im_start|>assistant\n"
    text = template.read_text()
    template.write_text(
        text.replace(
            f"{{% if add_generation_prompt %}}{opening}", "{% if add_generation_prompt %}" + opening + f"<{mark}>\n"
        )
    )
    chat = load_mllm(str(folder)).chat
    path = chat.answered(user_turn(QUESTION, 0), [], "cat")
    written = chat.tokenizer.decode(path.tokens)
    assert written.endswith(f"assistant\n<{mark}>\n\n</{mark}>\n\ncat<|im_end|>")
    assert chat.decode(path.tokens[path.answer_start :].tolist()) == "cat"


def test_what_a_star_leaves_frozen_is_told_in_one_line(folder_of: Any, caplog: Any) -> None:
    lora._warn_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        add_lora(load_mllm(str(folder_of("internvl35_moe"))).model, LoraSettings(rank=2), seed=0)
    (record,) = caplog.records
    assert "model.language_model.layers.*.mlp.experts.gate_up_proj" in record.getMessage()
    assert "\n" not in record.getMessage()


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_said_where_a_star_reaches_all(folder_of: Any, family: str) -> None:
    assert not lora.left_frozen(load_mllm(str(folder_of(family))).model, LoraSettings())


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("model.lora.decoder=c_attn", "no linear layer 'c_attn' in the decoder tower: choose from down_proj"),
        ("model.lora.vision=gate_proj", "no linear layer 'gate_proj' in the vision tower"),
        ("model.device=cuda", "no CUDA device here"),
    ],
)
@pytest.mark.parametrize("dry", [True, False])
def test_layers_and_devices_that_are_not_there_are_told_before_a_unit_starts(
    folder_of: Any, tmp_path: Path, key: str, said: str, dry: bool, capsys: Any
) -> None:
    if key.endswith("cuda") and torch.cuda.is_available():
        pytest.skip("this machine has one")
    out = tmp_path / "run"
    command = ["run", "tiny", "--out", str(out), *(["--dry-run"] if dry else [])]
    assert main([*command, "--set", f"model.checkpoint={folder_of('internvl')}", "--set", key]) == 1
    assert said in capsys.readouterr().err
    assert not (out / "units").exists()


def test_images_of_several_sizes_are_answered(folder_of: Any, tmp_path: Path, capsys: Any) -> None:
    for number, size in enumerate((ODD, WIDE, TALL)):
        image_of(number, *size).save(tmp_path / f"{number}.png")
    command = ["predict", str(folder_of("llava_onevision")), str(tmp_path), "--classes", "cat,dog"]
    assert main([*command, "--no-chain", "--json"]) == 0
    assert [answer.get("fault") for answer in json.loads(capsys.readouterr().out)] == [None] * 3
