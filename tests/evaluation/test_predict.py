"""`throughline predict`: files and folders in, a row for every image out, whatever state the image is in."""

import csv
import io
import json
import shutil

import numpy as np
import pytest
from tests.evaluation.questions import answers_of
from tests.evaluation.small import CLASSES

from throughline.cli.main import main
from throughline.domains.folders import read_images
from throughline.evaluation.saved_model import open_model

COLUMNS = ["image", "label", "confidence", "reasoning_label", "agree", "outcome", "chain"]


@pytest.fixture
def predict(capsys):
    """Runs the verb; gives its exit code, stdout and stderr."""

    def predict(*arguments):
        code = main(["predict", *map(str, arguments)])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return predict


def test_the_csv_has_a_row_for_every_image_below_a_folder(predict, model, images):
    code, out, _ = predict(model, images, "--csv", "-")
    header, *rows = csv.reader(io.StringIO(out))
    assert code == 0 and header == COLUMNS
    assert [row[0] for row in rows] == [str(sample.path) for sample in read_images(images).samples]
    for row in rows:
        assert row[1] in CLASSES
        assert 1 / len(CLASSES) <= float(row[2]) <= 1
        assert row[4] == ("true" if row[3] == row[1] else "false")


def test_the_answers_are_those_of_the_measured_paths(predict, model, images):
    opened = open_model(str(model))
    samples = read_images(images).samples
    expected = {
        (p.sample_id, p.answer): p for p in answers_of(opened.mllm, samples, opened.answering, opened.questions)
    }
    _, out, _ = predict(model, images, "--json")
    for sample, row in zip(samples, json.loads(out), strict=True):
        likelihood, said = expected[sample.id, "likelihood"], expected[sample.id, "reasoning"]
        assert row["label"] == likelihood.predicted
        np.testing.assert_allclose(list(row["probabilities"].values()), likelihood.probabilities, atol=1e-4)
        assert row["confidence"] == max(row["probabilities"].values())
        assert (row["chain"], row["outcome"], row["reasoning_label"]) == (said.text, said.outcome, said.predicted)


def test_a_single_image_shows_its_chain_below_the_table(predict, model, images):
    path = images / "photo" / "cat" / "0.png"
    _, out, _ = predict(model, path, "--json")
    code, table, _ = predict(model, path)
    assert code == 0 and "1 image\n" in table
    assert json.loads(out)[0]["chain"].splitlines()[0].strip() in table


def test_without_the_chain_only_the_label_question_is_asked(predict, model, images):
    _, out, _ = predict(model, images / "photo" / "cat", "--no-chain", "--json")
    for row in json.loads(out):
        assert row["label"] in CLASSES
        assert row["chain"] == "" and row["reasoning_label"] is None and row["agree"] is None


def test_other_classes_are_answered_zero_shot(predict, model, preset, images):
    for name in (model, preset.parent / "tiny-base"):
        code, out, _ = predict(name, images / "photo" / "cat", "--classes", "house,clock", "--no-chain", "--json")
        assert code == 0
        assert {row["label"] for row in json.loads(out)} <= {"house", "clock"}


def test_images_that_cannot_be_read_get_a_row_and_all_others_an_answer(predict, model, images, tmp_path):
    folder = tmp_path / "mixed"
    shutil.copytree(images / "photo", folder)
    (folder / "cat" / "0.png").write_bytes(b"no image")
    (folder / "dog" / "0.png").write_bytes(b"")
    (folder / "notes.txt").write_text("no image, and not named as one")
    file = tmp_path / "answers.csv"
    code, _, errors = predict(model, folder, "--csv", file, "--no-chain")
    rows = list(csv.DictReader(file.open()))
    assert code == 1
    assert len(rows) == 6
    failed = {row["image"] for row in rows if row["outcome"] == "error"}
    assert failed == {str(folder / "cat" / "0.png"), str(folder / "dog" / "0.png")}
    assert all(row["label"] == "" for row in rows if row["image"] in failed)
    assert all(row["label"] in CLASSES for row in rows if row["image"] not in failed)
    assert "2 of 6 images could not be read" in errors.splitlines()[-1]


def test_an_image_named_twice_is_answered_once(predict, model, images):
    path = images / "photo" / "cat" / "0.png"
    _, out, _ = predict(model, path, path.parent, path, "--no-chain", "--json")
    assert [row["image"] for row in json.loads(out)] == [str(path), str(path.with_name("1.png"))]


def test_batches_answer_the_same(predict, model, images):
    answers = [json.loads(predict(model, images, "--no-chain", "--json", "--batch", n)[1]) for n in (1, 5)]
    for one, other in zip(*answers, strict=True):
        assert one["label"] == other["label"]
        assert one["confidence"] == pytest.approx(other["confidence"], abs=1e-4)


def test_a_fault_is_one_line_before_a_model_is_loaded(predict, model, images, preset, tmp_path, monkeypatch):
    monkeypatch.setattr("throughline.evaluation.saved_model.open_model", None)
    empty = tmp_path / "empty"
    empty.mkdir()
    image = images / "photo" / "cat" / "0.png"
    blocked = image / "answers.csv"
    for arguments, code, said in (
        ([model, tmp_path / "nowhere"], 1, "no such image or folder"),
        ([model, empty], 1, "no images found"),
        ([model, image, "--csv", blocked], 1, "cannot write"),
        ([model, image, "--csv", empty], 1, "a folder is in the way"),
        ([model, image, "--csv", "-", "--json"], 2, "both want stdout"),
        ([model, image, "--classes", "cat"], 2, "one class"),
        ([preset.parent / "tiny-base", image], 2, "--classes"),
        ([images, image], 1, "no model here"),
    ):
        found, out, errors = predict(*arguments)
        assert (found, out) == (code, ""), arguments
        assert said in errors and len(errors.splitlines()) == 1
