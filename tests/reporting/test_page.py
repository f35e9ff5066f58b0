from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from throughline.core.files import read_json_lines, write_atomically, write_json_lines
from throughline.drawn import DRAWN_NOTE
from throughline.reporting.gallery import make_gallery, parts, thumbnail
from throughline.reporting.groups import groups
from throughline.reporting.page import images_of, write_page
from throughline.reporting.tables import comparison_table, results_table
from throughline.runs.reader import read_run

if TYPE_CHECKING:
    from tests.reporting.conftest import FakeRun

pytestmark = pytest.mark.slow

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Reader(HTMLParser):
    """Every tag with its attributes; unbalanced tags are kept as faults."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.faults: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(tag)


@pytest.fixture(scope="module")
def page(fake_run: FakeRun) -> str:
    return write_page(fake_run.folder, fake_run.images).read_text()


def test_the_page_asks_nobody_for_anything(page: str) -> None:
    reader = Reader(page)
    assert reader.faults == [] and reader.open == []
    for tag, attributes in reader.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        for name in ("src", "href", "xlink:href", "srcset", "action", "data"):
            value = attributes.get(name)
            # a link to a figure's files asks for nothing until somebody follows it
            mine = ("data:image/", "#", "figures/") if tag == "a" else ("data:image/", "#")
            assert value is None or value.startswith(mine), (tag, name, value)
        assert not any(name.startswith("on") for name in attributes), tag
    assert "@import" not in page and not re.search(r"url\((?!#)", page)
    policy = next(a for tag, a in reader.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert str(policy["content"]).startswith("default-src 'none'")


def test_what_a_model_wrote_stays_text(fake_run: FakeRun, page: str) -> None:
    assert fake_run.attack not in page and "\u2028" not in page and "\\u003cscript\\u003ealert" in page
    scripts = [attributes.get("type") for tag, attributes in Reader(page).tags if tag == "script"]
    assert scripts == ["application/json", "application/json", None]


def test_the_page_has_every_section_and_says_that_the_world_is_drawn(page: str) -> None:
    ids = {attributes.get("id") for _, attributes in Reader(page).tags}
    assert ids >= {
        "results", "ablation", "paths", "rounds", "rounds-expected", "training", "optimisation", "tokens", "chains",
        "entropy", "domains", "faithfulness", "sensitivity", "classes", "confusion", "confidence", "gallery", "run",
    }  # fmt: skip
    linked = {str(a["href"]) for tag, a in Reader(page).tags if tag == "a"}
    beside = {one for one in linked if one.startswith("figures/")}
    assert {one[1:] for one in linked - beside} <= ids
    assert {f"figures/loss.{ending}" for ending in ("svg", "png", "csv")} <= beside
    assert page.count(DRAWN_NOTE) == 1
    # accuracy, differences, rounds, loss, reliability, abstention, classes, and a confusion figure of each target
    assert page.count('role="img"') == 9
    assert "The run folder is complete." in page and "versions.torch" in page and "preset: demo" in page


def gallery_of(page: str) -> dict[str, Any]:
    """The gallery's JSON, as a browser would take it: up to the first end of a script."""
    blocks = re.findall(r'<script type="application/json">(.*?)</script', page, re.DOTALL)
    return next(found for found in map(json.loads, blocks) if "images" in found)


def test_the_gallery_has_every_image_with_what_every_method_said(fake_run: FakeRun, page: str) -> None:
    gallery = gallery_of(page)
    assert len(gallery["images"]) == 60 and gallery["methods"] == list(fake_run.methods)
    assert all(image[3].startswith("data:image/jpeg;base64,") for image in gallery["images"])
    shown = {
        (image[0], gallery["methods"][entry[0]], gallery["answers"][said[0]]): (
            None if said[1] < 0 else gallery["classes"][said[1]], gallery["outcomes"][said[2]], bool(said[3])
        )
        for image in gallery["images"] for entry in image[4] for said in entry[2]
    }  # fmt: skip
    run = read_run(fake_run.folder)
    written = {
        (one.sample_id, line.method, one.answer): (one.predicted, one.outcome, one.correct)
        for line in run.results if line.seed == 0 and line.round is None
        for one in run.units[line.unit].predictions()
    }  # fmt: skip
    assert shown == written


def test_pictures_and_texts_are_bounded(fake_run: FakeRun) -> None:
    run = read_run(fake_run.folder)
    gallery = make_gallery(groups(run)[0], fake_run.images, with_texts=10, limit=40)
    assert gallery is not None and (gallery.total, gallery.with_texts) == (60, 10)
    images = gallery.data["images"]
    assert [image[3] is not None for image in images] == [True] * 10 + [False] * 30
    assert {said[4] for image in images[10:] for entry in image[4] for said in entry[2]} == {None}


def test_the_same_run_gives_the_same_bytes_and_no_path_of_this_machine(fake_run: FakeRun, page: str) -> None:
    assert write_page(fake_run.folder, fake_run.images).read_text() == page
    assert str(fake_run.folder.parent) not in page and str(fake_run.images) not in page


def test_the_deciding_method_is_half_wrong_where_it_can_be(fake_run: FakeRun) -> None:
    run = read_run(fake_run.folder)
    gallery = make_gallery(groups(run)[0], None, with_texts=8)
    assert gallery is not None
    assert (gallery.with_texts, gallery.right, gallery.chosen_by) == (8, 4, "mtct_sarr")
    data = gallery.data
    assert {data["domains"][image[1]] for image in data["images"][:8]} == {"painting", "sketch"}
    setup, _, answers = data["images"][0][4][0]
    assert data["methods"][setup] == "zero_shot"
    said = [{entry[0]: entry[2] for entry in image[4]}[gallery.data["first"]] for image in data["images"][:8]]
    assert sum(answer[3] for answers in said for answer in answers if answer[0] == 1) == 4, "the reasoning path decides"
    assert [data["answers"][said[0]] for said in answers] == ["label", "reasoning", "likelihood"]


def test_images_that_were_given_several_classes_come_first_in_shuffled_order(make_run: Callable[..., FakeRun]) -> None:
    fake = make_run(methods=("cls",), seeds=(0,))
    gallery = make_gallery(groups(read_run(fake.folder))[0], None, with_texts=20)
    assert gallery is not None
    images = gallery.data["images"]
    disputed = [len({said[1] for entry in image[4] for said in entry[2]}) > 1 for image in images]
    assert 0 < sum(disputed) == gallery.disputed < len(images)
    for part in (slice(20), slice(20, None)):
        assert disputed[part] == sorted(disputed[part], reverse=True)
        names = [image[0] for image in images[part]]
        assert names != sorted(names) and {name.split("/")[0] for name in names[:6]} == {"painting", "sketch"}


def test_without_script_every_table_of_results_is_there(page: str) -> None:
    sheets = [attributes for tag, attributes in Reader(page).tags if attributes.get("class") == "sheet"]
    assert {(sheet["data-answer"], sheet["data-split"]) for sheet in sheets} == {
        (answer, split) for answer in ("label", "reasoning", "likelihood") for split in ("in", "out", "all")
    }
    assert not any("hidden" in sheet for sheet in sheets)


@pytest.mark.usefixtures("undrawn")
def test_a_run_without_images_or_predictions_still_has_a_page(make_run: Callable[..., FakeRun]) -> None:
    fake = make_run(methods=("cls",), seeds=(0,), targets=("sketch",))
    assert "--images DIR" in write_page(fake.folder).read_text()
    for file in fake.folder.glob("units/*/*"):
        file.unlink()
    text = write_page(fake.folder, fake.images).read_text()
    assert "no predictions yet" in text and "no predictions in the" in text and "missing or unreadable" in text


@pytest.mark.usefixtures("undrawn")
def test_a_run_with_one_method_and_no_chains_says_what_is_missing(make_run: Callable[..., FakeRun]) -> None:
    fake = make_run(methods=("zero_shot",), seeds=(0,), targets=("sketch",))
    for file in fake.folder.glob("units/*/predictions.jsonl"):
        rows = [row for row in read_json_lines(file) if row["answer"] == "label"]
        write_json_lines(file, rows)
    results = [row for row in read_json_lines(fake.folder / "results.jsonl") if row["answer"] == "label"]
    write_json_lines(fake.folder / "results.jsonl", results)
    text = write_page(fake.folder, fake.images).read_text()
    for words in (
        "no rounds in this run",
        "nothing was trained",
        "no predictions with a confidence",
        "No chain was scored",
        "This run has no analysis yet",
        "The run folder is complete.",
    ):
        assert words in text, words


def test_a_method_whose_answers_are_lost_decides_nothing(make_run: Callable[..., FakeRun]) -> None:
    run = make_run(methods=("cls", "mtct_sarr"), targets=("sketch",), seeds=(0,), size=10)
    for path in run.folder.glob("units/*mtct_sarr*/predictions.jsonl"):
        path.write_text("")
    assert 'id="gallery"' in write_page(run.folder, run.images).read_text()
    for path in run.folder.glob("units/*/predictions.jsonl"):
        path.write_text("")
    write_page(run.folder, run.images)


@pytest.mark.usefixtures("undrawn")
def test_an_interrupted_unit_is_told_and_the_others_are_shown(make_run: Callable[..., FakeRun]) -> None:
    fake = make_run(methods=("cls", "mtct"), seeds=(0,))
    (stopped,) = fake.folder.glob("units/mtct-sketch-0-*")
    for name in ("done", "predictions.jsonl", "metrics.json"):
        (stopped / name).unlink()
    kept = [row for row in read_json_lines(fake.folder / "results.jsonl") if row["unit"] != stopped.name]
    write_json_lines(fake.folder / "results.jsonl", kept)
    text = write_page(fake.folder, fake.images).read_text()
    assert f"<li>{stopped.name}: not done</li>" in text and "3 parts of the run are missing or unreadable" in text
    shown = {(image[0].split("/")[0], tuple(entry[0] for entry in image[4])) for image in gallery_of(text)["images"]}
    assert shown == {("painting", (0, 1)), ("sketch", (0,))}


def test_several_groups_of_results_have_figures_of_their_own(make_run: Callable[..., FakeRun]) -> None:
    fake = make_run(methods=("cls", "mtct"), seeds=(0,), targets=("sketch",))
    rows = read_json_lines(fake.folder / "results.jsonl")
    other = [{**row, "model": "larger"} if row["method"] == "mtct" else row for row in rows]
    write_json_lines(fake.folder / "results.jsonl", other)
    text = write_page(fake.folder, fake.images).read_text()
    ids = [str(attributes["id"]) for _, attributes in Reader(text).tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    assert {"accuracy.csv", "accuracy-2.csv", "confusion-1-2.png"} <= {
        path.name for path in (fake.folder / "report" / "figures").iterdir()
    }
    assert text.count('class="gallery"') == 2 and "drawn · larger" in text


@pytest.mark.usefixtures("undrawn")
def test_factors_are_axes_of_one_table(make_run: Callable[..., FakeRun]) -> None:
    """Two units that differ in one factor alone stand in one table, each level set against the first."""
    fake = make_run(methods=("zero_shot", "cls"), seeds=(0,), targets=("sketch",))
    rows = read_json_lines(fake.folder / "results.jsonl")
    wording = {"zero_shot": "plain", "cls": "short"}
    varied = [{**row, "method": "zero_shot", "factors": {"wording": wording[row["method"]]}} for row in rows]
    write_json_lines(fake.folder / "results.jsonl", varied)
    run = read_run(fake.folder)
    (group,) = groups(run)
    assert list(group.setups) == ["zero_shot, wording=plain", "zero_shot, wording=short"]
    table = results_table(group, "all", "label")
    assert table.columns[:3] == ("method", "wording", "sketch")
    assert [row[:2] for row in table.rows] == [("zero_shot", "plain"), ("zero_shot", "short")]
    compared = comparison_table(group, "label")
    assert compared is not None and compared.title.endswith("difference from zero_shot, wording=plain, split all")
    assert [row[:2] for row in compared.rows] == [("zero_shot", "short")]
    text = write_page(fake.folder, fake.images).read_text()
    assert text.count('class="gallery"') == 1 and text.count("zero_shot, wording=short") > 1
    assert gallery_of(text)["methods"] == list(group.setups)


def test_names_of_another_hand_stay_text_in_figures_and_data(make_run: Callable[..., FakeRun]) -> None:
    """Targets, classes and methods come from files as well; matplotlib would take a dollar sign for mathematics."""
    attack = '--></script></svg><script>alert(1)</script>$x_{$ & "'
    fake = make_run(methods=("cls",), seeds=(0,), targets=("sketch",), size=10)
    for file in (*fake.folder.glob("units/*/predictions.jsonl"), fake.folder / "results.jsonl"):
        rows = read_json_lines(file)
        for row in rows:
            names = ("labels", "domain") if "labels" in row else ("targets", "method")
            row.update({names[0]: [attack], names[1]: attack})
        write_json_lines(file, rows)
    text = write_page(fake.folder).read_text()
    reader = Reader(text)
    assert reader.faults == [] and reader.open == []
    assert sum(tag == "script" for tag, _ in reader.tags) == 3 and "<script>alert" not in text
    assert gallery_of(text)["domains"] == [attack]


@pytest.mark.usefixtures("undrawn")
def test_an_image_folder_named_by_the_config_is_used(make_run: Callable[..., FakeRun]) -> None:
    fake = make_run(methods=("cls",), seeds=(0,), targets=("sketch",))
    write_atomically(fake.folder / "config.yaml", f"data: {{images: {fake.images}}}\n")
    assert "data:image/jpeg" in write_page(fake.folder).read_text()


def test_every_image_set_of_a_run_has_its_own_folder(make_run: Callable[..., FakeRun], tmp_path: Path) -> None:
    """The samples of two sets may have the same ids; what is drawn lies in the folder of the run."""
    fake = make_run(methods=("zero_shot", "cls", "mtct"), seeds=(0,), targets=("sketch",), size=10)
    dataset = {"zero_shot": "mine", "cls": "drawn-listed", "mtct": "drawn"}
    rows = [{**row, "dataset": dataset[row["method"]]} for row in read_json_lines(fake.folder / "results.jsonl")]
    write_json_lines(fake.folder / "results.jsonl", rows)
    (fake.images / "listed.csv").write_text("image,domain,label\n")
    drawn = fake.folder / "images-3"
    drawn.mkdir()
    sets = {
        "data": {"images": str(tmp_path / "gone" / "mine")},
        "more_data": [{"images": str(fake.images / "listed.csv")}, {"drawn": {}}],
    }
    write_atomically(fake.folder / "config.yaml", yaml.safe_dump(sets))
    run = read_run(fake.folder)
    assert images_of(run) == {"drawn-listed": fake.images, "drawn": drawn}
    assert images_of(run, tmp_path)["mine"] == tmp_path
    page = write_page(fake.folder).read_text()
    assert page.count("data:image/jpeg") > 0 and "The image folder was not found" in page


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("named", ["config", "option"])
def test_a_table_of_images_stands_for_its_folder(make_run: Callable[..., FakeRun], named: str) -> None:
    fake = make_run(methods=("cls",), seeds=(0,), targets=("sketch",), size=10)
    table = fake.images / "set.csv"
    table.write_text("image,domain,label\n")
    if named == "config":
        write_atomically(fake.folder / "config.yaml", f"data: {{images: {table}}}\n")
    page = write_page(fake.folder, table if named == "option" else None).read_text()
    assert "data:image/jpeg" in page and "The image folder was not found" not in page


@pytest.mark.usefixtures("undrawn")
def test_the_page_says_on_what_device_a_run_was_computed(make_run: Callable[..., FakeRun]) -> None:
    fake = make_run(methods=("cls",), seeds=(0,), targets=("sketch",), size=10)
    write_atomically(fake.folder / "environment.json", "{}")
    assert "Computed on" not in write_page(fake.folder).read_text()
    write_atomically(fake.folder / "environment.json", json.dumps({"device": "cuda"}))
    assert "Computed on: cuda." in write_page(fake.folder).read_text()


def test_chains_fall_into_stages_and_nothing_is_lost() -> None:
    found = parts("so <SUMMARY>a</SUMMARY> between <CONCLUSION>b</CONCLUSION><REASONING>never closed")
    assert found == (
        (None, "so"),
        ("SUMMARY", "a"),
        (None, "between"),
        ("CONCLUSION", "b"),
        (None, "<REASONING>never closed"),
    )
    assert parts("") == () and len(parts("x" * 100_000)[0][1]) < 5000


def test_an_id_that_leads_out_of_the_image_folder_shows_nothing(fake_run: FakeRun, tmp_path: Path) -> None:
    inside = next(fake_run.images.rglob("*.png"))
    outside = f"../{fake_run.images.name}/{inside.relative_to(fake_run.images)}"
    assert thumbnail(fake_run.images, str(inside.relative_to(fake_run.images))) is not None
    assert thumbnail(fake_run.images, outside) is None and thumbnail(fake_run.images, str(inside)) is None
    (tmp_path / "broken.png").write_bytes(b"no image")
    assert thumbnail(tmp_path, "broken.png") is None
