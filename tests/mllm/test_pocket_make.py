"""The making of the pocket checkpoint, in small: what comes out can be opened and asked."""

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.mllm.tiny import image_of

import first_pocket
import pocket
import pocket_context
import pocket_sight
from terse import corpus, description
from throughline.drawn.concepts import CLASSES
from throughline.drawn.styles import AUXILIARY_STYLES
from throughline.mllm.chat import EncodedPrompt, user_turn
from throughline.mllm.geometries import train_tokenizer
from throughline.mllm.likelihood import label_log_likelihood
from throughline.mllm.load import load_mllm
from throughline.mllm.tree import Tree
from throughline.questions.question_set import make_question_set

SIGHT = replace(pocket.SIGHT, scenes=72, epochs=1, batch=24)
SMALL = pocket.Recipe(sight=SIGHT, vocabulary=700, speak_steps=2, scenes=12, join_steps=1)
FIRST = first_pocket.Recipe(
    scenes=72, vocabulary=700, see_epochs=1, see_batch=24, speak_steps=3, speak_batch=4, join_steps=1, unnamed=("bowl",)
)


@pytest.mark.slow
@pytest.mark.parametrize(("making", "recipe"), [(pocket, SMALL), (first_pocket, FIRST)], ids=["second", "first"])
def test_a_small_making_ends_in_a_checkpoint_that_can_be_asked(making: Any, recipe: Any, tmp_path: Path) -> None:
    reports: list[str] = []
    making.make(recipe, tmp_path / "base", reports.append)
    assert json.loads((tmp_path / "base" / "recipe.json").read_text()) == json.loads(json.dumps(asdict(recipe)))
    mllm = load_mllm(str(tmp_path / "base"))
    question = user_turn(make_question_set(CLASSES).label)
    prompt = EncodedPrompt(question, [mllm.chat.encode_image(image_of(0), "0")])
    found = label_log_likelihood(mllm, [prompt], CLASSES)
    assert found.shape == (1, len(CLASSES))
    assert torch.isfinite(found).all()
    assert any(line.startswith("72 scenes") for line in reports)


@pytest.fixture(scope="module")
def lessons() -> pocket.Lessons:
    """Those of a small recipe, for a model that has learnt nothing."""
    drawn = pocket_sight.draw_scenes(SIGHT)
    tokenizer = train_tokenizer(corpus(0, drawn.scenes), 1400)
    mllm, pixels = pocket_sight.sighted_mllm(tokenizer, drawn)
    return pocket.Lessons(mllm, [scene for _, scene in drawn.scenes], pixels, SMALL)


def spoken(lessons: pocket.Lessons, trees: Iterable[Tree]) -> list[tuple[str, str]]:
    """Kind and trained text of every branch."""
    decode = lessons.mllm.chat.tokenizer.decode
    return [(branch.name, decode(tree.tokens[branch.scored])) for tree in trees for branch in tree.branches]


def decoded(lessons: pocket.Lessons, tree: Tree) -> str:
    """All tokens of a tree, depth first."""
    return str(lessons.mllm.chat.tokenizer.decode(tree.tokens))


def test_four_classes_are_never_the_answer_about_a_single_image(lessons: pocket.Lessons) -> None:
    texts = spoken(lessons, (lessons.about_scene() for _ in range(80)))
    answers = {text.removesuffix("<|im_end|>") for kind, text in texts if kind == "label"}
    assert answers == set(CLASSES) - set(SMALL.unnamed)
    chains = [text for kind, text in texts if kind == "chain"]
    assert not any(re.search(rf"<CONCLUSION>\s*({'|'.join(SMALL.unnamed)})\b", text) for text in chains)


def test_only_what_follows_another_scenes_parts_is_trained(lessons: pocket.Lessons) -> None:
    texts = [text for kind, text in spoken(lessons, (lessons.about_scene() for _ in range(80))) if kind == "followed"]
    assert not any("<SUMMARY>" in text or "<CAPTION>" in text for text in texts)
    assert {cls for cls in CLASSES if any(cls in text for text in texts)} == set(CLASSES)


def test_parts_in_words_lead_to_every_class(lessons: pocket.Lessons) -> None:
    trees = [lessons.from_words() for _ in range(200)]
    assert not any(tree.images for tree in trees)
    assert {text.removesuffix("<|im_end|>") for _, text in spoken(lessons, trees)} == set(CLASSES)


def test_every_label_that_was_shown_is_trained_and_looks_back_at_its_like(lessons: pocket.Lessons) -> None:
    exercise = lessons.from_examples(8)
    tokenizer, tokens = lessons.mllm.chat.tokenizer, exercise.tokens
    classes = [lessons.scenes[int(image.key.split()[1])].cls for image in exercise.images]
    asked = list(exercise.classes)
    names = tokenizer.batch_decode(tokens[np.array(asked) + 1][:, None])
    assert len(asked) == 8 and set(names) <= set(CLASSES)
    assert [CLASSES[index] for index in exercise.classes.values()] == classes
    assert len(set(zip(classes, names, strict=True))) == len(set(classes)), "one name each, all along"
    again = [turn for turn, cls in enumerate(classes) if cls in classes[:turn]]
    assert 7 in again, "the last one was shown before"
    assert exercise.answers == {"examples": [asked[turn] for turn in again]}
    for turn in again:
        shown = [earlier for earlier in range(turn) if classes[earlier] == classes[turn]]
        assert exercise.matches[asked[turn]] == [asked[earlier] + 1 for earlier in shown]
    assert exercise.gathers == {place + 1: place for place in asked}


@pytest.mark.parametrize("shown", [True, False], ids=["image", "words"])
def test_a_description_is_looked_up_at_its_end_which_looks_at_its_name(lessons: pocket.Lessons, shown: bool) -> None:
    exercise = lessons.from_descriptions(shown)
    decode = lessons.mllm.chat.tokenizer.decode
    (asked,) = (place for places in exercise.answers.values() for place in places)
    (line,) = exercise.matches[asked]
    start = exercise.gathers[line]
    cls = CLASSES[exercise.classes[asked]]
    assert decode(exercise.tokens[start : line + 1]) == f"{decode(exercise.tokens[asked + 1])}: {description(cls)}\n"
    assert exercise.classes[line] == exercise.classes[asked]
    assert len(exercise.images) == shown and len(exercise.gathers) >= 2


def test_attention_with_a_target_is_the_models_own(lessons: pocket.Lessons) -> None:
    exercises = [lessons.from_examples(3), lessons.from_examples(4)]
    loss = pocket_context.ContextLoss(lessons.mllm, lambda: exercises)
    loss()
    layer, places = pocket_context.MATCH, [torch.tensor(list(exercise.matches)) for exercise in exercises]
    found = [
        loss._attention(layer, exercise.head, row, at).exp()
        for row, (exercise, at) in enumerate(zip(exercises, places, strict=True))
    ]
    model = lessons.mllm.model.eval()
    model.set_attn_implementation("eager")
    for exercise, at, weights in zip(exercises, places, found, strict=True):
        pixels = torch.cat([image.inputs["pixel_values"] for image in exercise.images])
        tokens = torch.from_numpy(exercise.tokens)[None]
        attentions = model.model(input_ids=tokens, pixel_values=pixels, output_attentions=True).attentions
        expected = attentions[layer][0, exercise.head, at]
        torch.testing.assert_close(weights[:, : tokens.shape[1]], expected, atol=1e-5, rtol=1e-4)
    model.set_attn_implementation("sdpa")


def test_the_base_that_ships_was_made_by_the_recipe_of_this_code() -> None:
    shipped = json.loads((files("throughline.mllm.pocket") / "checkpoint" / "recipe.json").read_text())
    assert shipped == json.loads(json.dumps(asdict(pocket.Recipe())))
    assert set(shipped["sight"]["styles"]) < set(AUXILIARY_STYLES), "no domain style"


def test_jitter_turns_a_quarter_grey_and_an_eighth_negative() -> None:
    pixels = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0)).repeat(2000, 1, 1, 1)
    found = pocket_sight.jitter(pixels, np.random.default_rng(0)).flatten(2)
    centred = found - found.mean(dim=2, keepdim=True)
    red, green = (centred[:, i] / centred[:, i].norm(dim=1, keepdim=True) for i in (0, 1))
    grey = (red * green).sum(dim=1) > 0.9999  # one pattern in both channels
    assert grey.float().mean().item() == pytest.approx(1 / 4, abs=0.03)
    before = pixels[0].mean(dim=0).flatten()
    negative = (red[grey] * before).sum(dim=1) < 0
    assert negative.float().mean().item() == pytest.approx(1 / 8, abs=0.03)
