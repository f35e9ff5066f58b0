import dataclasses
import re

import pytest

from terse import terse_chain
from throughline.chains.formats import FIVE_STAGE, FORMATS, FOUR_STAGE, THINK_ANSWER
from throughline.chains.parsing import parse_chain
from throughline.drawn.concepts import CLASSES, contrast_of
from throughline.drawn.counterfactuals import counterfactual
from throughline.drawn.describer import FAULTS, DescriberSettings, describe
from throughline.drawn.scenes import sample_scene

WHOLE = DescriberSettings(format_faults=0.0)
PERFECT = DescriberSettings(part_mistakes=0.0, format_faults=0.0)
STAGES = re.compile(r"<([A-Z]+)> (.+) </\1>")
SCENES = [sample_scene(0, "photo", cls, index) for cls in CLASSES for index in range(50)]


def chains(settings, format=FIVE_STAGE):
    return [
        describe(scene, seed=0, sample_id=f"photo/{scene.cls}/{n}", settings=settings, format=format)
        for n, scene in enumerate(SCENES)
    ]


def words(text):
    return re.findall(r"[a-z]+", re.sub(r"<[^>]*>", " ", text))


def concluded(text):
    return STAGES.findall(text)[-1][1]


def test_a_chain_has_the_five_stages_in_order_a_line_each():
    for text in chains(WHOLE):
        assert [name for name, _ in STAGES.findall(text)] == list(FIVE_STAGE.stages)
        assert len(text.split("\n")) == 5


def test_a_describer_without_mistakes_is_always_right():
    assert all(concluded(text) == scene.cls for text, scene in zip(chains(PERFECT), SCENES, strict=True))


def test_the_describer_never_sees_the_class():
    for number, scene in enumerate(SCENES[::7]):
        lying = dataclasses.replace(scene, cls=contrast_of(scene.cls))
        given = {"seed": 0, "sample_id": str(number)}
        assert describe(scene, **given) == describe(lying, **given)


def test_the_describer_follows_a_counterfactual():
    for number, scene in enumerate(SCENES[::7]):
        changed = counterfactual(scene)
        text = describe(changed, seed=0, sample_id=str(number), settings=PERFECT)
        assert concluded(text) == contrast_of(scene.cls)


def test_the_share_of_wrong_conclusions_is_the_share_of_mistaken_deciding_parts():
    texts = [
        (describe(scene, seed=0, sample_id=str(n), candidate=k, settings=WHOLE), scene.cls)
        for n, scene in enumerate(SCENES)
        for k in range(3)
    ]
    wrong = sum(concluded(text) != cls for text, cls in texts) / len(texts)
    assert 0.06 < wrong < 0.105  # 0.08, and a little for bodies that were missed


def test_candidates_differ_and_repeat_by_seed():
    given = {"seed": 0, "sample_id": "photo/cup/0000.png"}
    first = [describe(SCENES[0], **given, candidate=k) for k in range(8)]
    assert first == [describe(SCENES[0], **given, candidate=k) for k in range(8)]
    assert len(set(first)) == 8


def test_chains_are_rich_and_their_vocabulary_small():
    texts = chains(WHOLE)
    lengths = [len(words(text)) for text in texts]
    assert 58 < sum(lengths) / len(lengths) < 78
    vocabulary = {word for text in texts for word in words(text)}
    assert 120 < len(vocabulary) < 400
    assert all(text == re.sub(r"(?<![<A-Z/])[A-Z](?![A-Z>])", "", text) for text in texts)  # lower case but tags
    assert len({STAGES.findall(text)[2][1] for text in texts}) > 300


def test_chains_mention_background_and_viewpoint():
    for text, scene in zip(chains(PERFECT), SCENES, strict=True):
        caption = STAGES.findall(text)[1][1]
        assert scene.background.far in caption and scene.background.near in caption
        assert (
            ("straight" in caption or "front" in caption) if scene.viewpoint == "front" else scene.viewpoint in caption
        )


def test_a_known_share_of_chains_breaks_the_format():
    broken = sum(
        [name for name, _ in STAGES.findall(text)] != list(FIVE_STAGE.stages)
        or len(text.split("\n")) != 5
        or concluded(text) not in CLASSES
        for text in chains(DescriberSettings(format_faults=0.3))
    )
    assert 0.24 < broken / len(SCENES) < 0.36
    assert chains(DescriberSettings(format_faults=0.0)) == chains(WHOLE)


@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
def test_every_fault_gets_its_own_outcome_from_the_parser(format):
    always = DescriberSettings(part_mistakes=0.0, format_faults=1.0)
    outcomes = {str(parse_chain(text, format, CLASSES).outcome) for text in chains(always, format)}
    assert outcomes == set(FAULTS) - ({"trailing_text", "wrong_order"} if format == THINK_ANSWER else set())


@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
def test_a_describer_without_mistakes_parses_to_the_true_class(format):
    labels = [parse_chain(text, format, CLASSES).label for text in chains(PERFECT, format)]
    assert labels == [scene.cls for scene in SCENES]


def test_other_formats_carry_the_same_thoughts():
    four, think = chains(PERFECT, FOUR_STAGE)[0], chains(PERFECT, THINK_ANSWER)[0]
    assert [name for name, _ in STAGES.findall(four)] == list(FOUR_STAGE.stages)
    assert think.startswith("<think> ") and think.split("\n")[-1] == f"the object is a {SCENES[0].cls}."


def test_terse_chains_are_right_short_and_worded_unlike_the_describers():
    terse, rich = [terse_chain(scene, 0) for scene in SCENES], chains(WHOLE)
    for text, scene in zip(terse, SCENES, strict=True):
        assert [name for name, _ in STAGES.findall(text)] == list(FIVE_STAGE.stages)
        assert concluded(text) == scene.cls
        said = set(words(text))
        assert set(scene.parts) <= said
        assert not said & {scene.background.kind, scene.background.far, scene.background.near}
    lengths = [len(words(text)) for text in terse]
    assert 22 < sum(lengths) / len(lengths) < 36

    def pairs(texts):  # neighbouring words, an independent measure of wording
        return {
            pair
            for text in texts
            for stage in STAGES.findall(text)
            for pair in zip(words(stage[1]), words(stage[1])[1:], strict=False)
        }

    assert len(pairs(terse) & pairs(rich)) < 0.1 * len(pairs(terse))
