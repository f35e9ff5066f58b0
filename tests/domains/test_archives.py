"""Archives as they lie, from the file that a user has to the printed table, in one call of the command line."""

import gzip
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from PIL import Image, ImageFile
from pyarrow import parquet

from throughline.cli.main import main
from throughline.core.errors import ThroughlineError
from throughline.domains.folders import read_images
from throughline.domains.images import load_image
from throughline.domains.listing import list_folder


@pytest.fixture
def data_import(capsys):
    """Runs `throughline data import … --json`: its answer, or the one line of its error."""

    def run(*words: object) -> dict | str:
        code = main(["data", "import", *map(str, words), "--json"])
        said = capsys.readouterr()
        if code == 0:
            return json.loads(said.out)
        line = said.err.splitlines()[-1]
        assert line.startswith("throughline: error: ") and said.out == "" and "Traceback" not in said.err
        return line

    return run


@pytest.fixture
def traps(tmp_path, paint):
    """A camera-trap archive: two locations, sequences, an empty image, and one of each that is left out."""
    images, annotations = [], []
    for number, (location, seq, labels) in enumerate(
        [
            (1, "s1", ["deer"]),
            (1, "s1", ["deer", "deer"]),
            (1, "s2", ["fox"]),
            (2, "s3", ["deer"]),
            (2, "s4", ["empty"]),
            (2, "s5", ["deer", "fox"]),
            (None, "s6", ["fox"]),
            (2, "s7", []),
        ]
    ):
        name = f"loc{location}/{seq}/IMG_{number % 2}.png"
        paint(tmp_path / "traps" / name)
        images.append({"id": f"i{number}", "file_name": name, "location": location, "seq_id": seq})
        numbers = {"empty": 0, "deer": 1, "fox": 2}
        annotations += [
            {"image_id": f"i{number}", "category_id": numbers[label], "bbox": [0, 0, 1, 1]} for label in labels
        ]
    images.append({"id": "gone", "file_name": "loc1/s9/gone.png", "location": 1, "seq_id": "s9"})
    annotations.append({"image_id": "gone", "category_id": 1})
    categories = [{"id": number, "name": name} for name, number in numbers.items()]
    file = tmp_path / "traps" / "traps.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return file


# forms --------------------------------------------------------------------------------------------------------------


def test_camera_traps_become_a_folder_by_location_with_a_table_of_their_sequences(traps, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["data", "import", str(traps), str(out), "--without", "empty"]) == 0
    printed = capsys.readouterr().out
    assert "COCO Camera Traps JSON: image=file_name, domain=location" in printed
    assert printed.splitlines()[-1] == f"4 images in {out}; next: throughline data check {out}/images.csv"
    left = {line.removeprefix("left out: ") for line in printed.splitlines() if line.startswith("left out")}
    assert left == {
        "1 image without domain",
        "1 image without label",
        "1 image with several labels or domains",
        "1 image of class empty",
        f"1 image not in {traps.parent}",
    }
    table = [
        line.split() for line in printed.splitlines() if line.split()[:1] in (["class"], ["deer"], ["fox"], ["all"])
    ]
    assert table == [["class", "1", "2"], ["deer", "2", "1"], ["fox", "1", "0"], ["all", "3", "1"]]
    images = read_images(out / "images.csv")
    assert sorted((s.domain, s.label, s.group) for s in images.samples) == [
        ("1", "deer", "s1"),
        ("1", "deer", "s1"),
        ("1", "fox", "s2"),
        ("2", "deer", "s3"),
    ]
    assert images.by_id["1/deer/IMG_0.png"].path.read_bytes() == (traps.parent / "loc1/s1/IMG_0.png").read_bytes()
    assert main(["data", "check", str(out / "images.csv")]) == 0


def test_what_camera_traps_call_otherwise_can_be_named(traps, tmp_path, data_import):
    answer = data_import(traps, tmp_path / "out", "--columns", "domain=seq_id,group=location")
    assert answer["counts"]["s2"] == {"deer": 0, "empty": 0, "fox": 1}
    assert {(s.domain, s.group) for s in read_images(tmp_path / "out/images.csv").samples} >= {("s2", "1")}
    line = data_import(traps, tmp_path / "x", "--columns", "domain=site")
    assert "no image is left: 9 without domain" in line


def test_camera_traps_that_gzip_has_packed_are_read_as_they_are(traps, tmp_path, data_import):
    packed = traps.with_name("traps.json.gz")
    packed.write_bytes(gzip.compress(traps.read_bytes()))
    plain = data_import(traps, tmp_path / "plain")
    assert data_import(packed, tmp_path / "packed")["counts"] == plain["counts"]
    packed.write_bytes(packed.read_bytes()[:-40])
    assert "cannot read the file" in data_import(packed, tmp_path / "broken")


def test_two_images_of_one_name_both_have_a_place(traps, tmp_path, data_import):
    for seq in ("s1", "s3"):
        shutil.move(
            traps.parent / f"loc{1 if seq == 's1' else 2}/{seq}/IMG_{0 if seq == 's1' else 1}.png", traps.parent / "x"
        )
        (traps.parent / seq).mkdir()
        shutil.move(traps.parent / "x", traps.parent / seq / "same.png")
    table = traps.with_name("two.csv")
    table.write_text("image,domain,label\ns1/same.png,a,deer\ns3/same.png,a,deer\n")
    assert data_import(table, tmp_path / "out")["images"] == 2
    assert sorted(path.name for path in (tmp_path / "out/a/deer").iterdir()) == ["000001_same.png", "same.png"]


def test_iwildcam_is_known_by_its_columns_and_named_by_its_categories(tmp_path, paint, data_import):
    root = tmp_path / "iwildcam"
    rows = ["split,location_remapped,location,sequence_remapped,y,category_id,filename"]
    for number in range(4):
        paint(root / "train" / f"{number}.jpg")
        rows.append(f"train,{number % 2},9{number},7{number},{number // 2},{30 + number},{number}.jpg")
    (root / "metadata.csv").write_text("\n".join(rows))
    (root / "categories.csv").write_text("y,category_id,name\n0,30,meleagris\n1,32,puma\n99,99,unknown\n")
    answer = data_import(root / "metadata.csv", root / "list.csv")
    assert answer["counts"] == {"0": {"meleagris": 1, "puma": 1}, "1": {"meleagris": 1, "puma": 1}}
    assert answer["notes"][1] == f"images in {root / 'train'}"
    samples = read_images(root / "list.csv").samples
    assert {(s.id, s.domain, s.label, s.group) for s in samples} >= {("train/3.jpg", "1", "puma", "73")}


WINDOWS = "Datei;Ort;Art\r\nC:\\Fotos\\wald\\müde.png;Süd;Reh\r\nC:\\Fotos\\wald\\2.png;Nord;Fuchs, rot\r\n;;\r\n"
NAMED = ("--columns", "image=Datei,domain=Ort,label=Art")


@pytest.mark.parametrize(("encoding", "name"), [("cp1252", "cp1252"), ("utf-8-sig", "utf-8"), ("utf-16", "utf-16")])
def test_a_table_of_windows_is_read_as_it_is(tmp_path, paint, data_import, encoding, name):
    for image in ("müde.png", "2.png"):
        paint(tmp_path / "wald" / image)
    (tmp_path / "excel.csv").write_bytes(WINDOWS.encode(encoding))
    answer = data_import(tmp_path / "excel.csv", tmp_path / "list.csv", *NAMED)
    assert answer["notes"] == [
        f"CSV, {name}, separated by ;: image=Datei, domain=Ort, label=Art",
        f"images in {tmp_path}, which is C:/Fotos/ there",
    ]
    named = data_import(tmp_path / "excel.csv", tmp_path / "named.csv", *NAMED, "--encoding", name)
    assert named["counts"] == answer["counts"]
    images = read_images(tmp_path / "list.csv")
    assert [(s.id, s.domain, s.label) for s in images.samples] == [
        ("wald/2.png", "Nord", "Fuchs, rot"),
        ("wald/müde.png", "Süd", "Reh"),
    ]


def test_every_verb_reads_a_table_with_the_projects_columns_from_windows(tree):
    text = "image;domain;label\r\n" + "".join(
        f"{s.id};{s.domain};Bär\r\n".replace("/", "\\") for s in read_images(tree).samples
    )
    (tree / "list.csv").write_bytes(text.encode("cp1252"))
    images = read_images(tree / "list.csv")
    assert images.classes == ("Bär",) and len(images.samples) == 36
    (tree / "tabs.csv").write_text(text.replace(";", "\t"))
    assert read_images(tree / "tabs.csv").samples == images.samples


def test_a_separator_and_an_encoding_that_are_named_are_taken(tmp_path, paint, data_import):
    paint(tmp_path / "x.png")
    (tmp_path / "t.tsv").write_bytes("a;b\tdomain\tlabel\nx.png\tжук\tb\n".encode("cp1251"))
    words = (tmp_path / "t.tsv", tmp_path / "out.csv", "--columns", "image=a;b")
    answer = data_import(*words, "--encoding", "cp1251", "--separator", "tab")
    assert answer["counts"] == {"жук": {"b": 1}}
    assert "no encoding named cp9" in data_import(*words, "--encoding", "cp9")


def test_names_of_classes_come_along_into_the_table_of_a_folder(tree, tmp_path, data_import):
    (tree / "t.csv").write_text(
        "image,domain,label,english\nart/cat/0.png,a,felis,cat|house cat\nart/cat/1.png,a,felis,\n"
    )
    answer = data_import(tree / "t.csv", tmp_path / "out", "--columns", "class_name=english")
    assert answer["next"] == f"throughline data check {tmp_path}/out/images.csv"
    assert read_images(tmp_path / "out/images.csv").names == {"felis": ("cat", "house cat")}


def hub_file(path: Path, domain: bool = True) -> Path:
    pictures = []
    for shade in range(4):
        buffer = io.BytesIO()
        Image.new("L", (4, 4), shade).save(buffer, "PNG")
        pictures.append({"bytes": buffer.getvalue(), "path": f"{shade}.png"})
    columns = {"image": pictures, "label": [0, 1, 1, None]} | (
        {"style": ["art", "art", "photo", "photo"]} if domain else {}
    )
    features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}, "image": {"_type": "Image"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table(columns).replace_schema_metadata(metadata), path)
    return path


@pytest.mark.parametrize("whole_folder", [True, False])
def test_parquet_of_the_hub_with_images_inside(tmp_path, data_import, whole_folder):
    file = hub_file(tmp_path / "hub/data/train-00000-of-00002.parquet")
    if whole_folder:
        hub_file(tmp_path / "hub/data/train-00001-of-00002.parquet")
    source, out = tmp_path / "hub" if whole_folder else file, tmp_path / "out"
    assert "which column is the domain (found: image, label, style)" in data_import(source, out)
    answer = data_import(source, out, "--columns", "domain=style")
    factor = 2 if whole_folder else 1
    assert answer["counts"] == {"art": {"cat": factor, "dog": factor}, "photo": {"cat": 0, "dog": factor}}
    assert answer["left_out"] == {"without label": factor}
    assert load_image(out / "photo/dog/2.png").getpixel((0, 0)) == (2, 2, 2)
    words = (source, tmp_path / "more", "--columns", "domain=style")
    assert "import it as it is, then import the folder" in data_import(*words, "--truncated", "fill")
    assert "inside the source" in data_import(source, tmp_path / "x.csv", "--columns", "domain=style")
    with pytest.raises(ThroughlineError, match=r"inside the table.*data import"):
        columns = parquet.read_table(file).rename_columns(["image", "label", "domain"])
        parquet.write_table(columns, tmp_path / "own.parquet")
        read_images(tmp_path / "own.parquet")


def test_parquet_with_paths(tree, tmp_path, data_import):
    rows = [{"filename": s.id, "location": s.domain, "name": s.label} for s in read_images(tree).samples]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "list.parquet")
    answer = data_import(tmp_path / "list.parquet", tmp_path / "out", "--images", tree)
    assert answer["images"] == 36 and answer["next"] == f"throughline data check {tmp_path}/out"
    assert read_images(tmp_path / "out").samples == tuple(
        replaced(sample, tmp_path / "out") for sample in read_images(tree).samples
    )


def test_rows_of_parquet_have_numbers_as_those_of_csv_do(tmp_path, paint, data_import):
    rows = [{"domain": "art", "label": label} for label in ("cat", "dog")]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "list.parquet")
    for number in range(2):
        paint(tmp_path / f"{number}.png")
    answer = data_import(tmp_path / "list.parquet", tmp_path / "out.csv", "--columns", "image={row}.png")
    assert answer["counts"] == {"art": {"cat": 1, "dog": 1}}
    assert [(s.id, s.label) for s in read_images(tmp_path / "out.csv").samples] == [("0.png", "cat"), ("1.png", "dog")]


LABEL = {"names": ["cat", "dog"], "_type": "ClassLabel"}


@pytest.mark.parametrize("listed", [[LABEL], {"feature": LABEL, "_type": "List"}, None])
def test_lists_and_missing_labels_of_parquet_are_no_classes(tmp_path, paint, data_import, listed):
    """A number that has no name, as -1, is no label of the library `datasets`, and an empty list is none either."""
    lists = [["cat", "dog"], ["dog"], []] if listed is None else [[0, 1], [1], [-1]]
    rows = [{"image": f"{n}.png", "domain": "art", "label": [0, 1, -1][n], "labels": lists[n]} for n in range(3)]
    features = {"label": LABEL} | ({} if listed is None else {"labels": listed})
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    parquet.write_table(pyarrow.Table.from_pylist(rows).replace_schema_metadata(metadata), tmp_path / "list.parquet")
    for row in rows:
        paint(tmp_path / row["image"])
    answer = data_import(tmp_path / "list.parquet", tmp_path / "out.csv")
    assert (answer["counts"], answer["left_out"]) == ({"art": {"cat": 1, "dog": 2}}, {"without label": 1})
    assert [s.labels for s in read_images(tmp_path / "out.csv").samples] == [("cat", "dog"), ("dog",)]
    assert data_import(tmp_path / "list.parquet", tmp_path / "more.csv", "--columns", "labels=labels")["images"] == 2
    with pytest.raises(ThroughlineError, match="row 3 has no label"):
        read_images(tmp_path / "list.parquet")


def replaced(sample, root):
    from dataclasses import replace

    return replace(sample, root=root)


# pixels -------------------------------------------------------------------------------------------------------------


def test_truncated_images_are_refused_or_filled_as_domainbed_fills_them(tree, tmp_path, data_import):
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    path = tree / "art/cat/cut.jpg"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    line = data_import(tree, tmp_path / "out")
    assert "cut.jpg" in line and "--truncated fill" in line and not (tmp_path / "out").exists()
    answer = data_import(tree, tmp_path / "out", "--truncated", "fill")
    assert answer["notes"][-1] == "filled, since truncated: 1 image" and not ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        expected = np.asarray(Image.open(path).convert("RGB"))
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = False
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out/art/cat/cut.png")), expected)
    assert (tmp_path / "out/art/cat/0.png").read_bytes() == (tree / "art/cat/0.png").read_bytes()
    path.write_bytes(b"")
    assert "zero bytes" in data_import(tree, tmp_path / "more", "--truncated", "fill")


def test_twelve_bits_of_sixteen_are_scaled_by_those_in_use_in_their_domain(tree, tmp_path, data_import, capsys):
    for number, largest in enumerate((4095, 1000)):
        values = np.array([[0, 500, largest]], dtype=np.uint16)
        Image.fromarray(values).save(tree / f"photo/cat/deep{number}.tif")
    Image.fromarray(np.array([[0, 65535]], dtype=np.uint16)).save(tree / "art/cat/whole.tif")
    data_import(tree, tmp_path / "out", "--scale-16bit", "used")
    assert (tmp_path / "out/art/cat/whole.tif").is_file()
    for number, largest in enumerate((4095, 1000)):
        found = np.asarray(load_image(tmp_path / f"out/photo/cat/deep{number}.png"))[0, :, 0]
        assert found.tolist() == [0, round(500 / 4095 * 255), round(largest / 4095 * 255)]
    assert main(["data", "check", str(tree)]) == 0 and "use only 12 bits" in capsys.readouterr().out
    assert main(["data", "check", str(tmp_path / "out")]) == 0 and "use only" not in capsys.readouterr().out
    data_import(tree, tmp_path / "same")
    kept = tmp_path / "same/photo/cat/deep0.tif"
    assert kept.read_bytes() == (tree / "photo/cat/deep0.tif").read_bytes()


def megadetector(traps: Path, detections: dict[str, list]) -> Path:
    images: list[dict] = [
        {
            "file": f"C:\\x\\{file}".replace("/", "\\"),
            "detections": [{"category": c, "conf": f, "bbox": b} for c, f, b in found],
        }
        for file, found in detections.items()
    ]
    images.append({"file": "loc2/s7/IMG_1.png", "failure": "cannot be read", "detections": None})
    boxes = {"images": images, "detection_categories": {"1": "animal", "2": "person"}, "info": {}}
    (traps.parent / "md.json").write_text(json.dumps(boxes))
    return traps.parent / "md.json"


def test_each_detection_of_an_image_is_a_crop_in_the_group_of_its_sequence(traps, tmp_path, data_import):
    pixels = np.random.default_rng(0).integers(0, 256, (10, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(traps.parent / "loc1/s1/IMG_0.png")
    boxes = megadetector(
        traps,
        {
            "loc1/s1/IMG_0.png": [
                ("1", 0.9, [0.5, 0.2, 0.2, 0.5]),
                ("1", 0.2, [0.9, 0.8, 0.1, 0.2]),
                ("1", 0.19, [0, 0, 1, 1]),
                ("2", 0.9, [0, 0, 1, 1]),
                ("1", 0.9, [0.5, 0.5, 0, 0]),
            ],
            "loc1/s2/IMG_0.png": [("1", 0.5, [0, 0, 1, 1])],
            "loc2/s3/IMG_1.png": [("2", 0.9, [0, 0, 1, 1])],
        },
    )
    out = tmp_path / "out"
    answer = data_import(traps, out, "--boxes", boxes, "--margin", "0.5")
    assert answer["counts"] == {"1": {"deer": 2, "fox": 1}}
    assert (answer["left_out"]["without a detection"], answer["left_out"][f"not in {boxes}"]) == (1, 2)
    # 20 x 10 pixels: the box [10, 2, 14, 7] grows by 2 and 2.5 on each side, the other one is cut at the border
    crops = [np.asarray(Image.open(path)) for path in sorted((out / "1/deer").iterdir(), reverse=True)]
    assert np.array_equal(crops[0], pixels[0:10, 8:16]) and np.array_equal(crops[1], pixels[7:10, 17:20])
    assert {(s.label, s.group) for s in read_images(out / "images.csv").samples} == {("deer", "s1"), ("fox", "s2")}
    line = data_import(traps, tmp_path / "x", "--boxes", boxes, "--category", "animals")
    assert "did you mean animal" in line
    assert "MegaDetector" in data_import(traps, tmp_path / "x", "--boxes", traps)


def test_a_crop_without_a_sequence_is_in_the_group_of_its_image_and_a_jpeg_stays_one(
    tree, tmp_path, data_import, paint
):
    paint(tree / "art/cat/a.jpg")
    boxes = megadetector(tree / "x", {"art/cat/a.jpg": [("1", 0.9, [0, 0, 0.5, 1]), ("1", 0.8, [0.5, 0, 0.5, 1])]})
    paint(tree / "art/stray.png")
    answer = data_import(tree, tmp_path / "out", "--boxes", boxes)
    assert answer["left_out"] == {"outside <domain>/<class>": 1, f"not in {boxes}": 36}
    (first, second) = read_images(tmp_path / "out/images.csv").samples
    assert first.group == second.group == "art/cat/a.jpg"
    assert Image.open(first.path).format == "JPEG"


# faults -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "no text in UTF-8 or cp1252"),
        (b"", "which column is the image"),
        (b"once upon a time", "which column is the image (found: once upon a time)"),
        (b'{"images": []}', "not COCO Camera Traps JSON with images, annotations and categories"),
        (b'{"images": [', "not COCO Camera Traps JSON"),
        (b'{"images": 3, "annotations": [], "categories": []}', "not COCO Camera Traps JSON"),
        (b"PAR1 and no more", "not a Parquet file"),
        (b"image,domain,label\n", "no image is left: none is listed"),
        (b"image,domain,label\ngone.png,a,b\n", "no image is left: 1 not in"),
        (b"image,domain,label\n" + b"x" * 5000 + b",a,b\n", "no image is left: 1 not in"),
        (b"image,domain,label\na\0b.png,a,b\n", "no image is left: 1 not in"),
        (b"image,domain,label\n../secret.png,a,b\n", "outside the folder of the images"),
        (b"image,domain,label\na/../../secret.png,a,b\n", "outside the folder of the images"),
        (b"image,domain,label\n/etc/hostname,a,b\n", "outside the folder of the images"),
        (b"image,domain,label\nx.png,a,b\nD:\\x.png,a,b\nC:\\y.png,a,b\n", "row 3 names C:\\y.png, outside"),
        (b"image,domain,label\nx.png,a/b,c\n", "'a/b' cannot be the name of a folder"),
        (b"image,domain,label\nx.png,a,..\n", "'..' cannot be the name of a folder"),
        (b"image,domain,label\nx.png,a,b\0c\n", "'b\\x00c' cannot be the name of a folder"),
        (b'image,domain,label\nx.png,a,"b\nc"\n', "'b\\nc' cannot be the name of a folder"),
    ],
)
@pytest.mark.parametrize("out", ["out", "out.csv"])
def test_what_cannot_be_read_or_written_is_one_line(tmp_path, paint, data_import, content, said, out):
    paint(tmp_path / "x.png"), paint(tmp_path / "y.png"), paint(tmp_path.parent / "secret.png")
    (tmp_path / "source").write_bytes(content)
    line = data_import(tmp_path / "source", tmp_path / out)
    assert said in line and "source" in line + str(tmp_path / "source")
    assert not (tmp_path / out).exists()


def test_options_that_do_not_fit_are_one_line(traps, tree, tmp_path, data_import):
    assert "no such file or folder" in data_import(tmp_path / "nowhere", tmp_path / "out")
    assert "did you mean empty" in data_import(traps, tmp_path / "out", "--without", "emtpy")
    assert "a table copies no image" in data_import(traps, tmp_path / "o.csv", "--scale-16bit", "used")
    assert "the folder is not empty" in data_import(traps, tree)
    (tree / "t.csv").write_text("path,domain,label\nart/cat/0.png,a,b\n")
    assert "did you mean path" in data_import(tree / "t.csv", tmp_path / "out", "--columns", "image=paths")
    assert "a folder of images has no columns" in data_import(tree, tmp_path / "out", "--columns", "image=x")
    assert "the table is there already" in data_import(tree, tree / "t.csv")
    (tmp_path / "elsewhere").mkdir()
    line = data_import(tree, tmp_path / "elsewhere" / "t.csv")
    assert f"name {tree / 't.csv'}" in line
    assert data_import(tree, tmp_path / "above.csv")["images"] == 36
    assert read_images(tmp_path / "above.csv").samples[0].id == "images/art/cat/0.png"


def test_a_killed_import_goes_on_and_keeps_nothing_of_other_options(traps, tmp_path, data_import, monkeypatch):
    out = tmp_path / "out"
    first = data_import(traps, out)
    assert first["counts"]["2"]["empty"] == 1
    out.rename(tmp_path / ".out.partial")
    (tmp_path / ".out.partial/1/deer/.half.png.abcdefgh").write_bytes(b"half")
    inode = (tmp_path / ".out.partial/1/fox/IMG_0.png").stat().st_ino
    data_import(traps, out, "--without", "empty")
    assert (out / "1/fox/IMG_0.png").stat().st_ino == inode
    listing = list_folder(out)
    assert not (out / "2/empty").exists() and not listing.empty
    assert not list(out.rglob(".*"))


def test_importing_loads_neither_torch_nor_pandas(tree, tmp_path):
    from tests.test_map import loaded_by

    code = "import sys; from throughline.cli.main import main; main(sys.argv[1:])"
    loaded = loaded_by(code, "data", "import", str(tree), str(tmp_path / "out"))
    assert not loaded & {"torch", "transformers", "pandas", "matplotlib"}
