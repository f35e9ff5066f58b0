"""Methods on CLIP and SigLIP, with tiny random checkpoints of both."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from sentencepiece import SentencePieceTrainer
from sklearn.linear_model import LogisticRegression
from tests.baselines.clips import write_clip
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer, CLIPConfig, CLIPModel, SiglipTokenizer

from throughline.baselines import frozen
from throughline.baselines.clip import ClipClassifier, Prompts
from throughline.baselines.clip_lora import add_factors
from throughline.baselines.coop import LearnedContext
from throughline.baselines.learner import Learner
from throughline.baselines.settings import BaselineSettings, ClipLoraSettings
from throughline.core.errors import ThroughlineError
from throughline.core.files import read_json_lines
from throughline.drawn.concepts import CLASSES
from throughline.drawn.scenes import sample_scene
from throughline.drawn.styles import DOMAIN_STYLES, render
from throughline.drawn.world import write_world
from throughline.evaluation.folds import leave_out
from throughline.experiment.run import FinishedRun
from throughline.metrics.intervals import wilson_interval
from throughline.mllm.checkpoints import checkpoint_folder
from throughline.mllm.clip import ImageEncoder, open_clip
from throughline.reporting.estimates import summarise
from throughline.reporting.groups import groups
from throughline.runs.reader import read_run
from throughline.training.methods import CLIP_METHODS

timm = pytest.importorskip("timm", reason="the extra baselines is not installed")

NAMES = ("cat", "paper cup", "dog")
TEMPLATES = ("a photo of a {}.", "art of a {}.", "{}")
STEPS = {"steps": 3, "checkpoint_every": 2, "batch_per_domain": 4}
POOL = {"weights": "random", "image_size": 32, "simple_plus": {"pool": ["test_efficientnet"]}}
OWN = {"coop": {"context": 4}, "clip_lora": {"lr": 0.02}, **POOL}
Run = Callable[..., FinishedRun]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A checkpoint of each family; read only."""
    families = ("clip", "siglip")
    return {name: str(write_clip(name, tmp_path_factory.mktemp("clips") / f"tiny_{name}")) for name in families}


@pytest.fixture(params=("clip", "siglip"))
def checkpoint(request: pytest.FixtureRequest, checkpoints: dict[str, str]) -> str:
    return checkpoints[request.param]


@pytest.fixture(scope="module")
def config_file(checkpoints: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All methods on CLIP on forty-eight drawn images, of which one domain is held out."""
    folder = tmp_path_factory.mktemp("config")
    write_world(folder / "images", per_class=1, seed=0)
    values = {
        "data": {"images": str(folder / "images"), "name": "drawn", "targets": ["sketch"]},
        "model": {"device": "cpu"},
        "methods": list(CLIP_METHODS),
        "baselines": {**STEPS, **OWN, "clip": {"checkpoint": checkpoints["clip"]}},
        "evaluation": {"answering": {"answers": ["likelihood"], "batch": 16}, "selection": "validation"},
    }
    path = folder / "trial.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def folder_of(finished: FinishedRun, method: str) -> Path:
    (unit,) = [unit for unit in finished.units if unit.method == method]
    return finished.folder / "units" / unit.name


class Killed(BaseException):
    """Stands for a kill: nothing after it is run."""


def pixels(count: int) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def logits_of(network: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return network.eval()(images)[1]


def test_an_ensemble_of_prompts_is_what_transformers_makes_of_it(checkpoint):
    clip = open_clip(checkpoint)
    ours = logits_of(ClipClassifier(clip, Prompts(clip, TEMPLATES, NAMES), ImageEncoder(clip)), pixels(5))
    model, tokenizer = AutoModel.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
    model.requires_grad_(False)
    siglip = model.config.model_type == "siglip"
    rows = []
    for name in NAMES:
        embeddings = []
        for template in TEMPLATES:
            padding = {"padding": "max_length", "max_length": 40} if siglip else {}
            tokens = tokenizer(template.replace("{}", name), return_tensors="pt", **padding)
            with torch.inference_mode():
                both = model(**tokens, pixel_values=pixels(5))
            embeddings.append(both.text_embeds[0])
        mean = torch.stack(embeddings).mean(0)
        rows.append(model.logit_scale.exp() * both.image_embeds @ (mean / mean.norm()))
    torch.testing.assert_close(ours, torch.stack(rows, dim=1), rtol=1e-4, atol=1e-4)


def test_learned_context_of_written_words_is_the_written_prompt(checkpoint):
    clip = open_clip(checkpoint)
    words = clip.tokenizer("a photo of ", add_special_tokens=False)["input_ids"]
    prompts = LearnedContext(clip, NAMES, len(words))
    with torch.no_grad():
        prompts.context.copy_(clip.model.text_model.get_input_embeddings().weight[words])
    written = clip.embed(clip.tokens([f"a photo of {name}." for name in NAMES]))
    torch.testing.assert_close(prompts(), written, rtol=1e-5, atol=1e-5)


def test_the_gradient_of_coop_reaches_the_context_only(checkpoint):
    clip = open_clip(checkpoint)
    network = ClipClassifier(clip, LearnedContext(clip, NAMES, 4), ImageEncoder(clip)).train()
    torch.nn.functional.cross_entropy(network(pixels(3))[1], torch.arange(3)).backward()
    reached = [name for name, weight in network.named_parameters() if weight.grad is not None]
    assert reached == ["prompts.context"] and list(network.state_dict()) == reached
    context = network.get_parameter("prompts.context")
    assert context.shape == (4, 16) and context.grad is not None and (context.grad.norm(dim=1) > 0).all()


def test_the_factors_of_clip_lora_on_vit_b_16_are_as_many_as_the_paper_trains():
    with torch.device("meta"):
        model: Any = CLIPModel(CLIPConfig(vision_config={"patch_size": 16}))
        add_factors(model, ClipLoraSettings())
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    # q, k, v in twelve layers of each encoder, two factors of rank 2 each, 768 and 512 wide
    assert sum(weight.numel() for weight in trained.values()) == 12 * 3 * 2 * 2 * (768 + 512) == 184_320
    assert {name.split(".")[-4] for name in trained} == {"q_proj", "k_proj", "v_proj"}


def test_clip_lora_begins_at_zero_shot_and_adds_what_the_paper_says(checkpoint):
    clip = open_clip(checkpoint)
    network = ClipClassifier(clip, Prompts(clip, TEMPLATES[:1], NAMES), ImageEncoder(clip))
    before = logits_of(network, pixels(4))
    add_factors(clip.model, ClipLoraSettings())
    torch.testing.assert_close(logits_of(network, pixels(4)), before)
    layer = clip.model.vision_model.encoder.layers[0].self_attn.q_proj
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    torch.nn.init.normal_(up)
    rows = torch.randn(2, down.shape[1])
    changed = layer.base_layer(rows) + rows @ down.T @ up.T / math.sqrt(2)
    torch.testing.assert_close(layer.eval()(rows), changed)


def test_each_method_is_a_row_of_one_table(undisturbed):
    (group,) = groups(read_run(undisturbed.folder))
    summaries = summarise(group, "all", "likelihood")
    assert list(summaries) == list(CLIP_METHODS)
    assert all(row.n == 12 and row.errors == row.unparsed == 0 and row.interval for row in summaries.values())
    assert {unit.model for unit in undisturbed.units} == {"clip/tiny_clip"}


def test_rows_on_clip_and_on_a_timm_backbone_stand_in_one_table(here, tmp_path):
    run = here(tmp_path / "run", "methods=clip_zero_shot,erm", "baselines.backbone=test_efficientnet")
    (group,) = groups(read_run(run.folder))
    assert list(summarise(group, "all", "likelihood")) == ["erm", "clip_zero_shot"]
    assert group.title == "drawn · clip/tiny_clip, timm/test_efficientnet"


def test_what_is_not_trained_is_not_written(undisturbed):
    assert not (folder_of(undisturbed, "clip_zero_shot") / "weights.safetensors").exists()
    assert set(load_file(folder_of(undisturbed, "coop") / "weights.safetensors")) == {"prompts.context"}
    assert all("lora_" in name for name in load_file(folder_of(undisturbed, "clip_lora") / "weights.safetensors"))
    prompts = load_file(folder_of(undisturbed, "clip_prompts") / "weights.safetensors")
    assert set(prompts) == {"gates", "change.weight"}


def test_the_linear_probe_is_that_of_scikit_learn_on_exported_features(undisturbed, checkpoints):
    (images,) = undisturbed.sets
    fold = leave_out(images, ["sketch"], 0)
    model, processor = (kind.from_pretrained(checkpoints["clip"]) for kind in (AutoModel, AutoImageProcessor))

    def exported(samples: Any) -> np.ndarray:
        opened = [Image.open(images.root / sample.id).convert("RGB") for sample in samples]
        with torch.inference_mode():
            return model.get_image_features(**processor(opened, return_tensors="pt")).pooler_output.numpy()

    probe = LogisticRegression(C=0.316, max_iter=1000)
    probe.fit(exported(fold.train).astype(float), [sample.label for sample in fold.train])
    expected = dict(zip((sample.id for sample in fold.test), probe.predict_proba(exported(fold.test)), strict=True))
    for row in read_json_lines(folder_of(undisturbed, "clip_linear_probe") / "predictions.jsonl"):
        own = dict(zip(images.classes, row["probabilities"], strict=True))
        np.testing.assert_allclose([own[name] for name in probe.classes_], expected[row["sample_id"]], atol=1e-4)


@pytest.mark.parametrize("method", ["coop", "clip_lora", "clip_prompts", "simple_plus"])
def test_killed_at_a_step_and_started_again_it_ends_with_the_same(here, undisturbed, tmp_path, monkeypatch, method):
    step = Learner.step

    def killing(*arguments: Any) -> float:
        if arguments[-1] == 2:
            raise Killed
        return step(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "step", killing)
        with pytest.raises(Killed):
            here(tmp_path / "run", f"methods={method}")
    again = here(tmp_path / "run", f"methods={method}")
    for name in ("predictions.jsonl", "training.jsonl", "validation.jsonl", "weights.safetensors"):
        assert (folder_of(again, method) / name).read_bytes() == (folder_of(undisturbed, method) / name).read_bytes()


def test_the_learning_rate_is_the_methods_own_and_falls_to_zero(undisturbed, checkpoints):
    clip = open_clip(checkpoints["clip"])
    settings = BaselineSettings.model_validate({**STEPS, "steps": 4, "lr": 1.0, "coop": {"lr": 0.5}}).of("coop")
    network = ClipClassifier(clip, LearnedContext(clip, NAMES, 4), ImageEncoder(clip))
    learner, rates = Learner(network, CLIP_METHODS["coop"], settings), []
    for number in range(4):
        learner.step([pixels(3)], [torch.arange(3)], number)
        rates.append(learner.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.5, 0.25 + math.sqrt(0.125) / 2, 0.25, 0.25 - math.sqrt(0.125) / 2])
    assert learner.lr == rates[-1]


def test_other_braces_than_the_place_of_the_class_are_words(checkpoints):
    clip = open_clip(checkpoints["clip"])
    embedded = Prompts(clip, ["a {style} of {}."], ["cup"])()
    torch.testing.assert_close(embedded, Prompts(clip, ["{}"], ["a {style} of cup."])())


def test_image_features_are_computed_once_for_all_methods_that_do_not_change_them(here, tmp_path, monkeypatch):
    computed, compute = [], frozen._computed
    monkeypatch.setattr(frozen, "_computed", lambda *args: computed.append(len(args[0])) or compute(*args))
    here(tmp_path / "run", "methods=clip_zero_shot,clip_linear_probe,coop", "data.targets=sketch,photo")
    assert computed == [48]


def test_a_search_tries_what_is_trained_and_validates_it(here, tmp_path):
    finished = here(
        tmp_path / "run",
        "methods=clip_zero_shot,clip_linear_probe",
        "search={over: {baselines.clip_linear_probe.c: [0.1, 10]}}",
    )
    drawn = [(unit.method, unit.factors["draw"]) for unit in finished.units]
    probes = [("clip_linear_probe", draw) for draw in ("0", "1", "2")]
    assert sorted(drawn) == [*probes, ("clip_zero_shot", "0")]
    trained = [finished.folder / "units" / unit.name for unit in finished.units if unit.method != "clip_zero_shot"]
    assert all((folder / "validation.jsonl").is_file() for folder in trained)


@pytest.mark.parametrize(
    ("keys", "what"),
    [
        (["baselines.clip.templates=[a photo]"], "one {} for the class"),
        (["baselines.coop.context=40"], "and the checkpoint reads 40"),
        (["baselines.clip.checkpoint=nowhere"], "does not give this checkpoint"),
        (["baselines.clip.checkpoint=./nowhere/clip/vit"], "no such folder, and no name"),
        (["per_method={coop: {baselines.lr: 1.0e-3}}"], r"which coop has of its own.*: set baselines\.coop\.lr"),
        (["methods=simple_plus", "baselines.simple_plus.pool=[resnet51]"], r"baselines\.simple_plus\.pool: resnet51"),
    ],
)
def test_what_cannot_work_is_one_line(here, tmp_path, keys, what):
    with pytest.raises(ThroughlineError, match=what):
        here(tmp_path / "run", "methods=coop", *keys)


def test_a_siglip_with_the_tokenizer_of_the_published_ones_is_opened(tmp_path):
    folder = write_clip("siglip", tmp_path / "siglip")
    SentencePieceTrainer.train(
        sentence_iterator=iter(["a photo of a cup", "a sketch of a boat"] * 20),
        model_prefix=str(tmp_path / "spiece"),
        vocab_size=30,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
    )
    for path in folder.glob("*token*"):
        path.unlink()
    SiglipTokenizer(str(tmp_path / "spiece.model"), model_max_length=40).save_pretrained(str(folder))
    clip = open_clip(str(folder))
    rows = clip.tokens(["A photo of a cup.", "boat"])["input_ids"]
    assert rows.shape == (2, 40) and len(set(rows[0].tolist())) > 4
    assert Prompts(clip, ["a photo of a {}"], ["cup", "boat"])().shape == (2, clip.width)


def test_a_checkpoint_of_another_family_is_one_line(tiny_checkpoint):
    with pytest.raises(ThroughlineError, match="has no common space of images and texts"):
        open_clip(str(tiny_checkpoint))


def test_the_pocket_clip_knows_classes_in_styles_that_it_has_never_seen():
    clip = open_clip("pocket_clip")
    settings, scenes, embed = BaselineSettings().clip, [], ImageEncoder(clip)
    for number in range(96):
        style, name = DOMAIN_STYLES[number % 4], CLASSES[number // 4 % 12]
        scene = sample_scene(7, style, name, number)
        prepared = clip.processor(images=render(scene, style, 64), return_tensors="pt")["pixel_values"][0]
        scenes.append((CLASSES.index(name), prepared))
    labels, images = zip(*scenes, strict=True)
    network = ClipClassifier(clip, Prompts(clip, settings.templates, CLASSES), embed)
    said = logits_of(network, torch.stack(images)).argmax(1)
    right = int((said == torch.tensor(labels)).sum())
    assert wilson_interval(right, len(labels)).low > 1 / len(CLASSES)


def test_the_pocket_clip_is_small():
    folder = checkpoint_folder("pocket_clip")
    assert folder is not None and sum(path.stat().st_size for path in folder.iterdir()) < 3_000_000
