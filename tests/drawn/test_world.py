import hashlib
import json
from collections import Counter

import pytest
from PIL import Image

from contact_sheet import contact_sheet
from throughline.core.errors import ThroughlineError
from throughline.drawn.concepts import CLASSES
from throughline.drawn.scenes import WorldSettings, read_scenes, tied_background
from throughline.drawn.styles import DOMAIN_STYLES, render
from throughline.drawn.world import write_world


def contents(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_a_world_is_images_by_domain_and_class_with_a_line_of_truth_each(tmp_path):
    assert write_world(tmp_path / "world", per_class=2, seed=0) == 2 * 12 * 4
    scenes = read_scenes(tmp_path / "world")
    found = sorted(str(path.relative_to(tmp_path / "world")) for path in tmp_path.glob("world/*/*/*.png"))
    assert found == sorted(scenes)
    assert {name.split("/")[0] for name in found} == set(DOMAIN_STYLES)
    for line in (tmp_path / "world/scenes.jsonl").read_text().splitlines():
        row = json.loads(line)
        style, cls, _ = row["sample_id"].split("/")
        scene = scenes[row["sample_id"]]
        path = tmp_path / "world" / row["sample_id"]
        assert (row["style"], scene.cls) == (style, cls)
        assert row["image_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    with Image.open(path) as image:
        assert image.mode == "RGB" and image.size == (64, 64)
        assert image.tobytes() == render(scene, style).tobytes()


def test_no_two_images_of_a_world_are_the_same(tmp_path):
    write_world(tmp_path / "world", per_class=1, seed=0)
    rows = [json.loads(line) for line in (tmp_path / "world/scenes.jsonl").read_text().splitlines()]
    assert len({row["image_sha256"] for row in rows}) == len(rows)


def test_a_world_cut_short_is_completed_and_equals_an_undisturbed_one(tmp_path):
    for name in ("whole", "cut"):
        write_world(tmp_path / name, per_class=1, seed=3, styles=("sketch", "neon"))
    (tmp_path / "cut/scenes.jsonl").unlink()
    (tmp_path / "cut/neon/cup/0000.png").unlink()
    with pytest.raises(ThroughlineError, match="unfinished"):
        read_scenes(tmp_path / "cut")
    write_world(tmp_path / "cut", per_class=1, seed=3, styles=("sketch", "neon"))
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_another_world_or_a_folder_with_other_things_is_left_untouched(tmp_path):
    write_world(tmp_path / "world", per_class=1, seed=0, styles=("sketch",))
    before = contents(tmp_path)
    with pytest.raises(ThroughlineError, match="differs in seed"):
        write_world(tmp_path / "world", per_class=1, seed=1, styles=("sketch",))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("keep")
    with pytest.raises(ThroughlineError, match="not empty"):
        write_world(tmp_path / "mine", per_class=1, seed=0)
    assert contents(tmp_path) == before | {"mine/notes.txt": b"keep"}


@pytest.mark.parametrize("wrong", [{"styles": ("crayon",)}, {"styles": ()}, {"size": 8}, {"per_class": 0}])
def test_a_wrong_request_writes_nothing(tmp_path, wrong):
    with pytest.raises(ThroughlineError):
        write_world(tmp_path / "world", **({"per_class": 1, "seed": 0} | wrong))
    assert not (tmp_path / "world").exists()


def test_label_shift_and_spurious_backgrounds_are_as_strong_as_asked(tmp_path):
    settings = WorldSettings(class_weights=(("cup", 2.0), ("raft", 0.0)), spurious=1.0)
    write_world(tmp_path / "world", per_class=2, seed=0, styles=("mosaic",), settings=settings)
    scenes = read_scenes(tmp_path / "world").values()
    counts = Counter(scene.cls for scene in scenes)
    assert counts["cup"] == 4 and "raft" not in counts and counts["car"] == 2
    assert all(scene.background == tied_background(scene.cls) for scene in scenes)


def test_the_contact_sheet_has_a_row_a_class(tmp_path):
    contact_sheet(tmp_path / "sheet.png", seed=0, styles=("sketch", "neon"))
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.height > 96 * len(CLASSES) and sheet.width > 2 * 96
