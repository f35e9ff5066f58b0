"""Preference pairs are read back as they were written, and what is no pair is refused with its line."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from throughline.chains.pairs import FILE, Pair, Side, pairs_of_sources, read_pairs, write_pairs
from throughline.core.errors import ThroughlineError
from throughline.core.files import file_sha256
from throughline.domains.folders import read_images
from throughline.domains.samples import ImageSet, Sample
from throughline.domains.views import View, view_of


@pytest.fixture
def images(tmp_path: Path) -> ImageSet:
    for number, name in enumerate(("photo/cup/a.png", "photo/bowl/b.png", "sketch/cup/c.png", "sketch/bowl/d.png")):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), (60 * number, 0, 0)).save(path)
    return read_images(tmp_path / "images")


def pairs_about(images: ImageSet, folder: Path) -> list[Pair]:
    """One of each form: another chain, another image of the set, one that was made, a view."""
    cup = images.by_id["photo/cup/a.png"]
    Image.new("RGB", (40, 40), (0, 99, 0)).save(folder / "made.png")
    made = Sample("made.png", folder, "photo", ("bowl",), file_sha256(folder / "made.png"), parent_id=cup.id)
    chosen = Side(cup, "cup", "It has a handle. A cup.")
    return [
        Pair("thinking", chosen, Side(cup, "bowl", "It has no handle. A bowl."), ("handle",)),
        Pair("perception", chosen, Side(images.by_id["photo/bowl/b.png"], "bowl", "No handle. A bowl."), ("handle",)),
        Pair("perception", chosen, Side(made, "bowl", None), ("handle",)),
        Pair("mask", chosen, Side(view_of(cup, View("occlusion_grey", 0.5)), "cup", None)),
    ]


def test_pairs_of_every_form_are_read_back(images: ImageSet, tmp_path: Path) -> None:
    pairs = pairs_about(images, tmp_path)
    write_pairs(tmp_path, pairs)
    assert read_pairs(tmp_path, images) == pairs
    assert len({json.dumps(pair.identity) for pair in pairs}) == len(pairs)


def test_a_pair_with_an_image_of_a_target_is_left_out_of_its_fold(images: ImageSet, tmp_path: Path) -> None:
    pairs = pairs_about(images, tmp_path)
    across = replace(pairs[1], rejected=Side(images.by_id["sketch/bowl/d.png"], "bowl", None))
    assert pairs_of_sources([*pairs, across], ["sketch"]) == pairs
    assert pairs_of_sources([*pairs, across], ["photo"]) == []


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"rejected": "It has a handle. A cup.", "rejected_label": "bowl"}, "both sides are the same"),
        ({"rejected": None}, "both sides are the same"),
        ({"rejected_label": "cup"}, "both sides are of the class cup"),
        ({"rejected_sample": "sketch/cup/c.png", "rejected_label": "cup"}, "both sides are of the class cup"),
        ({"sample_id": "photo/cup/z.png"}, "no image photo/cup/z.png"),
        ({"rejected_sample": "photo/cup/z.png"}, "no image photo/cup/z.png"),
        ({"made_image": "z.png"}, "no image .*z.png"),
        ({"chosen": 3}, "chosen: Input should be a valid string"),
        ({"rejected_view": {"kind": "fog", "severity": 9}}, "fog has no severity 9"),
    ],
)
def test_what_is_no_pair_is_refused_with_its_line(
    images: ImageSet, tmp_path: Path, change: dict[str, object], what: str
) -> None:
    pairs = pairs_about(images, tmp_path)
    write_pairs(tmp_path, pairs[:1] * 2)
    first, second = map(json.loads, (tmp_path / FILE).read_text().splitlines())
    (tmp_path / FILE).write_text("".join(json.dumps(row) + "\n" for row in (first, {**second, **change})))
    with pytest.raises(ThroughlineError, match=what) as refused:
        read_pairs(tmp_path, images)
    assert f"{FILE}, line 2" in str(refused.value)


def test_a_folder_without_pairs_is_refused(images: ImageSet, tmp_path: Path) -> None:
    with pytest.raises(ThroughlineError, match="no such file of pairs"):
        read_pairs(tmp_path, images)
