import io
from pathlib import Path

import pytest
from PIL import Image

from throughline.core.errors import ThroughlineError
from throughline.domains.benchmarks import BENCHMARKS, write_rows
from throughline.domains.class_lists import CLASS_LISTS
from throughline.domains.folders import read_images


def picture(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (4, 4), shade).save(buffer, "PNG")
    return buffer.getvalue()


def rows_of(count: int):
    for number in range(count):
        image = {"bytes": picture(number), "path": f"train/pic_{number:03d}.png"}
        yield {"image": image, "domain": "photo" if number % 2 else "sketch", "label": number % 3}


NAMES = ["dog", "elephant", "giraffe"]


def test_rows_become_a_folder_with_their_own_bytes_and_names(tmp_path):
    assert write_rows(rows_of(12), tmp_path / "pacs", NAMES) == 12
    images = read_images(tmp_path / "pacs")
    assert images.domains == ("photo", "sketch")
    assert images.classes == ("dog", "elephant", "giraffe")
    assert images.by_id["photo/elephant/pic_001.png"].path.read_bytes() == picture(1)


def test_rows_without_names_or_with_the_same_name_are_numbered(tmp_path):
    rows = [
        {"image": {"bytes": picture(n), "path": path}, "domain": "a", "label": "cup"}
        for n, path in enumerate([None, "x.png", "x.png"])
    ]
    write_rows(rows, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out/a/cup").iterdir()) == [
        "000000.png",
        "000002_x.png",
        "x.png",
    ]


def test_a_stopped_download_continues_and_writes_no_image_twice(tmp_path):
    def stopping():
        yield from rows_of(5)
        raise KeyboardInterrupt

    out = tmp_path / "pacs"
    with pytest.raises(KeyboardInterrupt):
        write_rows(stopping(), out, NAMES)
    assert not out.exists()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / ".pacs.partial").rglob("*.png")}
    assert len(kept) == 5
    inodes = {path.name: path.stat().st_ino for path in kept}
    write_rows(rows_of(12), out, NAMES)
    after = {path.name: path.stat().st_ino for path in out.rglob("*.png")}
    assert {name: after[name] for name in inodes} == inodes
    assert len(after) == 12
    assert [path.name for path in tmp_path.iterdir()] == ["pacs"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"domain": "../up"}, "no usable domain"),
        ({"label": None}, "no usable label"),
        ({"image": None}, "no image bytes"),
        ({"image": {"bytes": b"text", "path": None}}, "neither PNG"),
    ],
)
def test_a_row_that_cannot_be_written_is_named(tmp_path, change, named):
    row = next(rows_of(1)) | change
    with pytest.raises(ThroughlineError, match=f"row 0 .*{named}"):
        write_rows([row], tmp_path / "out", NAMES)
    assert not (tmp_path / "out").exists()


PAPER = {  # key: classes and domains in dataset_info.json of jiansheng-li/MLLMs, less names that stand there twice
    "common": {
        **{"PACS": (7, 4), "VLCS": (5, 2), "office_home": (65, 4), "domain_net": (345, 6), "NICO_DG": (60, 6)},
        **{"terra_incognita": (10, 1), "iwildcam_v2.0_processed": (206 - 1, 2), "fmow_v1.1_processed": (62, 2)},
        **{"sviro": (3, 10), "RNIST": (10, 1), "CMNIST": (10, 1)},
    },
    "specific": {
        **{"camelyon17_v1.0_processed": (2, 2), "HAM10000": (7, 4), "NIH-Chest": (21 - 1, 1), "CT-Xcov": (2, 1)},
        **{"XCOVFour": (4, 1), "drugood_assay": (2, 233), "drugood_protein": (2, 129), "drugood_size": (2, 249)},
        **{"drugood_scaffold": (2, 6401)},
    },
}


def size(domains):
    return domains if isinstance(domains, int) else len(domains)


@pytest.mark.parametrize("group", PAPER)
def test_the_catalogue_has_the_papers_sets_with_their_classes(group):
    sets = {benchmark.key: benchmark for benchmark in BENCHMARKS.values() if benchmark.group == group}
    assert sets.keys() == PAPER[group].keys()
    for key, (classes, domains) in PAPER[group].items():
        assert len(set(CLASS_LISTS[sets[key].lists])) == classes, key
        assert size(sets[key].domains) == domains or "the paper's file" in sets[key].note, key
        assert size(sets[key].domains) >= domains


def test_every_set_says_its_terms_or_that_they_are_unknown():
    for benchmark in BENCHMARKS.values():
        told = (benchmark.licence, benchmark.citation, benchmark.source, benchmark.images)
        assert all(told) and benchmark.subject in ("nature", "medical", "satellite", "molecule", "driving")
        shown = benchmark.describe(Path("images"))
        assert all(
            f"{what}: {text}" in shown for what, text in zip(("licence", "citation", "source"), told, strict=False)
        )


def test_the_domains_of_each_benchmark_are_in_the_order_of_domainbeds_environments():
    for benchmark in BENCHMARKS.values():
        if not isinstance(benchmark.domains, int):
            assert list(benchmark.domains) == sorted(benchmark.domains)
