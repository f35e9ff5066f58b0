import dataclasses
import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from throughline.core.errors import ThroughlineError
from throughline.drawn.concepts import (
    CLASSES,
    CONCEPTS,
    FAMILIES,
    GRAPH,
    PARTS,
    contrast_of,
    nearest_classes,
)
from throughline.drawn.scenes import Scene, WorldSettings, sample_scene, tied_background
from throughline.drawn.shapes import outlines, variation_of


def test_twelve_classes_stand_in_pairs_that_differ_in_one_required_part():
    assert len(CLASSES) == 12 and len(FAMILIES) == 6
    for cls in CLASSES:
        other = contrast_of(cls)
        different = {part for part in PARTS if CONCEPTS[cls][part] != CONCEPTS[other][part]}
        assert len(different) == 1
        assert {CONCEPTS[cls][part] for part in different} | {CONCEPTS[other][part] for part in different} == {1, -1}
        assert contrast_of(other) == cls


def test_class_names_and_parts_are_single_lower_case_words_that_do_not_meet():
    assert all(word.isalpha() and word.islower() for word in (*CLASSES, *PARTS))
    assert not set(CLASSES) & set(PARTS)


def test_the_graph_names_exactly_the_parts_that_can_be_drawn():
    for family in FAMILIES:
        drawn = {shape.part for shape in outlines(family.name, variation_of(7))}
        assert drawn == {family.deciding, *family.required, *family.free}


@given(st.sampled_from(CLASSES), st.integers(0, 10_000))
def test_the_parts_of_a_scene_are_consistent_with_its_class_and_no_other(cls, index):
    parts = sample_scene(3, "photo", cls, index).parts
    assert [name for name in CLASSES if not GRAPH.violations(name, parts)] == [cls]
    assert nearest_classes(parts) == (cls,)


def test_parts_of_two_families_are_consistent_with_no_class():
    assert all(GRAPH.violations(name, ("basin", "wheels")) for name in CLASSES)
    assert nearest_classes(("basin", "handle", "wheels")) == ("cup",)


@given(st.sampled_from(CLASSES), st.integers(0, 10_000), st.floats(0, 0.9), st.floats(0, 1))
def test_a_scene_survives_json(cls, index, occlusion, noise):
    scene = sample_scene(0, "sketch", cls, index, occlusion=occlusion, noise=noise)
    assert Scene.from_json(json.loads(json.dumps(scene.to_json()))) == scene


def test_scenes_differ_between_seeds_domains_and_indices_and_repeat_otherwise():
    one = sample_scene(0, "photo", "cup", 0)
    assert one == sample_scene(0, "photo", "cup", 0)
    others = [
        sample_scene(1, "photo", "cup", 0),
        sample_scene(0, "sketch", "cup", 0),
        sample_scene(0, "photo", "cup", 1),
    ]
    assert len({one.seed, *(other.seed for other in others)}) == 4


def test_settings_and_colours_are_drawn_alike_for_every_class():
    for choose in (lambda scene: scene.background.kind, lambda scene: scene.colours.main):
        counts = {cls: Counter(choose(sample_scene(5, "photo", cls, i)) for i in range(250)) for cls in CLASSES}
        values = sorted(set().union(*counts.values()))
        # Within four standard deviations of the share that all classes have together.
        for value in values:
            share = sum(count[value] for count in counts.values()) / (250 * len(CLASSES))
            spread = (250 * share * (1 - share)) ** 0.5
            assert all(abs(count[value] - 250 * share) < 4 * spread for count in counts.values())


def test_a_tied_background_changes_nothing_else_and_is_shared_by_no_two_classes():
    plain, tied = sample_scene(0, "photo", "cup", 4), sample_scene(0, "photo", "cup", 4, background_of="raft")
    assert tied == dataclasses.replace(plain, background=tied_background("raft"))
    assert len({tied_background(cls) for cls in CLASSES}) == len(CLASSES)


@pytest.mark.parametrize(
    "wrong",
    [
        {"spurious": 1.2},
        {"occlusion": -0.1},
        {"noise": 2.0},
        {"class_weights": (("dog", 1.0),)},
        {"class_weights": (("cup", -1.0),)},
    ],
)
def test_settings_out_of_range_are_refused_in_one_line(wrong):
    with pytest.raises(ThroughlineError):
        WorldSettings(**wrong)
