"""Display names from a table or a config, through `fit`, `evaluate` and `predict`: asked by name, known by class."""

import csv
import io
import json

import pytest
import yaml
from tests.evaluation.small import in_this_process

from throughline.cli.main import main
from throughline.domains.folders import read_images
from throughline.evaluation.saved_model import open_model, read_record
from throughline.experiment import run

pytestmark = pytest.mark.slow

NAMES = {"boat": ["ship", "vessel"], "dog": ["hound"]}
OPTIONS = "ship, cat, hound"


@pytest.fixture
def call(capsys):
    """Runs a command line; gives its exit code, stdout and stderr."""

    def call(*arguments):
        code = main([*map(str, arguments)])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


@pytest.fixture(scope="module")
def table(images):
    path = images / "images.csv"
    rows = [(s.id, s.domain, s.label, "|".join(NAMES.get(s.label, ()))) for s in read_images(images).samples]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("image", "domain", "label", "class_name"), *rows])
    yield path
    path.unlink()


@pytest.fixture(scope="module")
def named_preset(preset):
    path = preset.with_name("named.yaml")
    path.write_text(yaml.safe_dump(yaml.safe_load(preset.read_text()) | {"data": {"images": "X", "names": NAMES}}))
    return path


@pytest.fixture(scope="module")
def named_model(table, preset, tmp_path_factory):
    out = tmp_path_factory.mktemp("named") / "model"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "run_units", in_this_process)
        assert main(["fit", str(table), "--out", str(out), "--preset", str(preset)]) == 0
    return out


def test_a_saved_model_remembers_the_names(named_model):
    record = read_record(named_model)
    assert record.names == {label: tuple(names) for label, names in NAMES.items()}
    assert record.classes == ("boat", "cat", "dog")
    questions = open_model(str(named_model)).questions
    assert OPTIONS in record.prompts["label"] and questions.class_names == ("ship", "cat", "hound")
    assert questions.names == record.names


def test_answers_are_classes_of_the_folder(named_model, images, call):
    _, out, _ = call("predict", named_model, images / "photo", "--no-chain", "--csv", "-")
    assert {row["label"] for row in csv.DictReader(io.StringIO(out))} <= {"boat", "cat", "dog"}
    code, out, _ = call("evaluate", named_model, images, "--json")
    assert code == 0 and json.loads(out)["absent_classes"] == []
    said = {row["predicted"] for row in json.loads(out)["confusions"]} - {"(no answer)"}
    assert said <= {"boat", "cat", "dog"}


def test_training_and_likelihood_speak_of_the_display_name(named_model, table, monkeypatch):
    from throughline.evaluation import answers
    from throughline.evaluation.answers import answer_samples

    scored = []
    likelihood = answers.label_log_likelihood
    monkeypatch.setattr(
        answers, "label_log_likelihood", lambda *given: (scored.append(given[2]), likelihood(*given))[1]
    )
    opened = open_model(str(named_model))
    settings = opened.answering.model_copy(update={"answers": ("likelihood",)})
    [prediction] = answer_samples(opened.mllm, read_images(table).samples[:1], opened.questions.build(settings), 1)
    assert scored == [("ship", "cat", "hound")]
    assert prediction.predicted in {"boat", "cat", "dog"}


def test_a_plain_checkpoint_is_asked_by_the_tables_names(table, images, preset, call, monkeypatch):
    from throughline.evaluation import assessment

    asked, answer = [], assessment.answer_samples
    monkeypatch.setattr(
        assessment, "answer_samples", lambda *given, **more: (asked.append(given[2]), answer(*given, **more))[1]
    )
    units = []
    for source in (table, images):
        code, out, _ = call("evaluate", preset.parent / "tiny-base", source, "--json")
        assert code == 0
        units.append(json.loads(out)["results"][0]["unit"])
    texts = [questions[0].prompt(read_images(images).samples[0]).text for questions in asked]
    assert OPTIONS in texts[0] and "boat, cat, dog" in texts[-1]
    assert units[0] != units[1]  # other questions, another hash


def test_names_of_the_tables_classes_that_collide_are_one_line(images, preset, call, tmp_path, monkeypatch):
    monkeypatch.setattr("throughline.evaluation.saved_model.open_model", None)
    path = images / "colliding.csv"
    path.write_text(
        "image,domain,label,class_name\nphoto/cat/0.png,photo,cat,hound\nphoto/dog/0.png,photo,dog,hound\n"
        "photo/boat/0.png,photo,boat,\n"
    )
    for command in (["evaluate", preset.parent / "tiny-base", path], ["fit", path, "--out", tmp_path / "m"]):
        code, out, errors = call(*command)
        assert (code, out) == (1, "")
        assert "one of another class" in errors.splitlines()[-1] and "hound" in errors.splitlines()[-1]
    assert not (tmp_path / "m").exists()
    path.unlink()


def test_the_names_of_a_config_are_taken_over_by_fit(named_preset, images, tmp_path, call, monkeypatch):
    monkeypatch.setattr(run, "run_units", in_this_process)
    code, out, errors = call("fit", images, "--out", tmp_path / "m", "--preset", named_preset, "--json")
    assert code == 0, errors
    assert json.loads(out)["names"] == NAMES
    assert OPTIONS in json.loads(out)["prompts"]["label"]


def test_other_classes_keep_the_names_that_the_model_knows(named_model):
    assert open_model(str(named_model), ("dog", "cup")).questions.class_names == ("hound", "cup")


def test_without_names_a_record_has_none(model):
    record = read_record(model)
    assert record.names == {} and "names" not in record.inputs
