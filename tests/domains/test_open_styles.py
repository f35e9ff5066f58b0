"""The set of real images: built small from archives on loopback, and whole where the package clients are."""

import copy
import csv
import hashlib
import io
import json
from collections import Counter
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from tests.domains.small_archives import debian_of, qt_resource_of, tar_of

from throughline.cli.main import main
from throughline.core.errors import ThroughlineError
from throughline.domains.checks import check_images
from throughline.domains.fetching.sources import Package, obtain
from throughline.domains.folders import read_images
from throughline.domains.images import image_bytes
from throughline.domains.open_styles import building, pictures
from throughline.domains.open_styles.building import build_open_styles, compared
from throughline.domains.open_styles.drawing import SIDE, draw

BUILT = json.loads(resources.files(building.__package__).joinpath("built.json").read_text())
EMOJI = """
# subgroup: animal-bird
1F427                                                  ; fully-qualified     # 🐧 E0.6 penguin
1F54A FE0F                                             ; fully-qualified     # 🕊️ E0.7 dove
1F54A                                                  ; unqualified         # 🕊 E0.7 dove
1FAB6                                                  ; fully-qualified     # 🪶 E13.0 feather
# subgroup: food-fruit
1F34E                                                  ; fully-qualified     # 🍎 E0.6 red apple
# subgroup: tool
1F528                                                  ; fully-qualified     # 🔨 E0.6 hammer
"""
BIRDS = "stamps/animals/birds"
README = """Copyright: Ada Example
License: CC-BY-SA-4.0
Source: https://example.org/heron
Files: heron.webp

Copyright: Bob Example
License: Public Domain
Files:
owl.webp
"""


def raster(colour: str, size: tuple[int, int] = (60, 40), form: str = "PNG", clear: bool = True) -> bytes:
    """A disc of a colour, on nothing or on green."""
    image = Image.new("RGBA", size, (0, 0, 0, 0) if clear else "green")
    ImageDraw.Draw(image).ellipse((10, 5, 40, 35), fill=colour)
    buffer = io.BytesIO()
    image.save(buffer, form, lossless=True)
    return buffer.getvalue()


def svg(colour: str, more: str = "") -> str:
    head = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:dc="dc" width="40pt" height="40pt">'
    return f'{head}{more}<circle cx="12" cy="12" r="6" fill="{colour}"/></svg>'


def iconify(icons: dict[str, str], chars: dict[str, str]) -> bytes:
    bodies = {name: {"body": f'<circle cx="8" cy="8" r="6" fill="{colour}"/>'} for name, colour in icons.items()}
    files = {"icons": {"icons": bodies, "width": 16, "height": 16}, "chars": chars}
    return tar_of({f"package/{name}.json": json.dumps(value).encode() for name, value in files.items()})


CREATOR = "<metadata><dc:creator><dc:title> Eve </dc:title></dc:creator></metadata>"
ARCHIVES = {
    "noto": iconify({"penguin": "red", "dove": "blue", "apple": "lime", "hammer": "black"},
                    {"1f427": "penguin", "1f54a-fe0f": "dove", "1f34e": "apple", "1f528": "hammer"}),
    "emojione": iconify({"redapple": "cyan", "feather": "grey"}, {}),
    "fluent_3d": tar_of({f"package/assets/{name}.webp": raster(colour, form="WEBP")
                         for name, colour in {"1f427": "navy", "1f54a": "teal", "1fab6": "grey"}.items()}),
    "tuxpaint": debian_of({f"./usr/share/tuxpaint/{BIRDS}/{name}": content for name, content in {
        "little-penguin.png": raster("brown"), "lark.png": raster("gold"), "bee.png": raster("black"),
        "tux.svg": svg("orange", CREATOR).encode(), "lark.ogg": b"song"}.items()}),
    "gcompris": debian_of({"./usr/share/rcc/erase.rcc": qt_resource_of({
        f"gcompris/src/activities/erase/resource/{name}": content for name, content in {
            "README": README.encode(), "heron.webp": raster("pink", (90, 45), "WEBP", clear=False),
            "owl.webp": raster("white", (40, 80), "WEBP", clear=False)}.items()})}),
    "unicode": debian_of({"./usr/share/unicode/emoji/emoji-test.txt": EMOJI.encode()}),
}  # fmt: skip


@pytest.fixture
def small(server, monkeypatch):
    """The real rules, with few of the pictures, on archives of the same form on loopback."""
    rules = copy.deepcopy(pictures.RULES)
    rules["archives"] = {name: rules["archives"][name] for name in ARCHIVES}
    for name, content in ARCHIVES.items():
        server.files[name] = content
        sha256, sources = hashlib.sha256(content).hexdigest(), [server.address("gone"), server.address(name)]
        rules["archives"][name] |= {"sha256": sha256, "bytes": len(content), "sources": sources}
    rules["families"], rules["more"] = {"flat_noto": "noto", "render3d": "fluent_3d"}, {"flat_emojione": "emojione"}
    birds = "animals/birds"
    rules["pictures"] = {
        "tuxpaint": {
            "folder": "usr/share/tuxpaint/stamps",
            "photo": [{"label": "bird", "files": f"{birds}/*.png", "without": ["bee"]}],
            "clipart": [{"label": "bird", "files": f"{birds}/*.svg"}],
        },
        "gcompris": {
            "folder": "gcompris/src/activities",
            "scene": [{"label": "bird", "files": "erase/resource/*.webp", "only": ["heron", "owl"]}],
        },
    }
    for module in (pictures, building):
        monkeypatch.setattr(module, "RULES", rules)
    return rules


def built(tmp_path: Path, name: str = "set", **options) -> Path:
    build_open_styles(tmp_path / name, lambda done, total: None, cache=tmp_path / "cache", **options)
    return tmp_path / name


def test_archives_become_domains_with_concepts_and_the_check_passes(small, tmp_path):
    images = read_images(built(tmp_path) / "images.csv")
    assert {sample.id: sample.group for sample in images.samples} == {
        "clipart/bird/tuxpaint_birds_tux.png": "penguin",
        "flat_noto/bird/dove.png": "dove",
        "flat_noto/bird/penguin.png": "penguin",
        "flat_noto/fruit/red-apple.png": "red apple",
        "photo/bird/gcompris_resource_heron.png": None,
        "photo/bird/gcompris_resource_owl.png": None,
        "photo/bird/tuxpaint_birds_lark.png": None,
        "photo/bird/tuxpaint_birds_little-penguin.png": "penguin",
        "render3d/bird/dove.png": "dove",
        "render3d/bird/penguin.png": "penguin",
    }
    report = check_images(tmp_path / "set")
    assert not report.errors and {defect.kind for defect in report.defects} == {"class_missing", "small_domain"}


def test_more_adds_families_whose_icons_are_named_as_the_emoji(small, tmp_path):
    images = read_images(built(tmp_path, more=True))
    assert [sample.id for sample in images.in_domain("flat_emojione")] == ["flat_emojione/fruit/red-apple.png"]


def test_every_image_is_attributed(small, tmp_path):
    with (built(tmp_path) / "ATTRIBUTION.csv").open() as file:
        credits = {Path(row["image"]).stem: row for row in csv.DictReader(file)}
    assert set(credits) >= {"dove", "tuxpaint_birds_tux"} and all(row["author"] for row in credits.values())
    found = {name: (row["author"], row["licence"], row["scene"]) for name, row in credits.items()}
    assert found["gcompris_resource_heron"] == ("Ada Example", "CC-BY-SA-4.0", "True")
    assert found["gcompris_resource_owl"] == ("Bob Example", "public domain", "True")
    assert found["tuxpaint_birds_tux"] == ("Eve", "GPL-2.0", "False")
    assert found["tuxpaint_birds_lark"][0].startswith("Bill Kendrick")
    assert credits["gcompris_resource_heron"]["source"] == "https://example.org/heron"
    assert credits["penguin"]["source"].startswith("https://github.com/")


def test_the_card_tells_counts_small_cells_sources_and_faults(small, tmp_path):
    card = (built(tmp_path) / "CARD.md").read_text()
    assert "| class | clipart | flat_noto | photo | render3d |" in card and "| bird | 1 | 2 | 4 | 2 |" in card
    assert "| with a concept of another domain | 1 | 2 | 1 | 2 |" in card
    assert "2 photographs of scenes" in card and "photo/bird 4;" in card and "CC-BY-SA-4.0 1" in card
    assert small["archives"]["noto"]["sha256"][:16] in card and "emojione" not in card


def test_a_second_build_gives_the_same_bytes(small, tmp_path, server):
    first = built(tmp_path)
    asked = len(server.ranges)
    second = built(tmp_path, "again")
    files = [{path.relative_to(root): path.read_bytes() for path in root.rglob("*.*")} for root in (first, second)]
    assert files[0] == files[1] and len(server.ranges) == asked  # the archives were kept


def test_other_versions_are_named_where_the_bytes_differ():
    assert compared(BUILT) == "the same bytes as documented"
    other = copy.deepcopy(BUILT)
    other["domains"]["photo"]["sha256"], other["drawn_with"]["pillow"] = "0" * 64, "99.0"
    said = compared(other)
    assert said.startswith("other bytes than documented in photo: drawn with pillow 99.0, ")


def test_the_command_builds_from_archives_that_the_user_has(small, tmp_path, capsys):
    own = tmp_path / "downloads"
    own.mkdir()
    for number, content in enumerate(ARCHIVES.values()):
        (own / f"file {number}").write_bytes(content)
    for about in small["archives"].values():
        about["sources"] = ["npm:@nobody/has-this@1"]
    out = tmp_path / "set"
    assert main(["data", "fetch", "open_styles", str(out), "--archives", str(own)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"10 images in {out}, other bytes than documented in") and "data check" in said
    assert main(["data", "fetch", "open_styles", str(out), "--archives", str(own)]) == 1
    assert "not empty" in capsys.readouterr().err


# drawing --------------------------------------------------------------------------------------------------------------


def drawn(content: bytes | str, scene: bool = False) -> np.ndarray:
    content = content.encode() if isinstance(content, str) else content
    return np.asarray(Image.open(io.BytesIO(draw({"content": content, "scene": scene}))).convert("RGB")).astype(int)


def box_of(pixels: np.ndarray) -> tuple[int, int, int, int]:
    """Of what is not white: left, top, width, height."""
    rows, columns = np.where((pixels < 250).any(axis=2))
    return columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1


@pytest.mark.parametrize("content", [raster("red"), svg("red"), svg("red", "<text x='30' y='30'>words</text>")])
def test_an_object_fills_the_square_but_for_the_margin(content):
    pixels = drawn(content)
    assert pixels.shape == (SIDE, SIDE, 3)
    left, top, wide, high = box_of(pixels)
    assert abs(left - 0.06 * SIDE) < 3 and abs(top - 0.06 * SIDE) < 3
    assert abs(wide - 0.88 * SIDE) < 4 and abs(high - 0.88 * SIDE) < 4
    assert pixels[SIDE // 2, SIDE // 2].tolist() == [255, 0, 0]


def test_a_scene_keeps_its_frame():
    assert box_of(drawn(raster("red", (90, 45), clear=False), scene=True)) == (0, 56, 224, 112)
    assert box_of(drawn(raster("red", (45, 90), clear=False), scene=True)) == (56, 0, 112, 224)


def test_without_the_renderer_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "resvg_py", None)
    with pytest.raises(ThroughlineError, match=r"install the extra styles"):
        drawn(svg("red"))


# the whole set --------------------------------------------------------------------------------------------------------


def test_the_documented_build_is_of_these_archives_and_nearly_balanced_halves():
    rules = pictures.RULES
    about = {name: [a["credit"]["licence"], a["sha256"]] for name, a in rules["archives"].items()}
    assert BUILT["archives"] == about
    counts = {name: sum(domain["classes"].values()) for name, domain in BUILT["domains"].items()}
    assert sum(counts.values()) == BUILT["images"]
    assert 1900 < sum(count for name, count in counts.items() if name not in rules["more"]) < 2200
    assert set(counts) == {"photo", "clipart", *rules["families"], *rules["more"]}
    assert len({label for domain in BUILT["domains"].values() for label in domain["classes"]}) == 9


DRAWN = ("flat_noto", "photo", "render3d")
"""Of each kind of picture a domain: SVG, photographs with scenes, and raster objects. Drawing all takes minutes."""


@pytest.mark.slow
def test_the_set_that_the_package_clients_give_is_the_documented_one(tmp_path, monkeypatch):
    def draw_some(picture):
        if picture["domain"] in DRAWN:
            return draw(picture)
        stand_in = Image.new("RGB", (SIDE, SIDE), "white")
        digest = hashlib.sha256(picture["content"]).digest()
        stand_in.putdata([tuple(digest[:3]), tuple(digest[3:6])])  # no two alike
        return image_bytes(stand_in)

    monkeypatch.setattr(building, "draw", draw_some)
    for name, about in pictures.RULES["archives"].items():
        try:
            obtain(Package(name, about["sha256"], about["bytes"], tuple(about["sources"])))
        except ThroughlineError as error:
            pytest.skip(str(error))
    root = tmp_path / "set"
    record = build_open_styles(root, lambda done, total: None)
    for name, domain in record["domains"].items():
        assert domain["classes"] == BUILT["domains"][name]["classes"], name
    if record["drawn_with"] == BUILT["drawn_with"]:
        drawn_alone = {"domains": {name: record["domains"][name] for name in DRAWN}}
        assert compared(record | drawn_alone) == "the same bytes as documented"
    assert json.loads((root / "open_styles.json").read_text()) == record
    report = check_images(root)
    assert not report.errors and not report.defects
    with (root / "ATTRIBUTION.csv").open() as file:
        credits = list(csv.DictReader(file))
    assert len(credits) == record["images"] and all(row["author"] and row["licence"] for row in credits)
    assert Counter(row["licence"] for row in credits) == record["licences"]
    images = read_images(root / "images.csv")
    assert len({sample.group for sample in images.samples}) > 200
