"""The sets of DomainBed, fetched from small archives on loopback that have the form of the real ones."""

import hashlib
import io
import itertools
import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet
from pydantic import TypeAdapter
from tests.domains.small_archives import tar_of, zip_of

from throughline.cli.main import main
from throughline.core.errors import ThroughlineError, UsageError
from throughline.core.files import partial_folder
from throughline.domains import published
from throughline.domains.benchmarks import BENCHMARKS
from throughline.domains.class_lists import DOMAINBED
from throughline.domains.folders import read_images
from throughline.domains.published import PUBLISHED, RECORD, fetch_published

FOLDERS = {
    "pacs": ("PACS", "kfold"),
    "vlcs": ("VLCS", "VLCS"),
    "office_home": ("office_home", "OfficeHomeDataset_10072016"),
    "terra_incognita": ("terra_incognita", ""),
    "domain_net": ("domain_net", ""),
}
"""What DomainBed's downloader calls the folder of each set, and the folder in its archive."""
CLASSES = {name: DOMAINBED[BENCHMARKS[name].lists][:2] for name in FOLDERS}
SHADES = itertools.count()


def picture() -> bytes:
    """No two are alike."""
    buffer, number, image = io.BytesIO(), next(SHADES), Image.new("RGB", (4, 4))
    image.putpixel((0, 0), (number % 256, number // 256, 9))
    image.save(buffer, "PNG")
    return buffer.getvalue()


def images_of(name: str) -> dict[str, bytes]:
    """By path: in each domain, and in each of its classes, one image more than in the one before."""
    places = itertools.product(enumerate(BENCHMARKS[name].domains), enumerate(CLASSES[name], start=1))
    return {f"{d}/{c}/{n:05d}.png": picture() for (more, d), (many, c) in places for n in range(more + many)}


def counted(images: dict[str, bytes], name: str) -> list[int]:
    return [sum(path.startswith(f"{domain}/") for path in images) for domain in BENCHMARKS[name].domains]


def in_folder(images: dict[str, bytes], folder: str) -> dict[str, bytes]:
    return {f"{folder}/{path}": content for path, content in images.items()}


def parquet_of(images: dict[str, bytes], classes: tuple[str, ...]) -> bytes:
    """As the library `datasets` writes it: a class is a number, its name is in the metadata."""
    rows = []
    for path, content in images.items():
        domain, label, file = path.split("/")
        rows.append({"image": {"bytes": content, "path": file}, "domain": domain, "label": classes.index(label)})
    features = {"label": {"names": list(classes), "_type": "ClassLabel"}}
    table = pyarrow.Table.from_pylist(rows)
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    buffer = io.BytesIO()
    parquet.write_table(table.replace_schema_metadata(metadata), buffer)
    return buffer.getvalue()


def traps_of(images: dict[str, bytes]) -> tuple[bytes, bytes]:
    """Flat images and, in two files, what each shows where; one image shows two animals, one is of no wanted place."""
    names = {label: number for number, label in enumerate((*CLASSES["terra_incognita"], "car"))}
    flat = {"eccv_18_all_images_sm/elsewhere.png": picture()}
    categories = [{"id": number, "name": label} for label, number in names.items()]
    halves: list[dict[str, list[dict[str, object]]]] = [
        {"categories": [*categories], "images": [], "annotations": []} for _ in range(2)
    ]
    for number, (path, content) in enumerate(images.items()):
        domain, label, _ = path.split("/")
        file, half = f"{number:04d}.png", halves[number % 2]
        flat[f"eccv_18_all_images_sm/{file}"] = content
        # the real files have the number of a place as text or as a number
        place = domain.removeprefix("location_")
        half["images"].append({"id": file[:4], "file_name": file, "location": int(place) if number % 3 else place})
        half["annotations"].append({"image_id": file[:4], "category_id": names[label]})
    halves[0]["images"].append({"id": "x", "file_name": "elsewhere.png", "location": 7})
    halves[0]["annotations"] += [
        {"image_id": "x", "category_id": 0},
        {"image_id": "0000", "category_id": names["car"]},
        {"image_id": "0000", "category_id": names[CLASSES["terra_incognita"][1]]},
        {"image_id": "0000", "category_id": names[CLASSES["terra_incognita"][1]]},
    ]
    texts = {
        f"eccv_18_annotation_files/part{number}.json": json.dumps(half).encode() for number, half in enumerate(halves)
    }
    return tar_of(flat), tar_of(texts)


def content_of(
    file: str, name: str, images: dict[str, bytes], own: dict[str, bytes], duplicates: list[str], number: int, of: int
) -> bytes:
    """A file of a source: the `number`-th of `of` Parquet files, or an archive with what lies beside the images."""
    if file.endswith(".parquet"):
        return parquet_of(dict(itertools.islice(own.items(), number, None, of)), CLASSES[name])
    if file.endswith(".txt"):
        return "".join(f"{path}\n" for path in [*duplicates, "real/nothing/gone.jpg"]).encode()
    if name == "terra_incognita":
        return traps_of(images)[file != "eccv_18_all_images_sm.tar.gz"]
    if name == "domain_net":
        return zip_of({path: data for path, data in images.items() if f"{path.split('/')[0]}.zip" == file})
    beside = {"README.txt": b"read", f"__MACOSX/x/{BENCHMARKS[name].domains[0]}/{CLASSES[name][0]}/._0.png": b"mac"}
    return (tar_of if file.endswith(".tar.gz") else zip_of)(in_folder(images, FOLDERS[name][1]) | beside)


@pytest.fixture(scope="module")
def archives() -> tuple[dict[str, dict[str, bytes]], list[dict[str, Any]], dict[str, bytes]]:
    """The images of each set, the real rows with checksums and counts of small files, and these files by their keys."""
    images, contents = {name: images_of(name) for name in FOLDERS}, dict[str, bytes]()
    rows: list[dict[str, Any]] = json.loads(published._FILE.read_bytes())
    duplicates = [path for path in images["domain_net"] if path.endswith("00002.png")]
    for row in rows:
        name = row["name"]
        own = {path: data for path, data in images[name].items() if name != "domain_net" or path not in duplicates}
        first, *others = row["counts"]
        sums = [sum(counted(own, name)) + 1] if name == "terra_incognita" else counted(own, name)
        row["counts"] = {first: sums} | {variant: [1, 1, 1, 1] for variant in others}
        for origin in row["origins"]:
            files = [*origin["files"], *filter(None, (origin.get("annotations"), origin.get("duplicates")))]
            for number, file in enumerate(files):
                content = content_of(file["name"], name, images[name], own, duplicates, number, len(origin["files"]))
                contents[key := f"{name}/{origin['name']}/{file['name']}"] = content
                file |= {kind: hashlib.new(kind, content).hexdigest() for kind in ("sha256", "md5") if kind in file}
                file |= {"bytes": len(content) if "bytes" in file else 0, "sources": ["SERVER/gone", f"SERVER/{key}"]}
        images[name] = own
    return images, rows, contents


@pytest.fixture
def small(archives, server, monkeypatch):
    """The small files on loopback, each after a dead link; sets by name with the images that they have."""
    images, rows, contents = archives
    server.files |= contents
    text = json.dumps(rows).replace("SERVER/", server.address(""))
    read = TypeAdapter(list[published.Published]).validate_json(text)
    monkeypatch.setattr(published, "PUBLISHED", {row.name: row for row in read})
    return images


def fetched(name: str, tmp_path: Path, **options) -> dict[str, bytes]:
    """Fetches a set; its images by path."""
    fetch_published(name, tmp_path / name, lambda done, total: None, cache=tmp_path / "cache", **options)
    return {sample.id: sample.path.read_bytes() for sample in read_images(tmp_path / name).samples}


# what is written ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in FOLDERS if name != "terra_incognita"])
def test_a_set_has_the_images_of_its_archive_under_their_names(small, tmp_path, name):
    assert fetched(name, tmp_path) == small[name]
    record = json.loads((tmp_path / name / RECORD).read_text())
    assert record["source"] == "domainbed" and record["images"] == len(small[name])
    assert main(["data", "check", str(tmp_path / name)]) == 0


def test_camera_traps_are_sorted_as_domainbeds_loop_sorts_them(small, server, tmp_path):
    """Once for each annotation, whatever else the image shows; categories and places that are not wanted are not."""
    found = fetched("terra_incognita", tmp_path)
    wanted = sorted(small["terra_incognita"].values())
    first = small["terra_incognita"][f"location_100/{CLASSES['terra_incognita'][0]}/00000.png"]
    assert sorted(found.values()) == sorted([*wanted, first])
    for path, content in found.items():
        domain, label, _ = path.split("/")
        places = {other.rsplit("/", 1)[0] for other, data in small["terra_incognita"].items() if data == content}
        assert f"{domain}/{label}" in places | {f"location_100/{CLASSES['terra_incognita'][1]}"}
    record = json.loads((tmp_path / "terra_incognita" / RECORD).read_text())
    assert record["variant"] == "as DomainBed's script sorts them today"


def test_listed_duplicates_are_left_out_and_those_that_are_not_there_passed_over(small, server, tmp_path):
    fetched("domain_net", tmp_path)
    listed = server.files["domain_net/domainbed/domain_net_duplicates.txt"].splitlines()
    record = json.loads((tmp_path / "domain_net" / RECORD).read_text())
    assert record["left_out"] == {"listed as duplicates": len(listed) - 1}
    assert not list((tmp_path / "domain_net").rglob("00002.png"))


@pytest.mark.parametrize("name", ["pacs", "office_home", "domain_net"])
def test_parquet_of_the_hub_gives_the_same_images(small, tmp_path, name):
    assert fetched(name, tmp_path, source="hub") == small[name]


@pytest.mark.parametrize("spelt", ["RealWorld", "Real", "real_world"])
def test_other_spellings_of_a_domain_are_known(small, server, tmp_path, spelt):
    other = {path.replace("Real World", spelt): data for path, data in small["office_home"].items()}
    server.files["office_home/domainbed/office_home.zip"] = zip_of(in_folder(other, "any/folder"))
    assert fetched("office_home", tmp_path) == small["office_home"]


# where it comes from --------------------------------------------------------------------------------------------------


def test_a_dead_link_leads_to_the_next_source(small, server, tmp_path):
    del server.files["pacs/domainbed/PACS.zip"]
    assert fetched("pacs", tmp_path) == small["pacs"]
    assert json.loads((tmp_path / "pacs" / RECORD).read_text())["source"] == "hub"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"<!DOCTYPE html><title>Too many users</title>", "it is a web page"),
        (zip_of({"kfold/photo/../../../out.png": b"x"}), "outside its folder"),
        (zip_of({"kfold/photo/dog/0.png": picture()})[:-30], "cannot be unpacked"),
        (zip_of({"kfold/photo/dog/0.png": picture()}), "1 images (0 art_painting, 0 cartoon, 1 photo, 0 sketch)"),
        (
            zip_of({f"{d}/dog/{n}.png": picture() for d in BENCHMARKS["pacs"].domains for n in range(10)}),
            "40 images (10 art_painting, 10 cartoon, 10 photo, 10 sketch), but known are 3 + 5 + 7 + 9, as published",
        ),
    ],
)
def test_what_is_no_such_archive_is_refused_and_the_next_source_asked(small, server, tmp_path, content, why):
    server.files["pacs/domainbed/PACS.zip"] = content
    with pytest.raises(ThroughlineError) as raised:
        fetched("pacs", tmp_path, source="domainbed")
    assert why in str(raised.value) and "\n" not in str(raised.value)
    left = partial_folder(tmp_path / "pacs")
    assert left.is_dir() == (str(left) in str(raised.value)), "gigabytes may lie there, hidden"
    assert not (tmp_path / "pacs").exists() and not list(tmp_path.rglob("out.png"))
    assert fetched("pacs", tmp_path) == small["pacs"]


def test_links_in_an_archive_are_passed_over(small, server, tmp_path):
    links = {"kfold/photo/dog/link.png": "/etc/hostname"}
    server.files["pacs/domainbed/PACS.zip"] = tar_of(in_folder(small["pacs"], "kfold"), links=links)
    assert fetched("pacs", tmp_path, source="domainbed") == small["pacs"]
    assert not any(path.is_symlink() for path in (tmp_path / "pacs").rglob("*"))


def test_a_file_with_another_checksum_is_refused(small, server, tmp_path):
    server.files["vlcs/domainbed/VLCS.tar.gz"] = tar_of(in_folder(small["vlcs"], "other"))
    with pytest.raises(ThroughlineError, match="other bytes than those pinned by MD5"):
        fetched("vlcs", tmp_path)
    server.files["domain_net/domainbed/real.zip"] += b"more"
    assert fetched("domain_net", tmp_path) == small["domain_net"]
    assert json.loads((tmp_path / "domain_net" / RECORD).read_text())["source"] == "hub"


@pytest.mark.parametrize("name", ["pacs", "vlcs"])
def test_a_cut_connection_goes_on_where_it_stopped(small, server, tmp_path, name):
    server.cuts = [700]
    assert fetched(name, tmp_path) == small[name]
    assert "bytes=700-" in server.ranges


def test_files_that_the_user_has_are_taken_by_name_and_nothing_is_asked(small, server, tmp_path):
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads/PACS.zip").write_bytes(server.files.pop("pacs/domainbed/PACS.zip"))
    assert fetched("pacs", tmp_path, archives=tmp_path / "downloads") == small["pacs"]
    assert server.ranges == [] and (tmp_path / "downloads/PACS.zip").is_file()


@pytest.mark.parametrize("damage", [slice(None, -30), slice(4, None)])
def test_broken_parquet_is_one_line(small, server, tmp_path, damage):
    del server.files["pacs/domainbed/PACS.zip"]
    key = "pacs/hub/train-00000-of-00001.parquet"
    server.files[key] = server.files[key][damage]
    with pytest.raises(ThroughlineError, match=r"hub: .*(not a Parquet file|cannot be unpacked)") as raised:
        fetched("pacs", tmp_path)
    assert "\n" not in str(raised.value)


def test_an_unknown_source_names_the_nearest(small, tmp_path):
    with pytest.raises(UsageError, match="did you mean domainbed"):
        fetched("pacs", tmp_path, source="domain_bed")


# what is told ---------------------------------------------------------------------------------------------------------


def test_the_command_ends_with_checksums_counts_licence_and_citation(small, server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fetch_published, "__defaults__", (None, None, tmp_path / "cache"))
    assert main(["data", "fetch", "pacs", str(tmp_path / "pacs")]) == 0
    told = capsys.readouterr().out
    found = hashlib.sha256(server.files["pacs/domainbed/PACS.zip"]).hexdigest()
    assert f"PACS.zip: SHA-256 {found}, unverified" in told
    assert "24 images, as published; by class: unverified" in told
    assert "licence: unknown" in told and "Deeper, Broader and Artier" in told
    assert main(["data", "fetch", "vlcs", str(tmp_path / "vlcs")]) == 0
    assert "pinned by MD5" in capsys.readouterr().out
    assert main(["data", "fetch", "pacs", str(tmp_path / "pacs")]) == 1
    assert "not empty" in capsys.readouterr().err


def test_every_source_of_the_real_rows_is_whole():
    for name, row in PUBLISHED.items():
        benchmark = BENCHMARKS[name]
        for variant, counts in row.counts.items():
            assert len(counts) in (1, len(benchmark.domains)), variant
            assert f"{sum(counts):,}" in benchmark.images
        for package in itertools.chain.from_iterable(origin.packages for origin in row.origins):
            assert package.sources and all(address.startswith("http") for address in package.sources)
            assert len(package.sha256) in (0, 64) and len(package.md5) in (0, 32)
        assert set(row.aliases.values()) <= set(benchmark.domains)
        assert len({published._plain(label) for label in DOMAINBED[benchmark.lists]}) == len(DOMAINBED[benchmark.lists])
    assert PUBLISHED.keys() == FOLDERS.keys()


# DomainBed's own downloads --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_of_domainbeds_own_downloader_is_used_as_it_is(tmp_path, capsys, name):
    folder = tmp_path / FOLDERS[name][0]
    images = images_of(name)
    for path, content in images.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    (folder / "ImageInfo.csv").write_text("left by the archive")
    assert main(["data", "check", str(folder)]) == 0
    assert main(["data", "split", str(folder), "--target", BENCHMARKS[name].domains[-1], "--json"]) == 0
    read = read_images(folder)
    assert read.domains == BENCHMARKS[name].domains and read.classes == CLASSES[name]
    assert {sample.id for sample in read.samples} == images.keys()
