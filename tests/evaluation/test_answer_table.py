"""The CSV file of `predict`: cut anywhere it is completed to the same bytes, and another file stays as it was."""

import json

import pytest

from throughline.core.errors import ThroughlineError
from throughline.domains.tables import csv_text
from throughline.evaluation.answer_table import ASKED, COLUMNS, add_row, open_table, write_table

ASKED_NOW = {"model": "0" * 64, "no_chain": False, "min_confidence": 0.0}
CHAINS = (
    '<think> "a", b\nc </think>\ndog',
    "",
    "line\r\nwith a return, and ü",
    'he said ""no""',
    "\n\n",
    '"',
)
IMAGES = {f"photos/{number}, é.png": f"{number}" * 64 for number in range(len(CHAINS))}


def row_of(name, chain="", outcome="ok", label="dog"):
    return (name, label, "0.900000", "dog", "true", outcome, chain)


ROWS = {name: row_of(name, chain) for name, chain in zip(IMAGES, CHAINS, strict=True)}


def answer(path, images=IMAGES, asked=ASKED_NOW):
    """What a call does: opens, answers what is left, puts in order. Gives the images it answered."""
    rows = open_table(path, asked, images)
    left = [name for name in images if name not in rows]
    for name in left:
        rows[name] = ROWS[name]
        add_row(path, ROWS[name])
    write_table(path, (rows[name] for name in images))
    return left


@pytest.fixture
def whole(tmp_path):
    path = tmp_path / "whole.csv"
    answer(path)
    return path


@pytest.mark.slow
def test_a_table_cut_at_any_byte_is_completed_to_the_same_bytes(whole):
    content = whole.read_bytes()
    ends = [len(csv_text([COLUMNS, *[*ROWS.values()][:count]]).encode()) for count in range(len(ROWS) + 1)]
    for cut in range(len(content) + 1):
        whole.write_bytes(content[:cut])
        left = answer(whole)
        assert whole.read_bytes() == content, cut
        assert len(left) == len(ROWS) - sum(end <= cut for end in ends[1:]), cut  # none is answered twice


def test_rows_are_on_disk_as_soon_as_they_are_there(tmp_path):
    path = tmp_path / "answers.csv"
    open_table(path, ASKED_NOW, IMAGES)
    for count, row in enumerate(ROWS.values(), start=1):
        add_row(path, row)
        assert path.read_bytes() == csv_text([COLUMNS, *[*ROWS.values()][:count]]).encode()


def test_what_came_to_the_folder_since_is_answered_and_put_in_its_place(whole):
    names = [*IMAGES]
    few = {name: IMAGES[name] for name in (names[3], names[0])}
    whole.unlink()
    answer(whole, few)
    assert answer(whole) == [name for name in names if name not in few]
    assert whole.read_bytes() == csv_text([COLUMNS, *ROWS.values()]).encode()


def test_an_image_that_could_not_be_read_is_asked_about_again(tmp_path):
    path, (good, broken, *_) = tmp_path / "answers.csv", IMAGES
    open_table(path, ASKED_NOW, IMAGES | {broken: None})
    add_row(path, row_of(broken, outcome="error", label=""))
    add_row(path, ROWS[good])
    assert answer(path) == [name for name in IMAGES if name != good]
    assert path.read_bytes() == csv_text([COLUMNS, *ROWS.values()]).encode()


def without(name):
    return {other: content for other, content in IMAGES.items() if other != name}


@pytest.mark.parametrize(
    ("images", "asked", "said"),
    [
        (without([*IMAGES][2]), ASKED_NOW, f"another image, {[*IMAGES][2]}"),
        (IMAGES | {[*IMAGES][2]: "f" * 64}, ASKED_NOW, f"another image, {[*IMAGES][2]}"),
        ({"other.png": "e" * 64}, ASKED_NOW, "another image"),
        (IMAGES, ASKED_NOW | {"model": "1" * 64}, "model changed"),
        (IMAGES, ASKED_NOW | {"no_chain": True}, "no_chain: False → True"),
        (IMAGES, ASKED_NOW | {"min_confidence": 0.5}, "min_confidence: 0.0 → 0.5"),
    ],
)
def test_rows_of_something_else_are_told_in_a_line_and_left_alone(whole, images, asked, said):
    before = {path: path.read_bytes() for path in whole.parent.iterdir()}
    with pytest.raises(ThroughlineError, match="name another file with --csv") as error:
        open_table(whole, asked, images)
    assert said in str(error.value) and str(whole) in str(error.value)
    assert {path: path.read_bytes() for path in whole.parent.iterdir()} == before


@pytest.mark.parametrize(
    "content",
    [
        b"image,label\na.png,dog\n",
        b"my notes\n",
        b"\x89PNG\r\n\x1a\n\x00\xff",
        csv_text([COLUMNS]).encode() + b"a.png,dog\nb.png,cat\n",
        csv_text([COLUMNS]).encode() + b'a.png,"dog\nb.png,cat\n"x"',
        csv_text([COLUMNS]).replace("\n", "\r\n").encode() + b"a.png,dog,0.9,dog,true,ok,\r\n",
    ],
)
def test_a_file_of_something_else_is_left_alone(tmp_path, content):
    path = tmp_path / "answers.csv"
    path.write_bytes(content)
    with pytest.raises(ThroughlineError, match="other than answers"):
        open_table(path, ASKED_NOW, IMAGES)
    assert [*tmp_path.iterdir()] == [path] and path.read_bytes() == content


@pytest.mark.parametrize("record", [None, b"", b"[]", b'{"asked": 3}', b"\xff"])
def test_rows_without_the_record_of_what_was_asked_are_left_alone(whole, record):
    beside = whole.with_name(whole.name + ASKED)
    beside.unlink() if record is None else beside.write_bytes(record)
    before = whole.read_bytes()
    with pytest.raises(ThroughlineError, match="other than answers"):
        open_table(whole, ASKED_NOW, IMAGES)
    assert whole.read_bytes() == before


def test_the_record_says_what_the_rows_are_answers_to(whole):
    assert json.loads(whole.with_name("whole.csv.asked.json").read_text()) == {"asked": ASKED_NOW, "images": IMAGES}
