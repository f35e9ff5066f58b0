import csv
import hashlib
import os
import shutil
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from throughline.core.errors import ThroughlineError
from throughline.domains.checks import check_images
from throughline.domains.folders import read_images
from throughline.domains.images import load_image
from throughline.domains.listing import find_images
from throughline.domains.samples import ImageSet


def test_domains_and_classes_come_in_sorted_order_and_ids_are_relative_paths(tree):
    images = read_images(tree)
    assert images.domains == ("art", "photo", "sketch")
    assert images.classes == ("cat", "dog")
    assert images.samples[0].id == "art/cat/0.png"
    assert images.samples[0].labels == ("cat",)
    assert len(images.in_domain("photo")) == 12
    sample = images.by_id["sketch/dog/3.png"]
    assert sample.image_sha256 == hashlib.sha256(sample.path.read_bytes()).hexdigest()


def test_the_order_in_a_domain_is_that_of_torchvisions_image_folder(tree, paint, tmp_path):
    torchvision_datasets = pytest.importorskip("torchvision.datasets")
    for name in ("photo/dog/.hidden.png", "photo/dog/UPPER.JPG", "photo/dog/10.png", "photo/dog/9.Png"):
        paint(tree / name)
    for name in ("photo/dog/nested/deep/z.png", "photo/dog/nested/a.png", "photo/dog/nested-b/a.png"):
        paint(tree / name)
    for name in ("photo/dog/Zebra 1.png", "photo/dog/é.png", "photo/dog/.thumbs/t.png", "photo/ape/x.png"):
        paint(tree / name)
    (tree / "photo/dog/notes.txt").write_text("no image")
    elsewhere = paint(tmp_path / "elsewhere" / "linked.png").parent
    (tree / "photo/dog/link").symlink_to(elsewhere)
    (tree / "photo/horse").symlink_to(elsewhere)
    expected = [
        (Path(path).relative_to(tree / "photo").as_posix(), label)
        for path, label in torchvision_datasets.ImageFolder(str(tree / "photo")).samples
    ]
    found = read_images(tree).in_domain("photo")
    assert [sample.id.removeprefix("photo/") for sample in found] == [path for path, _ in expected]
    names = ["ape", "cat", "dog", "horse"]
    assert [sample.label for sample in found] == [names[label] for _, label in expected]


def test_a_class_missing_in_one_domain_does_not_shift_labels(tree, paint):
    paint(tree / "art" / "ape" / "0.png")
    images = read_images(tree)
    assert images.classes == ("ape", "cat", "dog")
    assert {sample.label for sample in images.in_domain("photo")} == {"cat", "dog"}


def test_a_link_back_into_its_own_folder_is_not_followed(tree):
    (tree / "photo" / "dog" / "again").symlink_to(tree / "photo")
    (tree / "photo" / "loop").symlink_to(tree)
    (tree / "world").symlink_to(tree)
    images = read_images(tree)
    assert len(images.samples) == 36
    assert images.classes == ("cat", "dog")


def _write_table(root: Path, ending: str, rows: list[dict[str, str]]) -> Path:
    table = root / f"list{ending}"
    if ending == ".csv":
        with table.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), table)
    return table


def _as_rows(images: ImageSet) -> list[dict[str, str]]:
    return [{"image": s.id, "domain": s.domain, "label": s.label} for s in images.samples]


ACCENTED = "caf\u00e9", "한글", "\u00e9té"  # composed


@pytest.mark.parametrize("name", ACCENTED)
@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_names_stored_decomposed_are_those_of_other_folders_and_of_tables(tree, ending, name):
    decomposed = unicodedata.normalize("NFD", name)
    before = read_images(tree)
    for domain, spelt in (("art", decomposed), ("photo", name), ("sketch", name)):
        (tree / domain / "dog").rename(tree / domain / spelt)
    (tree / "art/cat/0.png").rename(tree / "art/cat" / f"{decomposed}.png")
    (tree / "sketch").rename(tree / f"sketch {decomposed}")
    images = read_images(tree)
    assert images.classes == tuple(sorted(("cat", name))) and images.domains == ("art", "photo", f"sketch {name}")
    assert [s.image_sha256 for s in images.samples if s.label == name and s.domain == "art"] == [
        s.image_sha256 for s in before.samples if s.label == "dog" and s.domain == "art"
    ]
    assert all(sample.path.is_file() for sample in images.samples)
    assert read_images(_write_table(tree, ending, _as_rows(images))).samples == images.samples
    assert not [d for d in check_images(tree).defects if d.kind == "class_missing"]


def test_the_same_folder_in_two_spellings_is_an_error(tree, paint):
    for form in ("NFC", "NFD"):
        paint(tree / "art" / unicodedata.normalize(form, "café") / "0.png")
    with pytest.raises(ThroughlineError, match=r"art/café/0.png is listed more than once.*accents"):
        read_images(tree)


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_paths_of_windows_in_a_table_are_read(tree, ending):
    images = read_images(tree)
    backslash = [row | {"image": row["image"].replace("/", "\\")} for row in _as_rows(images)]
    assert read_images(_write_table(tree, ending, backslash)).samples == images.samples
    backslash[0]["image"] = ".\\" + backslash[0]["image"]
    assert read_images(_write_table(tree, ending, backslash)).samples == images.samples
    for elsewhere in ("C:\\data\\art\\cat\\0.png", "C:/data/art/cat/0.png", "\\\\server\\share\\0.png"):
        backslash[0]["image"] = elsewhere
        with pytest.raises(ThroughlineError, match=r"outside the table's folder.*relative"):
            read_images(_write_table(tree, ending, backslash))


def test_a_backslash_in_a_files_own_name_stays(tree):
    (tree / "art/cat/0.png").rename(tree / "a\\b.png")
    row = {"image": "a\\b.png", "domain": "art", "label": "cat"}
    assert read_images(_write_table(tree, ".csv", [row])).samples[0].path == tree / "a\\b.png"


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_a_gif_is_an_image_in_folders_tables_and_for_predict(tree, ending):
    frames = [Image.new("RGB", (2, 2), colour) for colour in ("red", "blue")]
    path = tree / "art/cat/moving.GIF"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    images = read_images(tree)
    assert "art/cat/moving.GIF" in images.by_id and path in find_images([tree])
    assert read_images(_write_table(tree, ending, _as_rows(images))).samples == images.samples
    assert load_image(path).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("between", [True, False])
def test_splits_are_not_read_as_classes_or_domains(tree, tmp_path, between):
    for name in ("train", "val"):
        shutil.copytree(tree / "art" if between else tree, tmp_path / "sets" / ("art/" if between else "") / name)
    what = "the classes of art" if between else "the domains"
    with pytest.raises(ThroughlineError, match=f"train, val: splits are taken for {what}.*<domain>/<class>"):
        read_images(tmp_path / "sets")
    (tree / "photo/dog").rename(tree / "dogs")
    shutil.rmtree(tree / "photo/cat")
    (tree / "dogs").rename(tree / "photo/train")
    assert "train" in read_images(tree).classes
    (tree / "photo/train").rename(tree / "dogs")
    (tree / "photo/train").mkdir()
    (tree / "dogs").rename(tree / "photo/train/dog")
    with pytest.raises(ThroughlineError, match="train: splits are taken for the classes of photo"):
        read_images(tree)


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_a_table_of_a_folders_images_is_the_same_image_set(tree, ending):
    folder = read_images(tree)
    rows = [{"image": s.id, "domain": s.domain, "label": s.label} for s in reversed(folder.samples)]
    table = read_images(_write_table(tree, ending, rows))
    assert table.samples == folder.samples
    assert table.fingerprint() == folder.fingerprint()


def test_the_fingerprint_knows_content_and_no_place(tree, tmp_path):
    before = read_images(tree).fingerprint()
    moved = tree.rename(tmp_path / "moved")
    assert read_images(moved).fingerprint() == before
    assert read_images(moved, name="other").fingerprint() == before
    (moved / "art/cat/0.png").write_bytes((moved / "art/cat/1.png").read_bytes())
    assert read_images(moved).fingerprint() != before


ROW = {"image": "art/cat/0.png", "domain": "art", "label": "cat"}


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ([{"image": "a.png", "domain": "art", "class": "cat"}], "label"),
        ([ROW | {"domain": " "}], "row 1 has no domain"),
        ([ROW, ROW | {"label": "dog"}], "art/cat/0.png is listed more than once"),
        ([ROW | {"image": "/somewhere/else.png"}], "/somewhere/else.png"),
        ([ROW | {"image": "art/cat/none.png"}], "none.png"),
    ],
)
@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_a_faulty_table_is_an_error_that_names_the_fault(tree, ending, rows, named):
    with pytest.raises(ThroughlineError, match=named):
        read_images(_write_table(tree, ending, rows))


def test_groups_and_labels_that_are_numbers_come_as_text(tree):
    rows = [ROW | {"label": 3, "group": 7}]
    sample = read_images(_write_table(tree, ".parquet", rows)).samples[0]
    assert (sample.label, sample.group) == ("3", "7")


@pytest.mark.parametrize("name", ["broken.csv", "broken.parquet"])
def test_a_table_that_is_no_table_is_an_error_and_no_traceback(tmp_path, name):
    (tmp_path / name).write_bytes(b"\xff\xfe\x00nothing")
    with pytest.raises(ThroughlineError, match=name):
        read_images(tmp_path / name)


def test_what_is_no_image_folder_is_named(tree, tmp_path):
    with pytest.raises(ThroughlineError, match=r"no such folder.*nowhere"):
        read_images(tmp_path / "nowhere")
    with pytest.raises(ThroughlineError, match="a file where a folder"):
        read_images(tree / "art/cat/0.png")
    (tmp_path / "bare").mkdir()
    with pytest.raises(ThroughlineError, match=r"no images found.*<domain>/<class>/<image>"):
        read_images(tmp_path / "bare")
    (tree / "extra").mkdir()
    with pytest.raises(ThroughlineError, match="domain folder extra"):
        read_images(tree)


def test_a_file_that_cannot_be_opened_is_named(tree):
    (tree / "art/cat/gone.png").symlink_to(tree / "nowhere.png")
    with pytest.raises(ThroughlineError, match=r"cannot read the image.*gone\.png"):
        read_images(tree)


def test_a_named_pipe_among_the_images_does_not_hang(tree):
    os.mkfifo(tree / "art/cat/pipe.png")
    with pytest.raises(ThroughlineError, match=r"pipe\.png"):
        read_images(tree)


def test_an_unknown_target_names_the_nearest_domain(tree):
    images = read_images(tree)
    images.require_target("sketch")
    with pytest.raises(ThroughlineError, match="did you mean sketch"):
        images.require_target("scetch")


def test_one_domain_only_cannot_be_held_out(tree):
    (tree / "photo").rename(tree.parent / "photo")
    (tree / "sketch").rename(tree.parent / "sketch")
    with pytest.raises(ThroughlineError, match="only one domain"):
        read_images(tree).require_target("art")


def named_table(tree, rows):
    table = tree / "images.csv"
    table.write_text("".join(f"{line}\n" for line in ("image,domain,label,class_name", *rows)))
    return table


def test_a_table_names_its_classes_once_or_in_every_row(tree):
    rows = ["photo/cat/0.png,photo,c1,house cat | kitty", "photo/cat/1.png,photo,c1,", "photo/dog/0.png,photo,c2,"]
    images = read_images(named_table(tree, rows))
    assert images.classes == ("c1", "c2")
    assert images.names == {"c1": ("house cat", "kitty")}
    without = [row.rpartition(",")[0] + "," for row in rows]
    assert read_images(named_table(tree, without)).names == {}
    assert read_images(named_table(tree, without)).fingerprint() == images.fingerprint()


def test_a_parquet_table_names_its_classes_too(tree):
    import pandas as pd

    rows = [("photo/cat/0.png", "photo", "c1", "house cat"), ("photo/dog/0.png", "photo", "c2", None)]
    table = tree / "images.parquet"
    pd.DataFrame(rows, columns=["image", "domain", "label", "class_name"]).to_parquet(table)
    assert read_images(table).names == {"c1": ("house cat",)}


def test_a_class_with_two_names_is_an_error(tree):
    rows = ["photo/cat/0.png,photo,c1,cat", "photo/cat/1.png,photo,c1,kitty"]
    with pytest.raises(ThroughlineError, match="the class c1 has two names"):
        read_images(named_table(tree, rows))
