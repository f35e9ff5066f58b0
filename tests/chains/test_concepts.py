"""What a chain says about attributes, against a concept graph; the drawn world's scenes say what is true."""

import pytest

from throughline.chains.concepts import ConceptGraph, check_statements
from throughline.chains.formats import FIVE_STAGE
from throughline.chains.parsing import parse_chain
from throughline.drawn.concepts import CLASSES, GRAPH, family_of
from throughline.drawn.describer import DescriberSettings, describe
from throughline.drawn.scenes import sample_scene

SCENES = [sample_scene(0, "photo", label, index) for label in CLASSES for index in range(20)]
SPECIES = ConceptGraph(
    {"heron": {"long neck": 1, "hooked bill": -1}, "eagle": {"hooked bill": 1, "long neck": -1}},
    synonyms={"long neck": ("slender neck",)},
)


def described(part_mistakes: float) -> list[str]:
    settings = DescriberSettings(part_mistakes=part_mistakes, format_faults=0.0)
    return [describe(scene, seed=0, sample_id=str(n), settings=settings) for n, scene in enumerate(SCENES)]


def test_a_chain_without_mistakes_says_what_its_scene_has_and_nothing_against_the_graph() -> None:
    for text, scene in zip(described(0.0), SCENES, strict=True):
        said = check_statements(text, GRAPH, scene.cls)
        assert said.coherent, text
        assert said.completeness == 1, text
        named = {part for part in said.right if part in GRAPH.required(scene.cls)} | said.unsupported
        assert named == set(scene.parts), text
        assert said.right - named <= {family_of(scene.cls).deciding}, text


def test_a_mistaken_chain_agrees_with_its_conclusion_and_not_with_the_true_class() -> None:
    mistaken = 0
    for text, scene in zip(described(1.0), SCENES, strict=True):
        concluded = parse_chain(text, FIVE_STAGE, CLASSES).label
        if concluded is not None and concluded in family_of(scene.cls).classes and concluded != scene.cls:
            mistaken += 1
            deciding = family_of(scene.cls).deciding
            assert deciding in check_statements(text, GRAPH, concluded).right, text
            assert deciding in check_statements(text, GRAPH, scene.cls).wrong, text
    assert mistaken > 20


@pytest.mark.parametrize(
    ("text", "right", "wrong", "unsupported", "completeness"),
    [
        ("It has a slender neck and no hooked bill.", {"long neck", "hooked bill"}, set(), set(), 1.0),
        ("The important part, the long neck, is absent.", set(), {"long neck"}, set(), 0.0),
        ("An eagle would have a hooked bill.", set(), set(), set(), 0.0),
        ("The missing hooked bill decides. A long neck is seen.", {"long neck", "hooked bill"}, set(), set(), 1.0),
        ("It has a long neck. There is no long neck.", set(), {"long neck"}, set(), 1.0),
    ],
)
def test_statements_are_read_from_prose(
    text: str, right: set[str], wrong: set[str], unsupported: set[str], completeness: float
) -> None:
    said = check_statements(text, SPECIES, "heron")
    assert (said.right, said.wrong, said.unsupported, said.completeness) == (right, wrong, unsupported, completeness)
