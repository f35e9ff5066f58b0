"""`throughline evaluate`: numbers that can be counted again from the answers, and class lists that must fit."""

import json
import math
import shutil
from collections import Counter

import pytest
from tests.evaluation.questions import answers_of
from tests.evaluation.small import CLASSES, DOMAINS, PER_CLASS, write_images

from throughline.cli.main import main
from throughline.domains.folders import read_images
from throughline.domains.splits import split_domains
from throughline.evaluation.saved_model import open_model

pytestmark = pytest.mark.slow

ANSWERS = ("label", "reasoning", "likelihood")
LINE_KEYS = {
    *("schema", "unit", "dataset", "model", "targets", "method", "seed", "round", "answer", "split", "factors", "n"),
    *("correct", "accuracy", "metrics", "unparsed", "errors", "seconds"),
}


@pytest.fixture
def evaluate(capsys):
    """Runs the verb; gives its exit code, stdout and stderr."""

    def evaluate(*arguments):
        code = main(["evaluate", *map(str, arguments)])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return evaluate


@pytest.fixture(scope="module")
def counted(model, images):
    """Right answers by (answer path, domain), from the answers themselves."""
    opened = open_model(str(model))
    said = answers_of(opened.mllm, read_images(images).samples, opened.answering, opened.questions)
    return Counter((p.answer, p.domain) for p in said if p.predicted == p.sample_id.split("/")[1])


def wilson(correct, n, z=1.959963984540054):
    """Wilson (1927), by hand."""
    share, middle = correct / n, z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (share + middle - half) / (1 + 2 * middle), (share + middle + half) / (1 + 2 * middle)


def test_the_lines_have_the_contracts_shape_and_count_right(evaluate, model, images, counted, tmp_path):
    code, out, _ = evaluate(model, images, "--json", "--out", tmp_path / "measured.json")
    shown = json.loads(out)
    lines = {(line["answer"], tuple(line["targets"])): line for line in shown["results"]}
    assert code == 0
    assert set(lines) == {(answer, targets) for answer in ANSWERS for targets in (("photo",), ("sketch",), DOMAINS)}
    for (answer, targets), line in lines.items():
        correct = sum(counted[answer, domain] for domain in targets)
        n = len(targets) * len(CLASSES) * PER_CLASS
        assert set(line) == LINE_KEYS
        assert (line["n"], line["correct"], line["accuracy"]) == (n, correct, correct / n)
        assert (line["dataset"], line["model"], line["method"]) == ("animals", "tiny-base", "cls")
        ends = (line["metrics"]["accuracy_low"], line["metrics"]["accuracy_high"])
        assert ends == pytest.approx(wilson(correct, n), abs=1e-5)
        assert line["metrics"]["balanced_accuracy"] == pytest.approx(correct / n)  # classes of one size
        assert 0 <= line["metrics"]["macro_f1"] <= 1
    assert json.loads((tmp_path / "measured.json").read_text()) == shown


def test_wrong_answers_are_counted_by_kind(evaluate, model, images):
    shown = json.loads(evaluate(model, images, "--json")[1])
    whole = {line["answer"]: line for line in shown["results"] if len(line["targets"]) == 2}
    for answer, line in whole.items():
        wrong = [one for one in shown["confusions"] if one["answer"] == answer]
        assert sum(one["count"] for one in wrong) == line["n"] - line["correct"]
        assert sum(one["count"] for one in wrong if one["predicted"] == "(no answer)") == line["unparsed"]
        assert all(one["of"] == len(DOMAINS) * PER_CLASS and one["true"] != one["predicted"] for one in wrong)


def test_the_tables_say_what_a_reader_has_to_know(evaluate, model, images, tmp_path):
    code, out, _ = evaluate(model, images)
    assert code == 0
    for said in ("label path", "reasoning path", "likelihood path", "95 % interval", "all images", "photo", "sketch"):
        assert said in out
    assert "was trained on these very images" in " ".join(out.split())
    other = write_images(tmp_path / "others", domains=("photo", "cartoon"), classes=("boat", "cat"), first_seed=90)
    text = " ".join(evaluate(model, other)[1].split())
    assert "classes without an image here: dog" in text
    assert "domains of the same name: photo" in text


def test_a_split_is_the_one_domainbed_cuts(evaluate, model, images):
    splits = split_domains(read_images(images), 3)
    for part, ids in (("in", {d: s.inside for d, s in splits.items()}), ("out", {d: s.out for d, s in splits.items()})):
        shown = json.loads(evaluate(model, images, "--split", part, "--trial-seed", 3, "--json")[1])
        sizes = {line["targets"][0]: line["n"] for line in shown["results"] if len(line["targets"]) == 1}
        assert sizes == {domain: len(names) for domain, names in ids.items()}
        assert {line["split"] for line in shown["results"]} == {part}


def test_a_plain_checkpoint_is_measured_on_the_folders_classes(evaluate, preset, images):
    code, out, _ = evaluate(preset.parent / "tiny-base", images, "--json")
    assert code == 0
    assert {line["method"] for line in json.loads(out)["results"]} == {"zero_shot"}


def test_measuring_twice_differs_in_seconds_only(evaluate, model, images):
    first, second = (json.loads(evaluate(model, images, "--json")[1])["results"] for _ in range(2))
    for line in (*first, *second):
        del line["seconds"]
    assert first == second


def test_an_image_that_cannot_be_read_is_a_wrong_answer_and_exit_1(evaluate, model, images, tmp_path):
    spoilt = tmp_path / "spoilt"
    shutil.copytree(images, spoilt)
    (spoilt / "photo" / "cat" / "0.png").write_bytes(b"no image")
    code, out, errors = evaluate(model, spoilt, "--json")
    assert code == 1
    line = next(line for line in json.loads(out)["results"] if line["targets"] == ["photo"])
    assert (line["n"], line["errors"]) == (6, 1)
    assert str(spoilt / "photo" / "cat" / "0.png") in errors.splitlines()[-1]


def test_a_fault_is_one_line_before_a_model_is_loaded(evaluate, model, images, tmp_path, monkeypatch):
    monkeypatch.setattr("throughline.evaluation.saved_model.open_model", None)
    zoo = write_images(tmp_path / "zoo", classes=("cat", "zebra"))
    for arguments, said in (
        ([model, zoo], "the model does not know the class zebra"),
        ([model, tmp_path / "nowhere"], "no such folder"),
        ([tmp_path / "nowhere", images], "no such model or checkpoint"),
        ([images, images], "no model here"),
        ([model, images, "--out", zoo], "a folder has this name"),
        ([model, images, "--out", zoo / "photo" / "cat" / "0.png" / "x.json"], "cannot write"),
    ):
        code, out, errors = evaluate(*arguments)
        assert (code, out) == (1, ""), arguments
        assert said in errors and len(errors.splitlines()) == 1
