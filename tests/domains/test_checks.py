import os
import shutil
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from throughline.core.errors import ThroughlineError
from throughline.domains.checks import check_images
from throughline.domains.images import bits_in_use


def kinds(root, severity=None, **settings):
    report = check_images(root, **settings)
    return [defect.kind for defect in report.defects if severity in (None, defect.severity)]


def the_one(root, kind, severity, **settings):
    """The only defect of a kind, after asserting that it is of the given severity."""
    found = [defect for defect in check_images(root, **settings).defects if defect.kind == kind]
    assert [defect.severity for defect in found] == [severity]
    return found[0]


def test_a_sound_folder_has_counts_and_no_defects(tree):
    report = check_images(tree)
    assert report.defects == ()
    assert report.counts["sketch"] == {"cat": 6, "dog": 6}
    assert report.to_json()["images"] == 36
    assert report.to_json()["ok"] is True


def test_broken_files_are_errors_of_their_own_kinds(tree):
    whole = (tree / "art/cat/0.png").read_bytes()
    (tree / "art/cat/0.png").write_bytes(whole[: len(whole) // 2])
    (tree / "art/cat/1.png").write_bytes(b"")
    (tree / "art/cat/2.png").write_bytes(b"no image at all")
    report = check_images(tree)
    found = {defect.kind: defect.where for defect in report.errors}
    assert found == {
        "truncated": ("art/cat/0.png",),
        "empty": ("art/cat/1.png",),
        "unreadable": ("art/cat/2.png",),
    }


def test_two_empty_files_are_not_called_copies(tree):
    for name in ("art/cat/0.png", "photo/dog/0.png"):
        (tree / name).write_bytes(b"")
    assert kinds(tree) == ["empty", "empty"]


def test_a_missing_class_is_named_with_its_domain(tree):
    shutil.rmtree(tree / "sketch/dog")
    defect = the_one(tree, "class_missing", "warning")
    assert "dog" in defect.what and "sketch" in defect.what
    (tree / "sketch/dog").mkdir()
    assert "empty folder" in the_one(tree, "class_missing", "warning").what


def test_the_same_bytes_in_two_domains_would_train_on_the_target(tree):
    shutil.copy(tree / "art/cat/0.png", tree / "photo/cat/copy.png")
    defect = the_one(tree, "copy_across_domains", "error")
    assert set(defect.where) == {"art/cat/0.png", "photo/cat/copy.png"}


def test_the_same_bytes_under_two_labels_contradict_each_other(tree):
    shutil.copy(tree / "art/cat/0.png", tree / "art/dog/copy.png")
    assert set(the_one(tree, "conflicting_labels", "error").where) == {"art/cat/0.png", "art/dog/copy.png"}


def test_a_copy_in_the_same_place_is_a_warning(tree):
    shutil.copy(tree / "art/cat/0.png", tree / "art/cat/copy.png")
    the_one(tree, "copy", "warning")
    assert kinds(tree, "error") == []


def test_names_that_differ_only_in_case_are_errors(tree, paint):
    paint(tree / "Sketch" / "dog" / "0.png")
    paint(tree / "art" / "Dog" / "0.png")
    assert set(the_one(tree, "domain_twice", "error").where) == {"Sketch", "sketch"}
    assert set(the_one(tree, "class_twice", "error").where) == {"Dog", "dog"}


def test_files_that_are_not_listed_are_warnings(tree, paint):
    (tree / "art/cat/notes.txt").write_text("x")
    (tree / "art/cat/picture.heic").write_bytes(b"")
    (tree / "list.csv").write_text("image,domain,label\n")
    paint(tree / "art" / "loose.png")
    paint(tree / "art" / ".trash" / "x.png")
    assert the_one(tree, "not_an_image", "warning").where == ("art/cat/notes.txt",)
    assert the_one(tree, "unlisted_format", "warning").where == ("art/cat/picture.heic",)
    assert the_one(tree, "misplaced", "warning").where == ("art/loose.png",)
    assert the_one(tree, "hidden_folder", "warning").where == ("art/.trash",)


def test_the_first_frame_of_a_gif_is_an_image_and_domainbeds_split_another(tree):
    Image.new("RGB", (3, 3), "red").save(tree / "art/cat/moving.gif")
    defect = the_one(tree, "gif", "warning")
    assert defect.where == ("art/cat/moving.gif",) and "DomainBed" in defect.what
    assert check_images(tree).counts["art"]["cat"] == 7


def test_a_class_folder_that_is_empty_everywhere_is_told(tree):
    (tree / "art/ghost").mkdir()
    (tree / "art/ghost/notes.txt").write_text("x")
    assert the_one(tree, "empty_class", "warning").where == ("art/ghost",)
    assert check_images(tree).classes == ("cat", "dog")


@pytest.mark.parametrize("names", [("train", "val", "test"), ("Training", "Validation"), ("test_set", "train_set")])
@pytest.mark.parametrize("level", ["between", "above"])
def test_splits_in_the_place_of_classes_or_domains_are_an_error(tree, tmp_path, names, level):
    for name in names:
        shutil.copytree(tree, tmp_path / "above" / name)
        for domain in ("art", "photo"):
            shutil.copytree(tree / domain, tmp_path / "between" / domain / name)
    defect = the_one(tmp_path / level, "split_folders", "error")
    assert all(name in defect.what for name in names) and "<domain>/<class>" in defect.what


def test_a_class_called_train_is_no_split(tree):
    for domain in ("art", "photo", "sketch"):
        (tree / domain / "dog").rename(tree / domain / "train")
    assert kinds(tree) == []
    shutil.rmtree(tree / "art/cat")
    assert kinds(tree) == ["class_missing"]


def deep(path, bits, seed=0):
    values = np.random.default_rng(seed).integers(0, 2**bits, (8, 8), dtype=np.uint16)
    values[0, 0] = 2**bits - 1
    Image.fromarray(values).save(path)


@pytest.mark.parametrize("bits", [10, 12, 14, 15])
def test_sixteen_bit_images_of_a_domain_that_use_fewer_bits_are_told(tree, bits):
    for number, path in enumerate(sorted(tree.glob("art/*/*.png"))):
        deep(path, bits, number)
    for number, path in enumerate(sorted(tree.glob("photo/*/*.png"))):
        deep(path, 16 if number == 3 else 15, number + 50)  # dark by itself, in a domain that uses all bits
    defect = the_one(tree, "unused_bits", "warning")
    assert defect.where == ("art",) and f"12 of 12 16-bit images looked at in art use only {bits} bits" in defect.what


def test_some_images_of_twelve_bits_among_others_of_sixteen_are_told(tree):
    for number in range(6):
        deep(tree / f"art/cat/{number}.png", 12 if number < 2 else 16, number)
    assert "2 of 6 16-bit images looked at in art use only 12 bits" in the_one(tree, "unused_bits", "warning").what


def test_bits_in_use_of_colour_and_of_what_is_no_image(tmp_path):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    values = np.full((4, 4, 3), 4095, dtype=">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    header = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    (tmp_path / "colour.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    assert bits_in_use(tmp_path / "colour.png") == 12
    Image.new("RGB", (4, 4)).save(tmp_path / "eight.png")
    (tmp_path / "text.png").write_text("no image")
    names = ("eight.png", "text.png", "none.png")
    assert [bits_in_use(tmp_path / name) for name in names] == [None, None, None]


def test_a_symlink_loop_is_named_and_its_images_counted_once(tree):
    (tree / "art/cat/loop").symlink_to(tree / "art")
    assert the_one(tree, "symlink_loop", "warning").where == ("art/cat/loop",)
    assert check_images(tree).counts["art"] == {"cat": 6, "dog": 6}


def test_a_link_to_nothing_and_a_pipe_are_unreadable_and_do_not_hang(tree):
    (tree / "art/cat/gone.png").symlink_to(tree / "nowhere.png")
    os.mkfifo(tree / "art/cat/pipe.png")
    assert kinds(tree) == ["unreadable", "unreadable"]


def test_too_many_pixels_are_an_error(tree):
    Image.new("RGB", (40, 40)).save(tree / "art/cat/large.png")
    assert the_one(tree, "too_many_pixels", "error", max_pixels=1599).where == ("art/cat/large.png",)


def test_fewer_than_two_domains_or_classes_cannot_be_trained_on(tree):
    shutil.rmtree(tree / "sketch")
    shutil.rmtree(tree / "photo")
    assert kinds(tree) == ["too_few_domains"]
    shutil.rmtree(tree / "art/dog")
    assert kinds(tree) == ["too_few_domains", "too_few_classes"]
    shutil.rmtree(tree / "art")
    assert "too_few_domains" in kinds(tree)


def test_an_empty_domain_is_an_error_and_a_tiny_one_a_warning(tree, paint):
    (tree / "empty" / "cat").mkdir(parents=True)
    assert the_one(tree, "empty_domain", "error").where == ("empty",)
    paint(tree / "empty" / "cat" / "0.png")
    assert the_one(tree, "small_domain", "warning").where == ("empty",)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_without_reading_rights_is_an_error(tree):
    (tree / "art/cat").chmod(0)
    try:
        assert the_one(tree, "unreadable_folder", "error").where == ("art/cat",)
    finally:
        (tree / "art/cat").chmod(0o755)


def test_a_name_that_is_no_unicode_is_an_error(tree):
    shutil.copy(tree / "art/cat/0.png", os.fsencode(tree / "art" / "cat") + b"/\xff.png")
    the_one(tree, "bad_name", "error")


def test_a_table_is_checked_like_a_folder(tree):
    rows = ["image,domain,label,group"]
    rows += [f"art/cat/{number}.png,one,cat,g{number % 2}" for number in range(3)]
    rows += [f"art/dog/{number}.png,two,dog,g{number % 2}" for number in range(3)]
    (tree / "list.csv").write_text("\n".join([*rows, "none.png,two,cat,"]))
    report = check_images(tree / "list.csv")
    assert report.counts == {"one": {"cat": 3, "dog": 0}, "two": {"cat": 1, "dog": 3}}
    assert [defect.where for defect in report.errors] == [("none.png",)]
    groups = [defect.where for defect in report.defects if defect.kind == "group_across_domains"]
    assert groups == [("g0", "g1")]


def test_progress_is_told_for_each_image(tree):
    seen = []
    check_images(tree, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(number, 36) for number in range(1, 37)]


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(ThroughlineError, match="no such folder"):
        check_images(tmp_path / "none")
