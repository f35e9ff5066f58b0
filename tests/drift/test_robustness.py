"""What `throughline drift robustness` puts in a model's way is what it says: scenes, pixels and tokens tell."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.mllm.tiny import image_of

from throughline.chains.concepts import stated_attributes
from throughline.chains.formats import FIVE_STAGE
from throughline.cli.main import main
from throughline.core.errors import ThroughlineError
from throughline.core.files import read_json_lines, write_json_lines
from throughline.domains.folders import read_images
from throughline.domains.samples import ImageSet
from throughline.domains.views import remade
from throughline.drawn.concepts import GRAPH, family_of
from throughline.drawn.scenes import Scene, read_scenes
from throughline.drawn.styles import part_box, render
from throughline.drawn.world import write_world
from throughline.drift.interference import Subject, in_synonyms, make_levels
from throughline.drift.pairs import DrawnWorld
from throughline.evaluation.folds import leave_out
from throughline.experiment.config_files import load_config
from throughline.experiment.preparation import preview_images
from throughline.experiment.shots import questions_behind
from throughline.mllm.chat import EncodedPrompt, user_turn
from throughline.mllm.load import Mllm
from throughline.questions.prompt import ImageThenText
from throughline.questions.tampered import with_hint, with_other_image

SIZE = 64


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[ImageSet, dict[str, Scene]]:
    folder = tmp_path_factory.mktemp("world") / "images"
    write_world(folder, per_class=1, seed=3, styles=["sketch"], size=SIZE)
    return read_images(folder), read_scenes(folder)


def subject_of(images: ImageSet, scenes: Mapping[str, Scene]) -> Subject:
    world = DrawnWorld(images, scenes, Path(), FIVE_STAGE, 0, SIZE)
    return Subject(images, FIVE_STAGE, 0, world, GRAPH)


@pytest.fixture(scope="module")
def levels(world: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    images, scenes = world
    return make_levels(subject_of(images, scenes), tmp_path_factory.mktemp("made"), ["fog"], ["neon"], reasons=True)


def shown(world: Any, levels: Mapping[str, Any], level: str) -> dict[str, np.ndarray]:
    """The images of a level, by id."""
    folder = Path(levels[level]["evaluation.made"])
    return {s.id: np.asarray(Image.open(remade(s, folder).path)) for s in world[0].samples}


def begun(levels: Mapping[str, Any], level: str) -> dict[str, str]:
    rows = read_json_lines(Path(levels[level]["evaluation.begun"]))
    return {row["sample_id"]: row["text"] for row in rows}


def test_the_deciding_part_is_covered_and_nothing_else(world: Any, levels: Any) -> None:
    images, scenes = world
    covered, other = (shown(world, levels, level) for level in ("deciding part", "other part"))
    for sample in images.samples:
        left, top, right, bottom = part_box(scenes[sample.id], family_of(sample.label).deciding, "sketch", SIZE)
        before, inside = np.asarray(Image.open(sample.path)), (slice(top, bottom), slice(left, right))
        assert (covered[sample.id][inside] == 127).all()
        rest = covered[sample.id].copy()
        rest[inside] = before[inside]
        assert (rest == before).all()
        assert (other[sample.id][inside] == before[inside]).all()
        grey = (other[sample.id] == 127).all(axis=2).sum()
        area = (right - left) * (bottom - top)
        assert grey >= min(area, SIZE**2 - area)


def test_a_scene_is_drawn_anew_in_another_style(world: Any, levels: Any) -> None:
    _, scenes = world
    for name, pixels in shown(world, levels, "style neon").items():
        assert (pixels == np.asarray(render(scenes[name], "neon", SIZE))).all()


def test_an_image_among_drawn_ones_that_was_not_drawn_is_named(world: Any, tmp_path: Path) -> None:
    images, scenes = world
    lost = images.samples[0].id
    known = {name: scene for name, scene in scenes.items() if name != lost}
    with pytest.raises(ThroughlineError, match=f"this image was not drawn .*{lost}"):
        make_levels(subject_of(images, known), tmp_path, [], [], reasons=False)


def test_chains_are_begun_up_to_the_conclusion(world: Any, levels: Any) -> None:
    images, _ = world
    true, contradicted, synonyms, another = (
        begun(levels, name) for name in ("true chain", "contradicted chain", "true chain in synonyms", "another chain")
    )
    assert set(true) == set(contradicted) == set(images.by_id)
    for name, text in true.items():
        deciding = family_of(images.by_id[name].label).deciding
        assert text.endswith("</REFLECTION>") and "CONCLUSION" not in contradicted[name]
        sign = stated_attributes(text, GRAPH)[deciding]
        assert stated_attributes(contradicted[name], GRAPH)[deciding] == -sign
        assert deciding not in synonyms[name] and stated_attributes(synonyms[name], GRAPH)[deciding] == sign
        assert another[name] != text
    for name, text in begun(levels, "false start").items():
        assert text.startswith("<SUMMARY> The answer is ") and images.by_id[name].label not in text


def test_synonyms_take_whole_words() -> None:
    assert in_synonyms("a handle, no sails, the sail", GRAPH) == "a grip, no sails, the canvas"


def test_levels_made_again_are_the_same_levels(world: Any, levels: Any, tmp_path: Path) -> None:
    images, scenes = world
    folder = tmp_path / "made"
    shutil.copytree(Path(levels["true chain"]["evaluation.begun"]).parent, folder)
    gone = next(folder.glob("deciding_part-*")) / images.samples[0].id
    content = gone.read_bytes()
    gone.unlink()
    make_levels(subject_of(images, scenes), folder, ["fog"], ["neon"], reasons=True)
    assert gone.read_bytes() == content


def test_a_hint_names_a_wrong_class_and_another_image_is_of_one(tiny_images: ImageSet) -> None:
    names, samples = {label: label for label in tiny_images.classes}, tiny_images.samples
    hints, others = with_hint(names, ImageThenText, 0, "Which?"), with_other_image(samples, ImageThenText, 0, "Which?")
    for sample in samples:
        hint, _, question = hints(sample).text.partition("\n")
        assert question == "Which?" and hint.removeprefix("Hint: this is a ").rstrip(".") in {*names} - {sample.label}
        (other,) = others(sample).images
        assert other.label != sample.label and other.domain == sample.domain
    assert len({hints(sample).text for sample in samples}) > 1


def test_an_answer_that_is_begun_goes_on_from_its_words(tiny_mllm: Mllm) -> None:
    words, chat = "<SUMMARY> a grip", tiny_mllm.chat
    image = chat.encode_image(image_of(0), "")
    path = EncodedPrompt(user_turn("Which?"), [image], words).path(chat)
    plain = EncodedPrompt(user_turn("Which?"), [image]).path(chat)
    added = path.tokens[len(plain.tokens) :]
    assert (path.tokens[: len(plain.tokens)] == plain.tokens).all()
    assert chat.tokenizer.decode(added) == words and path.positions.shape[1] == len(path.tokens)


@pytest.mark.parametrize("options", ["fixed", "shuffled"])
def test_only_the_reasoning_question_has_its_answer_begun(tiny_images: ImageSet, tmp_path: Path, options: str) -> None:
    texts = {sample.id: f"<SUMMARY> {sample.id}" for sample in tiny_images.samples[1:]}
    write_json_lines(tmp_path / "begun.jsonl", ({"sample_id": name, "text": text} for name, text in texts.items()))
    begun = {"evaluation.begun": str(tmp_path / "begun.jsonl"), "evaluation.options": options}
    config = load_config("demo", [], {**begun, "evaluation.misled": "hint"})
    for question in questions_behind(config, config.question_set(tiny_images.classes), {}, seed=0):
        for sample in tiny_images.samples:
            prompt, expected = question.prompt(sample), texts.get(sample.id, "")
            assert prompt.begun == (expected if question.name == "reasoning" else "")
            assert prompt.text.startswith("Hint: ")


def test_unseen_combinations_are_in_no_image_trained_on() -> None:
    changes = {"data.group_by": "combinations", "data.drawn.per_class": 8, "data.targets": ["sketch"]}
    (images,) = preview_images(load_config("demo", [], changes))
    fold = leave_out(images, ["sketch"], 0, None, "concepts")
    trained, asked = ({sample.group for sample in part} for part in (fold.train, fold.test))
    assert trained and asked and not trained & asked
    assert {str(group).split(",")[0] for group in trained} == {*images.classes}


def test_only_drawn_images_have_combinations(tiny_images: ImageSet) -> None:
    changes = {"data.drawn": None, "data.images": str(tiny_images.root), "data.group_by": "combinations"}
    with pytest.raises(ThroughlineError, match="no drawn world"):
        preview_images(load_config("demo", ["chains.teacher=null", "methods=cls"], changes))


@pytest.mark.slow
@pytest.mark.usefixtures("forked_workers", "undrawn")
def test_a_whole_one_ends_in_a_table_of_what_was_lost(
    tiny_images: ImageSet, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    words = ["--model", str(tiny_checkpoint), "--per-class", "1", "--kind", "contrast", "--out", str(folder)]
    words += ["--set", "data.targets=sketch", "--set", "evaluation.answering.chain_tokens=8"]
    assert main(["drift", "robustness", str(tiny_images.root), *words]) == 0
    said = capsys.readouterr()
    assert "no scenes, so no deciding part" in said.err and "reasoning path · interference" in said.out
    units = {json.loads(path.read_text())["factors"]["interference"]: path.parent for path in folder.rglob("unit.json")}
    assert set(units) == {
        *("clean", "contrast-5", "blank image", "another image", "hint", "occlusion_grey-0.3", "false start")
    }
    for row in read_json_lines(units["false start"] / "predictions.jsonl"):
        assert row["answer"] == "reasoning" and row["text"].startswith("<SUMMARY> The answer is ")
    assert "Answers under interference" in (folder / "report" / "index.html").read_text()
    results = (folder / "results.jsonl").read_text()
    assert main(["drift", "robustness", str(tiny_images.root), *words]) == 0
    assert (folder / "results.jsonl").read_text() == results


def test_a_chain_that_is_begun_cannot_be_constrained() -> None:
    changes = {"evaluation.begun": "x.jsonl", "evaluation.answering.constrained": True}
    with pytest.raises(ThroughlineError, match="cannot be constrained"):
        load_config("demo", [], changes)
