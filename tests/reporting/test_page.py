from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from throughline.files import write_atomically
from throughline.reporting.gallery import Part, make_gallery, parts, thumbnail
from throughline.reporting.page import write_page
from throughline.reporting.runs import read_run
from throughline.reporting.summaries import groups
from throughline.reporting.tables import DRAWN_NOTE

if TYPE_CHECKING:
    from conftest import FakeRun

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
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
            assert value is None or value.startswith(("data:image/", "#")), (tag, name, value)
        assert not any(name.startswith("on") for name in attributes), tag
    assert "@import" not in page and not re.search(r"url\((?!#)", page)
    policy = next(a for tag, a in reader.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert str(policy["content"]).startswith("default-src 'none'")


def test_what_a_model_wrote_stays_text(fake_run: FakeRun, page: str) -> None:
    assert fake_run.attack not in page and "&lt;script&gt;alert" in page
    assert sum(tag == "script" for tag, _ in Reader(page).tags) == 1


def test_the_page_has_every_section_and_says_that_the_world_is_drawn(page: str) -> None:
    ids = {attributes.get("id") for _, attributes in Reader(page).tags}
    assert {"results", "paths", "rounds", "training", "gallery", "run"} <= ids
    assert DRAWN_NOTE in page
    assert page.count('role="img"') == 3
    assert "The run folder is complete." in page and "versions.torch" in page and "preset: demo" in page


def test_the_gallery_embeds_at_most_48_pictures_right_and_wrong(page: str) -> None:
    pictures = [a for tag, a in Reader(page).tags if tag == "img"]
    assert len(pictures) == 48
    assert all(str(a["src"]).startswith("data:image/jpeg;base64,") and a["alt"] for a in pictures)
    verdicts = {a["data-right"] for _, a in Reader(page).tags if "data-right" in a}
    assert verdicts == {"yes", "no"}


def test_the_same_run_gives_the_same_bytes_and_no_path_of_this_machine(fake_run: FakeRun, page: str) -> None:
    assert write_page(fake_run.folder, fake_run.images).read_text() == page
    assert str(fake_run.folder.parent) not in page and str(fake_run.images) not in page


def test_the_deciding_method_is_half_wrong_where_it_can_be(fake_run: FakeRun) -> None:
    run = read_run(fake_run.folder)
    gallery = make_gallery(run, groups(run.results)[0], None, limit=8)
    assert gallery is not None
    assert (len(gallery.cards), gallery.right, gallery.chosen_by) == (8, 4, "mtct_sarr")
    assert {card.domain for card in gallery.cards} == {"painting", "sketch"}
    assert gallery.cards[0].entries[0].method == "zero_shot"
    assert [said.answer for said in gallery.cards[0].entries[0].said] == ["label", "reasoning", "likelihood"]


def test_a_run_without_images_or_predictions_still_has_a_page(make_run: Callable[..., FakeRun]) -> None:
    fake = make_run(methods=("cls",), seeds=(0,), targets=("sketch",))
    assert "--images DIR" in write_page(fake.folder).read_text()
    for file in fake.folder.glob("units/*/*"):
        file.unlink()
    text = write_page(fake.folder, fake.images).read_text()
    assert "no predictions yet" in text and "missing or unreadable" in text


def test_an_image_folder_named_by_the_config_is_used(make_run: Callable[..., FakeRun]) -> None:
    fake = make_run(methods=("cls",), seeds=(0,), targets=("sketch",))
    write_atomically(fake.folder / "config.yaml", f"data: {{images: {fake.images}}}\n")
    assert "data:image/jpeg" in write_page(fake.folder).read_text()


def test_chains_fall_into_stages_and_nothing_is_lost() -> None:
    found = parts("so <SUMMARY>a</SUMMARY> between <CONCLUSION>b</CONCLUSION><REASONING>never closed")
    assert found == (
        Part(None, "so"),
        Part("SUMMARY", "a"),
        Part(None, "between"),
        Part("CONCLUSION", "b"),
        Part(None, "<REASONING>never closed"),
    )
    assert parts("") == () and len(parts("x" * 100_000)[0].text) < 5000


def test_an_id_that_leads_out_of_the_image_folder_shows_nothing(fake_run: FakeRun, tmp_path: Path) -> None:
    inside = next(fake_run.images.rglob("*.png"))
    outside = f"../{fake_run.images.name}/{inside.relative_to(fake_run.images)}"
    assert thumbnail(fake_run.images, str(inside.relative_to(fake_run.images))) is not None
    assert thumbnail(fake_run.images, outside) is None and thumbnail(fake_run.images, str(inside)) is None
    (tmp_path / "broken.png").write_bytes(b"no image")
    assert thumbnail(tmp_path, "broken.png") is None


@pytest.mark.skipif(BROWSER is None, reason="no headless browser on this machine")
def test_a_browser_opens_the_page_and_the_filters_work(fake_run: FakeRun, tmp_path: Path) -> None:
    path = write_page(fake_run.folder, fake_run.images)
    command = [str(BROWSER), "--headless", "--disable-gpu", f"--user-data-dir={tmp_path}", "--dump-dom"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--no-sandbox")  # a browser run by root refuses to start otherwise
    shown = subprocess.run(
        [*command, path.resolve().as_uri()], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    assert re.search(r"<output[^>]*>48 of 48 images</output>", shown)
