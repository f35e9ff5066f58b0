"""The making of smol's projector, in small: what is held out is never taught, pseudo-maps are what they say, the frozen
decoder is transformers' own, and a killed training ends as an undisturbed one."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.mllm.test_smol import TEMPLATE
from tests.mllm.tiny import _DECODER, _draw_weights, _tokenizer, image_of
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.modeling_outputs import BaseModelOutputWithPooling

from throughline.core.seeding import generator
from throughline.domains.open_styles.pictures import RULES
from throughline.mllm.chat import user_turn
from throughline.mllm.load import wrap_mllm
from throughline.mllm.smol import assembly

timm = pytest.importorskip("timm", reason="the extra smol is not installed")

import smol_lessons  # noqa: E402
import smol_maps  # noqa: E402
import smol_projector  # noqa: E402
from frozen_decoder import freeze  # noqa: E402

EMOJI = [("hat", "clothing"), ("hammer", "tool"), ("tea", "drink"), ("shoe", "clothing"), ("saw", "tool"), ("sun", "")]
NOUNS = smol_lessons.Nouns(
    names=("robin", "finch", "dog", "car", "truck"),
    above=(("1", "3"), ("1", "3"), ("3",), ("2",), ("2",)),
    called={"1": ("bird",), "2": ("vehicle", "conveyance"), "3": ("animal", "beast")},
)


def some_lessons(classes: Any = range(5), pictures: Any = range(6)) -> smol_lessons.Lessons:
    return smol_lessons.Lessons(NOUNS, EMOJI, list(classes), list(pictures))


def true_names(lesson: smol_lessons.Lesson, shown: int) -> set[str]:
    if lesson.of_classes:
        return {NOUNS.names[shown], *(name for synset in NOUNS.above[shown] for name in NOUNS.called[synset])}
    name, subgroup = EMOJI[shown]
    return {name, smol_lessons.GROUPS.get(subgroup, name)}


def test_a_lesson_is_about_what_is_taught_and_each_answer_is_true_of_its_picture_alone() -> None:
    lessons, draw = some_lessons(classes=[0, 2, 3], pictures=[0, 1, 2, 4]), generator(0, "test")
    drawn = [lessons.draw(draw, 3, listed=number % 3 > 0) for number in range(400)]
    assert {shown for lesson in drawn if lesson.of_classes for shown in lesson.shown} == {0, 2, 3}
    assert {shown for lesson in drawn if not lesson.of_classes for shown in lesson.shown} == {0, 1, 2, 4}
    assert {len(lesson.shown) for lesson in drawn} == {2, 3}  # there are not always three different things
    for number, lesson in enumerate(drawn):
        for right, answer in enumerate(lesson.answers):
            true = [answer in true_names(lesson, shown) for shown in lesson.shown]
            assert true == [place == right for place in range(len(true))]
        options = lesson.question.partition("options: ")[2]
        assert sorted(filter(None, options.split(", "))) == (sorted(lesson.answers) if number % 3 else [])


def test_no_subgroup_of_open_styles_has_a_name_in_lessons() -> None:
    assert not set(smol_lessons.GROUPS) & set(RULES["subgroups"])
    assert not set(smol_lessons.GROUPS.values()) & {label.replace("_", " ") for label in RULES["subgroups"].values()}


def test_the_same_seed_holds_out_the_same_tenth() -> None:
    first = smol_lessons.held_out(1000, 0.1, 0, "classes")
    assert first == smol_lessons.held_out(1000, 0.1, 0, "classes") and len(first) == 100
    assert first != smol_lessons.held_out(1000, 0.1, 1, "classes")
    names = [(f"emoji {n % 40}", "tool") for n in range(80)]
    assert len(smol_projector.held_out_emoji(names, 0)) == 10


@pytest.fixture(scope="module")
def tower() -> Any:
    """EfficientNet-Lite0 with random weights, and a classifier that tells classes apart."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tower = timm.create_model(assembly.ARCHITECTURE).eval().requires_grad_(False)
        nn.init.normal_(tower.classifier.weight, std=0.1)
        nn.init.uniform_(tower.bn2.running_var, 0.4, 0.6)
    return tower


@pytest.fixture(scope="module")
def maps(tower: Any) -> smol_maps.FeatureMaps:
    return smol_maps.FeatureMaps(tower, torch.randn(20, 49, 320, generator=torch.Generator().manual_seed(1)))


def test_features_of_maps_are_the_towers_own(tower: Any, maps: smol_maps.FeatureMaps) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    h = smol_maps.picture_maps(tower, pictures)
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    expected = tower.forward_features(pixels).flatten(2).transpose(1, 2)
    torch.testing.assert_close(maps.features(h), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(maps.logits(h), tower(pixels), atol=1e-4, rtol=1e-4)


def test_pseudo_maps_look_like_their_class_and_keep_the_variances_of_the_batch_norms(
    tower: Any, maps: smol_maps.FeatureMaps
) -> None:
    classes = list(range(0, 1000, 40))

    def drawn_with(seed: int, places: torch.Tensor | None = None) -> torch.Tensor:
        return maps.of_classes(classes, torch.Generator().manual_seed(seed), places)

    drawn = drawn_with(3)
    assert drawn.shape == (25, 49, 320) and drawn_with(3, torch.tensor([0, 24])).shape == (25, 2, 320)
    right = maps.logits(drawn).argmax(1) == torch.tensor(classes)
    assert right.float().mean() > 0.5  # of a thousand classes
    assert torch.equal(drawn, drawn_with(3)) and not torch.equal(drawn, drawn_with(4))
    kept = (tower.conv_head.weight[:, :, 0, 0] @ maps.root).pow(2).sum(1)
    torch.testing.assert_close(kept, tower.bn2.running_var, rtol=0.1, atol=0)


def test_the_frozen_decoder_is_transformers_own() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        decoder = LlamaForCausalLM(LlamaConfig(vocab_size=50, **_DECODER)).model.eval().requires_grad_(False)
        behind = torch.randn(2, 6, _DECODER["hidden_size"])
    prefix = torch.arange(4)[None]
    before = decoder.embed_tokens(prefix).expand(2, -1, -1)
    theirs, ours = behind.clone().requires_grad_(), behind.clone().requires_grad_()
    expected = decoder(inputs_embeds=torch.cat([before, theirs], dim=1)).last_hidden_state[:, 4:]
    frozen = freeze(decoder, prefix, longest=8, compiled=False)
    found = frozen.states(ours)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    expected.pow(2).sum().backward()
    found.pow(2).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-4, rtol=1e-4)
    branched = frozen.states(behind, branches=(1, 3))
    torch.testing.assert_close(branched[:, :3], found[:, :3], atol=1e-5, rtol=1e-5)
    alone = frozen.states(torch.cat([behind[:, :2], behind[:, 3:]], dim=1))
    torch.testing.assert_close(branched[:, 3:], alone[:, 2:], atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def small(tower: Any, maps: smol_maps.FeatureMaps) -> smol_projector.Material:
    pictures = torch.randn(len(EMOJI), 49, 320, generator=torch.Generator().manual_seed(2))
    return smol_projector.Material(NOUNS, EMOJI, pictures, maps)


def student_of(tower: Any, material: smol_projector.Material, recipe: smol_projector.Recipe) -> smol_projector.Student:
    """The projector between a random tower and a small decoder of random weights."""
    tokenizer = _tokenizer(["<|im_start|>", "<repo_name>"], eos="<|im_end|>", pad="<|endoftext|>")
    tokenizer.chat_template = TEMPLATE
    decoder = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), tie_word_embeddings=True, **_DECODER))
    _draw_weights(decoder, 0)
    model, processor = assembly.put_together(tower.state_dict(), decoder, tokenizer, None)
    mllm = wrap_mllm(model.eval().requires_grad_(False), processor, "smol", "small")
    return smol_projector.Student(mllm, material, recipe)


PHASES = (smol_projector.Phase(2, 3, False, None, 1, 200), smol_projector.Phase(2, 3, True, 4, None, 400))
RECIPE = smol_projector.Recipe(phases=PHASES, begun_with=100)


def test_a_killed_training_goes_on_to_the_same_weights(tower: Any, small: Any, tmp_path: Path) -> None:
    lessons, reports = some_lessons(), list[str]()
    for name in "ab":
        (tmp_path / name).mkdir()
    whole = student_of(tower, small, RECIPE)
    smol_projector.train(whole, lessons, RECIPE, tmp_path / "a", reports.append, every=2)

    def killed(line: str) -> None:
        if line.startswith("step 2/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        smol_projector.train(student_of(tower, small, RECIPE), lessons, RECIPE, tmp_path / "b", killed, every=2)
    again = student_of(tower, small, RECIPE)
    smol_projector.train(again, lessons, RECIPE, tmp_path / "b", reports.append, every=2)
    assert "goes on after step 2" in reports
    for name, weight in whole.projector.state_dict().items():
        assert torch.equal(weight, again.projector.state_dict()[name])


def test_a_lesson_about_one_class_changes_what_is_said_of_others(tower: Any, small: Any, tmp_path: Path) -> None:
    student = student_of(tower, small, RECIPE)
    student.begin(some_lessons(), seed=0)
    layer = student.projector.linear_2
    begun, lesson = layer.weight.detach().clone(), smol_lessons.Lesson(True, (0,), "What is it?", ("robin",))
    phase = smol_projector.Phase(1, 1, False, None, None, 200)
    student.loss(lesson, student.features(lesson, seed=0), phase).backward()
    with torch.no_grad():
        student.named.shared -= student.named.shared.grad
    units = student.named.names.abs().sum(1) > 0
    assert units.sum() == 5, "one for each class"
    assert torch.equal((layer.weight != begun).any(0), units)


@pytest.mark.parametrize("tokens,room", [(None, None), (None, 300), (1, 150), (2, None)])
def test_scores_of_all_pairs_are_the_plain_models(tower: Any, small: Any, tokens: int | None, room: int | None) -> None:
    student = student_of(tower, small, RECIPE)
    lesson = some_lessons().draw(generator(0, "test"), 3, listed=True, kind="class")
    features = student.features(lesson, seed=0)
    model, chat = student.mllm.model, student.mllm.chat
    image = chat.encode_image(image_of(0), "0")

    def plain(number: int | None, answer: str) -> torch.Tensor:
        images = [] if number is None else [image]
        path = chat.answered(user_turn(lesson.question, len(images)), images, answer)
        seen = None if number is None else student.projector(features[number : number + 1])
        outputs = {"image": BaseModelOutputWithPooling(pooler_output=seen)}
        ids = torch.from_numpy(path.tokens)[None]
        logits = model(input_ids=ids, **({} if seen is None else {"mm_encoder_outputs": outputs})).logits
        nll = cross_entropy(logits[0, path.answer_start - 1 : -1], ids[0, path.answer_start :], reduction="none")
        return -nll[:tokens].sum()

    expected = torch.stack([torch.stack([plain(i, answer) for answer in lesson.answers]) for i in range(3)])
    torch.testing.assert_close(student.scores(lesson, features, tokens, room), expected, atol=1e-4, rtol=1e-5)
    without = torch.stack([plain(None, answer) for answer in lesson.answers])[None]
    torch.testing.assert_close(student.scores(lesson, None, tokens), without, atol=1e-4, rtol=1e-5)
    count = sum(len(answer) for answer in student.spoken(lesson, tokens=tokens)[1])
    own, column = -expected.diagonal().sum() / count, -expected.log_softmax(0).diagonal().mean()
    whole = own + (column - expected.log_softmax(1).diagonal().mean()) / 2
    loss = student.loss(lesson, features, smol_projector.Phase(1, 3, True, 49, tokens, 300))
    torch.testing.assert_close(loss, whole, atol=1e-4, rtol=1e-5)


def test_measures_are_of_every_kind_and_of_a_share_of_questions(tower: Any, small: Any) -> None:
    found = smol_projector.measure(student_of(tower, small, RECIPE), some_lessons(), 3, seed=0)
    assert set(found) == {"class", "hypernym", "emoji", "emoji group"}
    assert all(0 <= row["likelihood"] <= 1 and 0 <= row["contrast"] <= 1 and row["nll"] > 0 for row in found.values())
