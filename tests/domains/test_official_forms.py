"""The official form of each benchmark that is no folder, in a tiny file of the same form, through the command line."""

import csv
import gzip
import json
import sys

import numpy as np
import pytest
from PIL import Image

from throughline.cli.main import main
from throughline.core.errors import ThroughlineError
from throughline.domains.benchmarks import BENCHMARKS
from throughline.domains.class_lists import CLASS_LISTS
from throughline.domains.folders import read_images

ASPIRIN, ETHANOL, BENZENE = "CC(=O)Oc1ccccc1C(=O)O", "CCO", "c1ccccc1"


@pytest.fixture
def convert(tmp_path, capsys):
    """Converts an official file as `data fetch NAME` says, and reads the result."""

    def run(name, out=None):
        out = out or tmp_path / "out"
        form = BENCHMARKS[name].form
        assert main(["data", "import", str(tmp_path / form.source), str(out), "--form", name]) == 0
        capsys.readouterr()
        return read_images(out / "images.csv" if (out / "images.csv").is_file() else out)

    return run


def places(images):
    return sorted((sample.domain, *sample.labels, sample.group) for sample in images.samples)


def test_camelyon17_has_a_patch_for_each_line_of_wilds_metadata(tmp_path, paint, convert):
    lines = [",patient,node,x_coord,y_coord,tumor,slide,center,split"]
    for number, (patient, tumor, slide, center) in enumerate([("004", 1, 0, 0), ("004", 0, 0, 0), ("051", 1, 25, 2)]):
        lines.append(f"{number},{patient},4,{3328 + number},21792,{tumor},{slide},{center},0")
        folder = tmp_path / f"patches/patient_{patient}_node_4"
        paint(folder / f"patch_patient_{patient}_node_4_x_{3328 + number}_y_21792.png")
    (tmp_path / "metadata.csv").write_text("\n".join(lines))
    images = convert("camelyon17")
    assert places(images) == [
        ("hospital_0", "normal", "0"),
        ("hospital_0", "tumor", "0"),
        ("hospital_2", "tumor", "25"),
    ]
    assert set(images.domains) < set(BENCHMARKS["camelyon17"].domains) and images.classes == CLASS_LISTS["Camelyon17"]


def test_fmow_has_the_image_of_its_lines_number_and_the_region_of_its_country(tmp_path, paint, convert):
    lines = ["split,img_filename,country_code,cloud_cover,timestamp,category"]
    for number, (country, label) in enumerate([("FRA", "airport"), ("USA", "zoo"), ("XXX", "airport"), ("DEU", "zoo")]):
        paint(tmp_path / f"images/rgb_img_{number}.png")
        lines.append(f"train,{label}_{number}_rgb.jpg,{country},0,2016-01-01T00:00:00Z,{label}")
    (tmp_path / "rgb_metadata.csv").write_text("\n".join(lines))
    codes = "name,alpha-2,alpha-3,region\nFrance,FR,FRA,Europe\nGermany,DE,DEU,Europe\nUnited States,US,USA,Americas\n"
    (tmp_path / "country_code_mapping.csv").write_text(codes)
    images = convert("fmow")
    assert places(images) == [
        ("Americas", "zoo", None),
        ("Europe", "airport", None),
        ("Europe", "zoo", None),
        ("Other", "airport", None),
    ]
    (sample,) = images.in_domain("Americas")
    assert sample.path.read_bytes() == (tmp_path / "images/rgb_img_1.png").read_bytes()
    assert set(images.domains) < set(BENCHMARKS["fmow"].domains) and set(images.classes) < set(CLASS_LISTS["FMoW"])


def test_regions_without_the_file_that_has_them_are_one_line(tmp_path, paint, capsys):
    paint(tmp_path / "images/rgb_img_0.png")
    (tmp_path / "rgb_metadata.csv").write_text("country_code,category\nFRA,zoo\n")
    assert main(["data", "import", str(tmp_path / "rgb_metadata.csv"), str(tmp_path / "out"), "--form", "fmow"]) == 1
    assert "country_code_mapping.csv" in (said := capsys.readouterr().err) and said.count("\n") == 1


def test_iwildcam_has_names_from_categories_and_one_class_for_a_name_that_stands_there_twice(tmp_path, paint, convert):
    lines = ["split,location_remapped,location,sequence_remapped,datetime,y,category_id,filename"]
    for number in range(4):
        paint(tmp_path / f"train/{number}.jpg")
        lines.append(f"train,{number % 2},{40 + number},{number // 2},2013-08-02,{number % 3},{number},{number}.jpg")
    (tmp_path / "metadata.csv").write_text("\n".join(lines))
    (tmp_path / "categories.csv").write_text("y,category_id,name\n0,0,mazama temama\n1,7,mazama  temama\n2,9,empty\n")
    images = convert("iwildcam")
    assert places(images) == [
        ("location_0", "empty", "1"),
        ("location_0", "mazama temama", "0"),
        ("location_1", "mazama temama", "0"),
        ("location_1", "mazama temama", "1"),
    ]
    assert set(images.classes) < set(CLASS_LISTS["iWildCam"])


def test_terra_incognita_has_a_domain_for_each_location(tmp_path, paint, convert):
    paint(tmp_path / "a.jpg"), paint(tmp_path / "b.jpg")
    traps = {
        "info": {},
        "images": [
            {"id": "a", "file_name": "a.jpg", "location": 38, "seq_id": "s"},
            {"id": "b", "file_name": "b.jpg", "seq_id": "t"},
        ],
        "annotations": [{"image_id": "a", "category_id": 1}, {"image_id": "b", "category_id": 1}],
        "categories": [{"id": 1, "name": "opossum"}],
    }
    (tmp_path / "caltech_images_20210113.json").write_text(json.dumps(traps))
    assert places(convert("terra_incognita")) == [("location_38", "opossum", "s")]


def test_ham10000_has_the_names_of_its_diagnoses_and_keeps_lesions_together(tmp_path, paint, convert):
    codes = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
    lines = ["lesion_id,image_id,dx,dx_type,age,sex,localization"]
    for number, code in enumerate(codes):
        paint(tmp_path / f"images/ISIC_{number}.jpg")
        kind = ("histo", "confocal", "consensus", "follow_up")[number % 4]
        lines.append(f"HAM_{number // 2},ISIC_{number},{code},{kind},80.0,male,scalp")
    (tmp_path / "HAM10000_metadata.csv").write_text("\n".join(lines))
    images = convert("ham10000")
    assert images.classes == CLASS_LISTS["HAM10000"]
    assert images.domains == tuple(BENCHMARKS["ham10000"].domains)
    assert ("confocal", "basal cell carcinoma", "HAM_0") in places(images)


@pytest.fixture
def nih(tmp_path, paint):
    """Data_Entry_2017.csv with one, two and three findings, and without any."""
    head = (
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,OriginalImage[Width"
    )
    findings = ("Cardiomegaly", "Cardiomegaly|Emphysema", "No Finding", "Effusion|Mass|Pleural_Thickening")
    lines = [head]
    for number, found in enumerate(findings):
        paint(tmp_path / f"images/0000000{number}_000.png")
        lines.append(f"0000000{number}_000.png,{found},0,{number // 2 + 1},58,M,{'PA' if number % 2 else 'AP'},2682")
    (tmp_path / "Data_Entry_2017.csv").write_text("\n".join(lines))
    return tmp_path / "Data_Entry_2017.csv"


def test_nih_chest_has_several_labels_an_image(nih, convert):
    images = convert("nih_chest", nih.with_name("list.csv"))
    assert [(s.id, s.labels, s.task, s.group) for s in images.samples] == [
        ("images/00000000_000.png", ("Cardiomegaly",), "multi", "1"),
        ("images/00000001_000.png", ("Cardiomegaly", "Emphysema"), "multi", "1"),
        ("images/00000003_000.png", ("Effusion", "Mass", "Pleural Thickening"), "multi", "2"),
        ("images/00000002_000.png", ("No Finding",), "multi", "2"),
    ]
    assert images.domains == ("Chest",) and images.several
    assert set(images.classes) < set(CLASS_LISTS["NIH-Chest"])


def test_several_labels_can_be_named_and_a_folder_keeps_them_in_its_table(nih, tmp_path, capsys):
    columns = "image=Image Index,domain=View Position,labels=Finding Labels"
    assert main(["data", "import", str(nih), str(tmp_path / "out"), "--columns", columns, "--without", "Mass"]) == 0
    printed = capsys.readouterr().out
    assert "left out: 1 image of class Mass" in printed and "several labels" in printed
    images = read_images(tmp_path / "out/images.csv")
    assert sorted(sample.labels for sample in images.samples) == [
        ("Cardiomegaly",),
        ("Cardiomegaly", "Emphysema"),
        ("No Finding",),
    ]


def test_images_with_several_labels_are_checked_sampled_and_read_back(nih, convert, capsys):
    table, asked = nih.with_name("list.csv"), nih.with_name("asked.csv")
    convert("nih_chest", table)
    assert main(["data", "check", str(table), "--json"]) == 1  # one domain
    report = json.loads(capsys.readouterr().out)
    assert report["counts"]["Chest"]["Cardiomegaly"] == 2 and report["images"] == 4
    assert main(["data", "sample", str(table), "--per-class", "1", "--out", str(asked)]) == 0
    chosen = read_images(asked)
    assert chosen.classes == read_images(table).classes  # each class has its image
    assert len(chosen.samples) == 4 - (sum("Cardiomegaly" in s.labels for s in chosen.samples) == 1)
    with asked.open(newline="") as file:
        assert {row["labels"] for row in csv.DictReader(file)} >= {"Effusion|Mass|Pleural Thickening", "No Finding"}
    assert main(["data", "sample", str(table), "--out", str(nih.with_name("asked.tsv"))]) == 1
    assert "several labels" in capsys.readouterr().err


def test_what_takes_one_label_says_so_in_one_line(nih, convert):
    sample = convert("nih_chest", nih.with_name("list.csv")).samples[0]
    with pytest.raises(ThroughlineError, match="may have several labels"):  # though this one has one
        _ = sample.label


CHEXPERT = CLASS_LISTS["CheXpert"]


def test_mimic_cxr_has_the_marked_labels_and_the_findings_of_the_report_of_its_study(tmp_path, paint, convert):
    """Packed by gzip as they lie on PhysioNet: images, labels of studies, and sections of reports."""
    studies = {
        50414267: ("10000032", {"Edema": "1.0", "Pneumonia": "1.0", "Fracture": "-1.0"}),
        53189527: ("10000764", {}),
    }
    lines, labels = ["dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition"], []
    for number, (study, (subject, marks)) in enumerate(studies.items()):
        for view in ("PA", "LATERAL"):
            paint(tmp_path / f"files/p10/p{subject}/s{study}/{view}-{number}.jpg")
            lines.append(f"{view}-{number},{subject},{study},CHEST,{view}")
        labels.append(",".join([subject, str(study), *(marks.get(name, "") for name in CHEXPERT)]))
    tables = {"metadata": lines, "chexpert": [f"subject_id,study_id,{','.join(CHEXPERT)}", *labels]}
    for name, content in tables.items():
        (tmp_path / f"mimic-cxr-2.0.0-{name}.csv.gz").write_bytes(gzip.compress("\n".join(content).encode()))
    report = 'study,impression,findings\ns50414267,"Worse.","Wet lungs,\nand more."\n'
    (tmp_path / "mimic_cxr_sectioned.csv").write_text(report)
    images = convert("mimic_cxr", tmp_path / "list.csv")  # the second study has no label
    assert [(s.id, s.domain, s.labels, s.group) for s in images.samples] == [
        (f"files/p10/p10000032/s50414267/{view}-0.jpg", view, ("Edema", "Pneumonia"), "10000032")
        for view in ("LATERAL", "PA")
    ]
    with (tmp_path / "list.csv").open(newline="") as file:
        assert {row["report"] for row in csv.DictReader(file)} == {"Wet lungs,\nand more."}


def test_ms_cxr_t_has_both_images_in_one_picture_for_each_finding(tmp_path, paint, convert, capsys):
    paths = {name: f"p10/p10002428/{study}/{name}" for name, study in {"now": "s2", "before": "s1"}.items()}
    for name, colour in {"now": "red", "before": "blue"}.items():
        path = tmp_path / f"files/{paths[name]}.jpg"
        path.parent.mkdir(parents=True)
        Image.new("RGB", (40, 20) if name == "now" else (20, 40), colour).save(path)
    head = "subject_id,study_id,dicom_id,previous_study_id,previous_dicom_id,edema_progression,edema_label_quality"
    cells = f"10002428,2,{paths['now']},1,{paths['before']},worsening,one_expert,stable,"
    gone = cells.replace("/before", "/gone")
    table = tmp_path / BENCHMARKS["ms_cxr_t"].form.source
    table.write_text("\n".join([f"{head},pneumonia_progression,pneumonia_label_quality", cells, gone]))
    assert main(["data", "import", str(table), str(tmp_path / "list.csv"), "--form", "ms_cxr_t"]) == 1
    assert "two images become one picture" in capsys.readouterr().err
    table.write_text("\n".join([f"{head},pneumonia_progression,pneumonia_label_quality", cells]))
    images = convert("ms_cxr_t")
    assert places(images) == [("edema", "worsening", "10002428"), ("pneumonia", "stable", "10002428")]
    picture = np.asarray(Image.open(images.samples[0].path).convert("RGB")).astype(int)
    assert picture.shape == (20, 10 + 40, 3)  # the earlier one at the height of the later one
    assert picture[10, 2].argmax() == 2 and picture[10, 30].argmax() == 0


def test_coda_lm_has_the_categories_of_its_regions_and_the_suggestion(tmp_path, paint, convert):
    paint(tmp_path / "test/images/0001.jpg"), paint(tmp_path / "val/images/0002.jpg")
    folder = tmp_path / "CODA-LM" / "Val"
    folder.mkdir(parents=True)
    regions = {
        "test_0001": ["bollard", "truck", "bollard"],
        "val_0002": ["dog"],
    }
    for name, categories in regions.items():
        scene = {
            "general_perception": {"vehicles": [], "description and explanation": "A road."},
            "region_perception": {
                str(number): {"description and explanation": "It stands.", "box": [0, 0, 1, 1], "category_name": label}
                for number, label in enumerate(categories, start=1)
            },
            "driving_suggestion": "Slow down.",
        }
        (folder / f"{name}.json").write_text(json.dumps(scene))
    words = ["--images", str(tmp_path), "--form", "coda_lm"]
    assert main(["data", "import", str(folder), str(tmp_path / "list.csv"), *words]) == 0
    images = read_images(tmp_path / "list.csv")
    assert {s.id: (s.domain, s.labels) for s in images.samples} == {
        "test/images/0001.jpg": ("coda_test", ("bollard", "truck")),
        "val/images/0002.jpg": ("coda_val", ("dog",)),
    }
    assert (tmp_path / "list.csv").read_text().count("Slow down.") == 2
    (folder / "val_0003.json").write_text('{"regions": 1}')
    assert main(["data", "import", str(folder), str(tmp_path / "more.csv"), *words]) == 1


@pytest.fixture
def drugood(tmp_path):
    """DrugOOD's JSON: its splits, each a list of cases."""
    cases = [(ASPIRIN, 1, 0), (ETHANOL, 0, 0), (BENZENE, 1, 7), (ASPIRIN, 0, 7)]
    cases = [
        {"smiles": smiles, "reg_label": 6.1, "assay_id": 1 + number, "cls_label": label, "domain_id": domain}
        for number, (smiles, label, domain) in enumerate(cases)
    ]
    split = {"train": cases[:2], "ood_val": cases[2:3], "ood_test": cases[3:], "iid_val": [], "iid_test": []}
    content = {"cfg": {"path": {}}, "split": split, "statistics": {}}
    for kind in ("assay", "scaffold", "size"):
        (tmp_path / f"lbap_core_ic50_{kind}.json").write_text(json.dumps(content))
    (tmp_path / "sbap_core_ic50_protein.json").write_text(json.dumps(content))
    return tmp_path / "lbap_core_ic50_assay.json"


@pytest.mark.parametrize("name", [name for name in BENCHMARKS if name.startswith("drugood")])
def test_drugood_is_drawn_from_its_smiles(drugood, convert, name):
    images = convert(name)
    assert places(images) == [
        ("0", "active", None),
        ("0", "inactive", None),
        ("7", "active", None),
        ("7", "inactive", None),
    ]
    assert images.classes == ("active", "inactive")
    pixels = {sample.id: np.asarray(Image.open(sample.path)) for sample in images.samples}
    assert {shown.shape for shown in pixels.values()} == {(224, 224, 3)}
    same = [pixels[id] for id in ("0/active/000000.png", "7/inactive/000003.png")]
    assert (same[0] == same[1]).all()  # one molecule, drawn alike
    other = pixels["0/inactive/000001.png"]
    assert (same[0] != other).any() and (other < 255).any()


def test_molecules_that_cannot_be_drawn_are_one_line(drugood, tmp_path, capsys, monkeypatch):
    text = drugood.read_text()
    drugood.write_text(text.replace(ETHANOL, "C1CC("))
    command = ["data", "import", str(drugood), str(tmp_path / "out")]
    assert main(command) == 1
    assert "no molecule that RDKit can read [C1CC(]" in (said := capsys.readouterr().err) and "Traceback" not in said
    monkeypatch.setitem(sys.modules, "rdkit", None)
    assert main(command) == 1
    assert "pip install '.[molecules]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_every_form_of_the_catalogue_is_tested_here():
    tested = {"terra_incognita", "iwildcam", "fmow", "camelyon17", "ham10000", "nih_chest"}
    tested |= {"mimic_cxr", "ms_cxr_t", "coda_lm"}
    drawn = {name for name in BENCHMARKS if name.startswith("drugood")}
    assert {name for name, benchmark in BENCHMARKS.items() if benchmark.form is not None} == tested | drawn


FOLDERS = [name for name, benchmark in BENCHMARKS.items() if benchmark.form is None]


@pytest.mark.parametrize("name", FOLDERS)
def test_folders_are_read_as_they_are_published(tmp_path, paint, name):
    benchmark = BENCHMARKS[name]
    for domain in benchmark.domains:
        for label in CLASS_LISTS[benchmark.lists][:2]:
            paint(tmp_path / name / domain / label / "0.png")
    images = read_images(tmp_path / name)
    assert images.domains == tuple(benchmark.domains)
    assert f"{tmp_path / name}/{images.domains[0]}/<class>/<image>" in benchmark.describe(tmp_path / name)


def test_a_template_names_columns_and_a_column_that_is_not_there_is_named(tmp_path, paint, capsys):
    paint(tmp_path / "a-0.png"), paint(tmp_path / "b-1.png")
    (tmp_path / "list.csv").write_text("stem,site,kind\na,north,x\nb,south,y\n,south,y\n")
    command = ["data", "import", str(tmp_path / "list.csv"), str(tmp_path / "out"), "--columns"]
    assert main([*command, "image={stem}-{row}.png,domain=at {site},label=kind"]) == 0
    assert "left out: 1 image without image" in capsys.readouterr().out  # nothing of a template with an empty cell
    assert places(read_images(tmp_path / "out")) == [("at north", "x", None), ("at south", "y", None)]
    assert main([*command[:-2], str(tmp_path / "no"), "--columns", "image={step}.png,domain=site,label=kind"]) == 1
    assert "no column named step" in (said := capsys.readouterr().err) and "did you mean stem" in said


def test_an_unknown_form_names_the_nearest(tmp_path, capsys):
    (tmp_path / "list.csv").write_text("image,domain,label\n")
    assert main(["data", "import", str(tmp_path / "list.csv"), str(tmp_path / "o"), "--form", "camelyon"]) == 2
    assert "did you mean camelyon17?" in capsys.readouterr().err
