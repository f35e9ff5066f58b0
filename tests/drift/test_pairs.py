"""Pairs about drawn images differ in exactly what they are meant to; the scenes say what is true."""

import itertools
import shutil
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from throughline.chains.concepts import check_statements, stated_attributes
from throughline.chains.formats import FIVE_STAGE, FORMATS
from throughline.chains.pairs import Pair, read_pairs
from throughline.chains.parsing import parse_chain
from throughline.cli.drift import Source
from throughline.cli.main import main
from throughline.domains.folders import read_images
from throughline.domains.samples import ImageSet
from throughline.domains.views import load_sample
from throughline.drawn.concepts import CLASSES, GRAPH, contrast_of, family_of
from throughline.drawn.counterfactuals import GREY, counterfactual
from throughline.drawn.scenes import read_scenes
from throughline.drawn.styles import part_box, render
from throughline.drawn.world import write_world
from throughline.drift.pairs import SOURCES, DrawnWorld, make_pairs
from throughline.drift.rivals import RIVALS


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "images"
    write_world(folder, per_class=2, seed=3)
    return folder


@pytest.fixture(scope="module")
def made(world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[ImageSet, list[Pair]]:
    """Through the command line, with every source."""
    out = tmp_path_factory.mktemp("pairs") / "pairs"
    sources = "thinking,perception,deciding_mask,random_image,random_answer,mask,crop,noise"
    assert main(["drift", "pairs", str(world), "--out", str(out), "--source", sources]) == 0
    images = read_images(world)
    return images, read_pairs(out, images)


def of(made: tuple[ImageSet, list[Pair]], source: str) -> list[Pair]:
    return [pair for pair in made[1] if pair.source == source]


@pytest.mark.slow
def test_a_thousand_thinking_pairs_differ_in_the_deciding_part_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of scenes alone: chains are made of these, so that each image is one small colour of its own."""
    colours = (tuple(number.to_bytes(3, "big")) for number in itertools.count())
    monkeypatch.setattr("throughline.drawn.world.render", lambda *_: Image.new("RGB", (8, 8), next(colours)))
    write_world(tmp_path / "world", per_class=23, seed=0)
    images = read_images(tmp_path / "world")
    drawn = DrawnWorld(images, read_scenes(tmp_path / "world"), tmp_path, FIVE_STAGE, 0, 64)
    pairs = list(make_pairs(drawn, ["thinking"]))
    assert len(pairs) >= 1000
    for pair in pairs:
        chosen, rejected = pair.chosen.chain or "", pair.rejected.chain or ""
        deciding, other = family_of(pair.chosen.label).deciding, contrast_of(pair.chosen.label)
        before, after = stated_attributes(chosen, GRAPH), stated_attributes(rejected, GRAPH)
        assert {name for name in before | after if before.get(name) != after.get(name)} == {deciding} == {*pair.changed}
        assert parse_chain(rejected, FIVE_STAGE, CLASSES).label == other == pair.rejected.label
        assert check_statements(rejected, GRAPH, other).coherent


def test_a_perception_pair_shows_the_counterfactual_scene_and_nothing_else(
    world: Path, made: tuple[ImageSet, list[Pair]]
) -> None:
    scenes, pairs = read_scenes(world), of(made, "perception")
    assert len(pairs) > 80
    for pair in pairs[::7]:
        own, other = pair.chosen.sample, pair.rejected.sample
        box = part_box(scenes[own.id], family_of(own.label).deciding, own.domain)
        before, after = (np.asarray(load_sample(sample)) for sample in (own, other))
        changed = np.argwhere((before != after).any(axis=2))
        assert len(changed), own.id
        (top, left), (bottom, right) = changed.min(axis=0), changed.max(axis=0)
        assert box[0] <= left and box[1] <= top and right < box[2] and bottom < box[3], own.id
        assert other.label == contrast_of(own.label) == pair.rejected.label
        assert parse_chain(pair.rejected.chain or "", FIVE_STAGE, CLASSES).label == other.label


def test_a_deciding_mask_takes_away_what_tells_the_two_classes_apart(
    world: Path, made: tuple[ImageSet, list[Pair]]
) -> None:
    scenes = read_scenes(world)
    for pair in of(made, "deciding_mask")[::7]:
        own, masked = pair.chosen.sample, np.asarray(load_sample(pair.rejected.sample))
        left, top, right, bottom = part_box(scenes[own.id], family_of(own.label).deciding, own.domain)
        assert (masked[top:bottom, left:right] == GREY).all()
        other = np.asarray(render(counterfactual(scenes[own.id]), own.domain, len(masked))).copy()
        other[top:bottom, left:right] = GREY
        assert (masked == other).all(), "the other class looks the same behind the mask"


def test_other_sides_are_of_another_class_and_the_same_style(made: tuple[ImageSet, list[Pair]]) -> None:
    images = made[0]
    for pair in (*of(made, "random_image"), *of(made, "random_answer")):
        assert pair.rejected.label != pair.chosen.label
        assert pair.rejected.sample.domain == pair.chosen.sample.domain
        is_image = pair.source == "random_image"
        assert (pair.rejected.sample != pair.chosen.sample) == is_image
        assert not is_image or images.by_id[pair.rejected.sample.id].label == pair.rejected.label
    for source in ("mask", "crop", "noise"):
        changed = of(made, source)[0].rejected.sample
        assert changed.view is not None
        assert (np.asarray(load_sample(changed)) != np.asarray(Image.open(changed.path).convert("RGB"))).any()


def test_the_same_arguments_give_the_same_pairs(world: Path, made: tuple[ImageSet, list[Pair]], tmp_path: Path) -> None:
    images = made[0]
    drawn = DrawnWorld(images, read_scenes(world), tmp_path, FORMATS["five_stage"], 0, 64)
    again = list(make_pairs(drawn, ["thinking", "perception"]))
    first = [pair for pair in made[1] if pair.source in ("thinking", "perception")]
    assert [pair.identity for pair in again] == [pair.identity for pair in first]


def test_an_image_that_lies_among_drawn_ones_is_refused(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(world, tmp_path / "world")
    shutil.copy(next((world / "photo" / "cup").iterdir()), tmp_path / "world" / "photo" / "cup" / "mine.png")
    assert main(["drift", "pairs", str(tmp_path / "world"), "--out", str(tmp_path / "pairs")]) == 1
    assert "photo/cup/mine.png" in capsys.readouterr().err
    assert not (tmp_path / "pairs").exists()


def test_the_command_line_offers_every_source() -> None:
    assert get_args(Source) == (*SOURCES, *RIVALS)


def test_images_that_were_not_drawn_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "images" / "photo" / "cup").mkdir(parents=True)
    Image.new("RGB", (40, 40)).save(tmp_path / "images" / "photo" / "cup" / "mine.png")
    assert main(["drift", "pairs", str(tmp_path / "images"), "--out", str(tmp_path / "pairs")]) == 1
    assert "no drawn world is here" in capsys.readouterr().err
