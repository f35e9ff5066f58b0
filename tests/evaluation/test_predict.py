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

pytestmark = pytest.mark.slow

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
        ([model, image, "--csv", empty], 1, "a folder has this name"),
        ([model, image, "--csv", "-", "--json"], 2, "both write to stdout"),
        ([model, image, "--classes", "cat"], 2, "one class"),
        ([preset.parent / "tiny-base", image], 2, "--classes"),
        ([images, image], 1, "no model here"),
    ):
        found, out, errors = predict(*arguments)
        assert (found, out) == (code, ""), arguments
        assert said in errors and len(errors.splitlines()) == 1


@pytest.fixture
def asked_about(monkeypatch):
    """The images that a model is shown, in order."""
    from throughline.evaluation import image_answers

    shown, answer = [], image_answers.answer_samples

    def counting(mllm, samples, *arguments, **options):
        shown.extend(sample.id for sample in samples)
        return answer(mllm, samples, *arguments, **options)

    monkeypatch.setattr(image_answers, "answer_samples", counting)
    return shown


def test_the_same_call_continues_a_file_whose_last_row_is_torn(predict, model, images, tmp_path, asked_about):
    file = tmp_path / "answers.csv"
    assert predict(model, images, "--csv", file, "--batch", 4)[0] == 0
    whole, shown = file.read_bytes(), [*asked_about]
    for torn in (len(whole) // 2, len(whole) - 1, 20, 0):
        asked_about.clear()
        file.write_bytes(whole[:torn])
        code, out, errors = predict(model, images, "--csv", file, "--batch", 4)
        assert (code, out, file.read_bytes()) == (0, "", whole)
        done = max(whole[:torn].decode(errors="ignore").count(f"\n{images}"), 1) - 1
        assert asked_about == shown[done // 4 * 4 :]  # a torn batch is asked whole
        assert (f"{done} of 12 images already have an answer in {file}" in errors) == (done > 0)


def test_a_finished_file_needs_no_model(predict, model, images, tmp_path, monkeypatch):
    file = tmp_path / "answers.csv"
    predict(model, images, "--csv", file, "--no-chain")
    whole = file.read_bytes()
    monkeypatch.setattr("throughline.evaluation.saved_model.open_model", None)
    code, out, errors = predict(model, images, "--csv", file, "--no-chain", "--json")
    assert (code, json.loads(out), file.read_bytes()) == (0, [], whole)
    assert errors.splitlines() == [f"12 of 12 images already have an answer in {file}"]


def test_a_file_of_another_call_is_told_before_a_model_is_loaded(predict, model, preset, images, tmp_path, monkeypatch):
    file, image = tmp_path / "answers.csv", images / "photo" / "cat"
    predict(model, image, "--csv", file, "--no-chain")
    whole = file.read_bytes()
    monkeypatch.setattr("throughline.evaluation.saved_model.open_model", None)
    for arguments, said in (
        ([model, image], "no_chain: True → False"),
        ([model, image, "--no-chain", "--min-confidence", "0.7"], "min_confidence: 0.0 → 0.7"),
        ([model, image, "--no-chain", "--classes", "cat,dog"], "classes changed"),
        ([model, images / "photo" / "dog", "--no-chain"], "another image"),
        ([preset.parent / "tiny-base", image, "--no-chain", "--classes", "boat,cat,dog"], "model changed"),
    ):
        code, out, errors = predict(*arguments, "--csv", file)
        assert (code, out, file.read_bytes()) == (1, "", whole), arguments
        assert said in errors and len(errors.splitlines()) == 1


def test_mended_images_are_answered_by_the_next_call(predict, model, images, tmp_path):
    folder, file = tmp_path / "mixed", tmp_path / "answers.csv"
    shutil.copytree(images / "photo", folder)
    (folder / "cat" / "0.png").write_bytes(b"no image")
    for _ in range(2):  # an image that stays broken is told each time
        code, _, errors = predict(model, folder, "--csv", file, "--no-chain")
        assert code == 1 and "could not be read" in errors
    shutil.copyfile(images / "photo" / "cat" / "0.png", folder / "cat" / "0.png")
    assert predict(model, folder, "--csv", file, "--no-chain")[0] == 0
    rows, fresh = ([*csv.reader(io.StringIO(text))] for text in (file.read_text(), printed(predict, model, folder)))
    assert [[row[0], row[1], row[5]] for row in rows] == [[row[0], row[1], row[5]] for row in fresh]


def printed(predict, model, folder):
    return predict(model, folder, "--csv", "-", "--no-chain")[1]


@pytest.mark.parametrize("to_file", [True, False])
def test_ctrl_c_says_whether_the_same_command_goes_on(predict, model, images, tmp_path, monkeypatch, to_file):
    from throughline.evaluation import image_answers

    answer = image_answers.predict

    def stopped(*arguments, **options):
        for number, found in enumerate(answer(*arguments, **options)):
            if number == 3:
                raise KeyboardInterrupt
            yield found

    file = tmp_path / "answers.csv"
    with monkeypatch.context() as patch:
        patch.setattr(image_answers, "predict", stopped)
        code, _, errors = predict(model, images, "--no-chain", *(["--csv", file] if to_file else []))
    assert code == 3
    if not to_file:
        assert "without --csv FILE the same command starts from the beginning" in errors
        return
    assert "the same command continues" in errors and len(file.read_text().splitlines()) == 4
    predict(model, images, "--no-chain", "--csv", file)
    assert file.read_text() == predict(model, images, "--no-chain", "--csv", "-")[1]


def test_a_label_that_is_not_sure_enough_is_unknown(predict, model, images):
    sure = json.loads(predict(model, images, "--json")[1])
    least = sorted(row["confidence"] for row in sure)[6]
    for arguments, doubtful in (
        (["--min-confidence", least], lambda row: row["confidence"] < least),
        (["--require-agreement"], lambda row: not row["agree"]),
        (["--min-confidence", 1, "--require-agreement"], lambda row: True),
        (["--min-confidence", 0], lambda row: False),
    ):
        expected = [row | ({"label": "unknown"} if doubtful(row) else {}) for row in sure]
        assert json.loads(predict(model, images, "--json", *arguments)[1]) == expected
    _, *rows = csv.reader(io.StringIO(predict(model, images, "--csv", "-", "--min-confidence", least)[1]))
    assert [row[1] == "unknown" for row in rows] == [row["confidence"] < least for row in sure]


def test_thresholds_that_mean_nothing_are_refused(predict, model, images, preset):
    image = images / "photo" / "cat" / "0.png"
    for arguments, said in (
        (["--min-confidence", "80"], "less than or equal to 1"),
        (["--min-confidence", "nan"], "min-confidence"),
        (["--require-agreement", "--no-chain"], "needs chains"),
        (["--min-confidence", "0.5", "--classes", "cat,unknown"], "a class has the name unknown"),
    ):
        code, out, errors = predict(model, image, *arguments)
        assert (code, out) == (2, ""), arguments
        assert said in errors.splitlines()[-1]
