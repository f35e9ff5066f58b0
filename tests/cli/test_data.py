import csv
import errno
import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from throughline.cli.main import main
from throughline.domains.folders import read_images
from throughline.domains.images import image_bytes

CLS = ("--set", "data.drawn=null", "--set", "methods=cls", "--set", "data.targets=all", "--set", "chains.teacher=null")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two domains, two classes, five different images in each."""
    root = tmp_path / "images"
    for place, name in enumerate(f"{d}/{c}/{n}.png" for d in ("art", "photo") for c in "xy" for n in range(5)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4, 3), place, dtype=np.uint8)).save(root / name)
    return root


@pytest.fixture
def no_forecast(monkeypatch):
    """A dry run says no costs, which take it a second."""
    monkeypatch.setattr("throughline.experiment.forecast.forecast_run", lambda *_: "not asked for")


def in_process_of_its_own(*arguments: object) -> subprocess.CompletedProcess:
    """Runs the command and prints, last on stderr, which heavy libraries it loaded."""
    code = (
        "import sys; from throughline.cli.main import main; code = main(sys.argv[1:]); "
        "print([m for m in ('torch', 'transformers', 'torchvision') if m in sys.modules], file=sys.stderr); "
        "sys.exit(code)"
    )
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_check_prints_the_counts_and_loads_no_torch(folder):
    ended = in_process_of_its_own("data", "check", folder)
    assert (ended.returncode, ended.stderr) == (0, "[]\n")
    assert "art" in ended.stdout and "20 images, 0 errors, 0 warnings: fit for training" in ended.stdout


def test_split_and_draw_load_no_torch(folder, tmp_path):
    for arguments in (
        ("split", folder, "--target", "art", "--trial-seed", "0"),
        ("draw", tmp_path / "w", "--per-class", "1", "--styles", "photo"),
    ):
        ended = in_process_of_its_own("data", *arguments)
        assert (ended.returncode, ended.stderr) == (0, "[]\n")


def test_check_ends_with_1_and_names_every_defect_when_training_would_be_wrong(folder, capsys):
    (folder / "art/x/0.png").write_bytes(b"")
    (folder / "art/x/note.txt").write_text("x")
    shutil.copy(folder / "art/x/1.png", folder / "photo/y/copy [red].png")
    assert main(["data", "check", str(folder)]) == 1
    printed = capsys.readouterr().out
    assert "error: art/x/0.png: the file has zero bytes" in printed
    assert "warning: files that are not images are left out: art/x/note.txt" in printed
    assert "photo/y/copy [red].png" in printed
    assert "training would be wrong" in printed


def test_check_prints_json_alone(folder, capsys):
    shutil.rmtree(folder / "art/y")
    assert main(["data", "check", str(folder), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["counts"] == {"art": {"x": 5, "y": 0}, "photo": {"x": 5, "y": 5}}
    assert [(d["kind"], d["severity"], d["where"]) for d in report["defects"]] == [
        ("class_missing", "warning", ["art/y"])
    ]
    assert report["ok"] is True


def test_an_image_of_several_labels_is_one_image_of_its_domain(folder, capsys):
    several = [("x|y", "x"), ("x", "x"), ("y", "y")]
    rows = [f"art/{label}/{n}.png,art,{label},{labels}\n" for n, (labels, label) in enumerate(several)]
    (folder / "several.csv").write_text("image,domain,label,labels\n" + "".join(rows))
    main(["data", "check", str(folder / "several.csv")])
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    rows = [words for words in printed if words[:1] in (["x"], ["y"], ["all"])]
    assert rows == [["x", "2"], ["y", "2"], ["all", "3"]]


@pytest.mark.usefixtures("no_forecast")
@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("\U0001f600", 1, "no letter or digit"),
        ("x++", 1, "differ only in case, blanks or punctuation"),
        ("<b>bold</b>", 1, "line break or a tag"),
        ("two\nlines", 1, "line break or a tag"),
        ("late, but red", 0, "contains a comma"),
    ],
)
def test_class_names_that_answers_cannot_be_told_by_are_told_before_a_unit_starts(folder, capsys, name, code, said):
    for domain in ("art", "photo"):
        shutil.copytree(folder / domain / "x", folder / domain / name)
        for number in range(5):
            image = Image.fromarray(np.full((4, 5, 3), 10 * number + len(domain), dtype=np.uint8))
            image.save(folder / domain / name / f"{number}.png")
    assert main(["data", "check", str(folder)]) == code
    assert said in capsys.readouterr().out
    assert main(["run", "tiny", "--dry-run", "--set", f"data.images={folder}", *CLS]) == code
    errors = capsys.readouterr().err
    assert said in errors and errors.splitlines()[-1].startswith("warning: " if code == 0 else "throughline: error: ")


@pytest.mark.usefixtures("no_forecast")
@pytest.mark.parametrize(
    ("names", "code", "said"),
    [
        ("tench, Tinca", 0, "the class name 'tench, Tinca' of x contains a comma"),
        ("<b>tench</b>", 1, "the class name '<b>tench</b>' of x contains a line break or a tag"),
        ("two\nlines", 1, "of x contains a line break or a tag"),
        ("tench|Tinca <br>", 0, "the class name 'Tinca <br>' of x contains a line break or a tag"),
        ("tench|fish?", 0, "the class name 'fish?' of x is read from an answer as x, from a sentence as no class"),
        ("tench|Tinca, tinca", 0, ""),
    ],
)
def test_display_names_and_synonyms_are_told_alike_from_a_table_and_a_config(folder, capsys, names, code, said):
    table = folder / "images.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "domain", "label", "class_name"])
        for path in sorted(folder.rglob("*.png")):
            id = path.relative_to(folder).as_posix()
            writer.writerow([id, *id.split("/")[:2], names if id.split("/")[1] == "x" else ""])
    assert main(["data", "check", str(table)]) == code
    told = capsys.readouterr().out
    assert said in told if said else "0 warnings" in told
    named = ["--set", f"data.names={json.dumps({'x': names.split('|')})}", "--set", f"data.images={folder}"]
    for of_images in (["--set", f"data.images={table}"], named):
        assert main(["run", "tiny", "--dry-run", *of_images, *CLS]) == code
        assert said in (told := capsys.readouterr().err) and bool(said) == bool(told)


@pytest.mark.usefixtures("no_forecast")
def test_one_class_split_folders_and_narrow_images_are_told_by_a_dry_run(folder, tmp_path, capsys):
    def dry_run(root: Path) -> tuple[int, str]:
        code = main(["run", "tiny", "--dry-run", "--set", f"data.images={root}", *CLS])
        return code, capsys.readouterr().err

    for number in range(5):
        Image.fromarray(np.full((4, 4), 4090 + number, np.uint16)).save(folder / "art/x" / f"{number}.png")
    assert dry_run(folder)[0] == 0 and "4 of 4 16-bit images looked at in art use only 12 bits" in dry_run(folder)[1]
    for name in ("train", "val"):
        shutil.copytree(folder, tmp_path / "splits" / name)
    code, said = dry_run(tmp_path / "splits")
    assert code == 1 and "train, val: splits are taken for the domains" in said and said.count("\n") == 1
    for domain in ("art", "photo"):
        shutil.rmtree(folder / domain / "y")
    code, said = dry_run(folder)
    assert code == 1 and "only one class (x)" in said and said.count("\n") == 1


@pytest.mark.usefixtures("no_forecast")
def test_a_dry_run_for_programs_has_the_warnings(folder, capsys):
    (folder / "art" / "ghost").mkdir()
    command = ["run", "tiny", "--dry-run", "--json", "--set", f"data.images={folder}", *CLS]
    assert main(command) == 0
    (warning,) = json.loads(capsys.readouterr().out)["warnings"]
    assert warning.startswith("warning: images: the class folder art/ghost is empty")


def test_check_takes_another_limit_of_pixels(folder, capsys):
    assert main(["data", "check", str(folder), "--max-pixels", "15"]) == 1
    assert "4 x 4 has more than 15 pixels" in capsys.readouterr().out


def test_split_prints_sample_ids_in_domainbeds_order(folder, capsys):
    assert main(["data", "split", str(folder), "--target", "photo", "--trial-seed", "0", "--json"]) == 0
    printed = capsys.readouterr()
    answer = json.loads(printed.out)
    assert set(answer) == {"target", "domains"} and answer["target"] == "photo"
    listed = [f"art/{label}/{number}.png" for label in "xy" for number in range(5)]
    # Seed and shuffle of (0, 0) over ten keys, computed once outside this project.
    order = [2, 3, 8, 1, 4, 5, 0, 9, 6, 7]
    assert answer["domains"]["art"]["out"] == [listed[place] for place in order[:2]]
    assert answer["domains"]["art"]["in"] == [listed[place] for place in order[2:]]
    assert set(answer["domains"]) == {"art", "photo"}
    assert printed.err == ""


def test_split_with_groups_says_that_it_is_no_longer_domainbeds(folder, capsys):
    rows = ["image,domain,label,group"]
    rows += [f"{s.id},{s.domain},{s.label},{s.id[-5]}" for s in read_images(folder).samples]
    (folder / "list.csv").write_text("\n".join(rows))
    source = str(folder / "list.csv")
    assert main(["data", "split", source, "--target", "art", "--trial-seed", "1", "--json"]) == 0
    printed = capsys.readouterr()
    answer = json.loads(printed.out)
    assert answer["domainbed"] is False and "no longer DomainBed's" in printed.err
    for parts in answer["domains"].values():
        assert not {id[-5] for id in parts["in"]} & {id[-5] for id in parts["out"]}


def test_split_by_concepts_says_what_is_shared_and_what_no_longer_is(folder, capsys):
    rows = ["image,domain,label,group"]
    rows += [f"{s.id},{s.domain},{s.label},{s.id[-7:]}" for s in read_images(folder).samples]
    (folder / "list.csv").write_text("\n".join(rows))
    asked = ["data", "split", str(folder / "list.csv"), "--target", "art"]
    assert main([*asked, "--rule", "domainbed"]) == 0
    printed = capsys.readouterr()
    assert "8 of 10 target images are of a group that is trained on" in printed.err
    assert "DomainBed" not in printed.err
    assert main([*asked, "--rule", "concepts"]) == 0
    printed = capsys.readouterr()
    assert "0 of 4 target images" in printed.err and "no longer DomainBed's" in printed.err
    assert [line.split() for line in printed.out.splitlines()[1:]] == [
        ["art", "4", "0", "target"],
        ["photo", "6", "0", "source"],
    ]


def test_split_prints_a_table_for_a_reader(folder, capsys):
    assert main(["data", "split", str(folder), "--target", "photo", "--trial-seed", "0"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1:] == [["art", "8", "2", "source"], ["photo", "8", "2", "target"]]
    assert main(["data", "split", str(folder), "--target", "photo"]) == 0  # of trial seed 0, as `evaluate`
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == lines


@pytest.mark.parametrize("command", [["check"], ["split", "--target", "art", "--trial-seed", "0"]])
def test_a_missing_folder_or_a_file_is_one_line(folder, capsys, command):
    for place, said in (
        (folder / "none", "no such folder"),
        (folder / "art/x/0.png", "a file where a folder"),
    ):
        assert main(["data", command[0], str(place), *command[1:]]) == 1
        printed = capsys.readouterr()
        assert printed.out == "" and printed.err.count("\n") == 1
        assert said in printed.err and str(place) in printed.err


def test_an_unknown_target_and_a_single_domain_are_one_line(folder, capsys):
    assert main(["data", "split", str(folder), "--target", "foto", "--trial-seed", "0"]) == 1
    assert "did you mean photo?" in capsys.readouterr().err
    shutil.rmtree(folder / "photo")
    assert main(["data", "split", str(folder), "--target", "art", "--trial-seed", "0"]) == 1
    assert "only one domain (art)" in capsys.readouterr().err
    assert main(["data", "check", str(folder)]) == 1
    assert "fewer than two domains" in capsys.readouterr().out


def test_draw_writes_a_world_that_passes_the_check(tmp_path, capsys):
    out = tmp_path / "world"
    assert main(["data", "draw", str(out), "--per-class", "2", "--styles", "sketch,photo", "--noise", "0.1"]) == 0
    images = read_images(out)
    assert images.domains == ("photo", "sketch")
    assert capsys.readouterr().out.startswith(f"{len(images.samples):,} images of 2 styles")
    assert main(["data", "check", str(out)]) == 0
    assert "warning: files" not in capsys.readouterr().out


def test_draw_refuses_what_it_cannot_draw_before_it_writes(tmp_path, capsys):
    out = str(tmp_path / "world")
    for arguments, code, said in (
        (["--styles", "watercolour"], 1, "watercolour"),
        (["--size", "8"], 1, "size is 8 px"),
        (["--occlusion", "0.95"], 1, "occlusion"),
        (["--auxiliary", "--styles", "photo"], 2, "exclude each other"),
        (["--per-class", "0"], 2, "greater than or equal to 1"),
    ):
        assert main(["data", "draw", out, *arguments]) == code
        printed = capsys.readouterr().err
        assert said in printed and printed.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_digits_writes_the_domains_once_and_never_over_them(tmp_path, capsys):
    out = str(tmp_path / "digits")
    assert main(["data", "digits", out, "--shift", "colour"]) == 0
    assert capsys.readouterr().out == f"1,797 images in {out}\n"
    assert main(["data", "digits", out, "--shift", "rotation"]) == 1
    assert "not empty" in capsys.readouterr().err
    assert len(list(Path(out).iterdir())) == 3


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_a_place_that_cannot_be_written_is_one_line_and_nothing_half_written(tmp_path, monkeypatch, capsys, reason):
    def write_bytes(path: Path, data: bytes) -> int:
        raise OSError(reason, os.strerror(reason), str(path))

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    assert main(["data", "digits", str(tmp_path / "out"), "--shift", "rotation"]) == 1
    printed = capsys.readouterr().err
    assert os.strerror(reason) in printed and printed.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_fetch_names_source_and_layout_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, said in (("pacs", "art_painting"), ("office_home", "Real World"), ("terra_incognita", "LILA")):
        assert main(["data", "fetch", name]) == 0
        told = capsys.readouterr().out
        assert said in told and f"throughline data fetch {name} DIR" in told and "--source domainbed" in told
    assert main(["data", "fetch", "nico", str(tmp_path / "nico")]) == 0
    assert list(tmp_path.iterdir()) == []
    capsys.readouterr()
    assert main(["data", "fetch", "camelyon17"]) == 0
    said = capsys.readouterr().out
    assert "licence: CC0" in said and "data import metadata.csv camelyon17 --form camelyon17" in said
    assert main(["data", "fetch"]) == 0
    listed = [line.split() for line in capsys.readouterr().out.splitlines() if line.split()]
    assert len(listed) == 2 + 1 + 20 + 3 and ["pacs", "common", "nature", "4", "7", "unknown"] in listed
    assert main(["data", "fetch", "pasc", "X"]) == 2
    assert "did you mean pacs?" in capsys.readouterr().err


def test_a_table_with_the_images_in_it_is_told_and_becomes_a_folder(tmp_path, capsys):
    places = itertools.product(("art", "photo"), (0, 1))
    rows = [
        {"image": {"bytes": image_bytes(Image.new("L", (4, 4), n)), "path": None}, "domain": domain, "label": label}
        for n, (domain, label) in enumerate(places)
    ]
    table = tmp_path / "train.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows), table)
    assert main(["data", "check", str(table)]) == 1
    assert f"the images are inside the table [{table}]" in (said := capsys.readouterr().err)
    assert f"throughline data import {table} DIR" in said
    assert main(["data", "import", str(table), str(tmp_path / "images")]) == 0
    images = read_images(tmp_path / "images")
    assert (images.domains, images.classes, len(images.samples)) == (("art", "photo"), ("0", "1"), 4)


def test_what_only_other_sets_take_is_refused(tmp_path, capsys):
    assert main(["data", "fetch", "open_styles", str(tmp_path / "set"), "--source", "hub"]) == 2
    assert "leave --source out" in capsys.readouterr().err
    assert main(["data", "fetch", "pacs", str(tmp_path / "pacs"), "--more"]) == 2
    assert "--more is an option of other sets [pacs]" in capsys.readouterr().err
    assert main(["data", "fetch", "nico", str(tmp_path / "nico"), "--archives", str(tmp_path)]) == 2
    assert "--archives and --source are options of other sets [nico]" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
