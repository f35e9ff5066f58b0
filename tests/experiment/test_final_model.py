"""Fitting the final model: what it saves, that it can be stopped anywhere, and what it refuses."""

import json
import shutil
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tests.evaluation.small import in_this_process, write_chains, write_images, write_preset
from tests.forks import typed

from throughline.cli.main import main
from throughline.core.files import read_json_lines
from throughline.domains.folders import read_images
from throughline.evaluation.saved_model import open_model, read_record
from throughline.experiment import final_model, run
from throughline.experiment.final_model import fit_config, fit_model
from throughline.mllm import lora
from throughline.questions.question_set import make_question_set
from throughline.training import trainer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("world") / "animals")


@pytest.fixture(scope="module")
def journal(world, tmp_path_factory):
    return write_chains(world, tmp_path_factory.mktemp("chains") / "journal-0.jsonl")


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    return write_preset(tmp_path_factory.mktemp("preset"))


@pytest.fixture
def here(monkeypatch):
    monkeypatch.setattr(run, "run_units", in_this_process)


@pytest.fixture(scope="module")
def undisturbed(world, journal, preset, tmp_path_factory):
    """The whole method, labels and chains and two rounds, never stopped."""
    out = tmp_path_factory.mktemp("models") / "undisturbed"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "run_units", in_this_process)
        return fit_model(fit_config(world, chains=str(journal), preset=str(preset)), out)


def weights(folder: Path) -> bytes:
    return (folder / "adapter" / "adapter_model.safetensors").read_bytes()


def test_everything_that_asking_needs_is_saved_together(undisturbed, world):
    folder, record, images = undisturbed.folder, read_record(undisturbed.folder), read_images(world)
    assert {path.name for path in folder.iterdir()} == {
        "README.md",
        "adapter",
        "rounds.jsonl",
        "throughline.json",
        "training.jsonl",
    }
    assert record.method == "mtct_sarr"
    assert record.classes == images.classes
    assert record.prompts["reasoning"].startswith(record.prompts["label"])
    assert record.images.by_domain == {"photo": 6, "sketch": 6}
    assert record.images.fingerprint == images.fingerprint()
    assert record.chains.accepted == 12
    assert record.checkpoint.name == "tiny-base"
    assert record.settings["training"]["stage"]["lr"] == 5e-3
    assert record.versions["torch"]


def test_images_of_several_classes_are_asked_about_as_they_were_trained_on(here, world, preset, tmp_path, capsys):
    table = world.parent / "several.csv"
    rows = [f"{path.relative_to(world.parent)},{path.parts[-3]},{path.parts[-2]}" for path in world.rglob("*.png")]
    lines = [f"{row},{label if label == 'cat' else f'{label}|cat'}" for row in rows for label in [row.split(",")[2]]]
    table.write_text("\n".join(["image,domain,label,labels", *lines]))
    fitted = fit_model(fit_config(table, preset=str(preset)), tmp_path / "model")
    questions = make_question_set(("boat", "cat", "dog"), several=True)
    assert read_record(fitted.folder).questions == questions and "Name all that apply" in questions.label
    assert open_model(str(fitted.folder), ["boat", "cat"]).questions.several
    assert main(["predict", str(fitted.folder), str(world), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 12
    assert main(["evaluate", str(fitted.folder), str(table), "--json"]) == 0
    lines = json.loads(capsys.readouterr().out)["results"]
    assert {line["answer"] for line in lines} == {"label", "reasoning", "likelihood"}


def test_all_images_of_all_domains_are_trained_on(undisturbed):
    rounds = read_json_lines(undisturbed.folder / "rounds.jsonl")
    assert [(line["round"], line["sampled"], line["trained"]) for line in rounds] == [(1, 12, 12), (2, 12, 12)]
    # 12 images in batches of 4, three times over
    assert undisturbed.record.optimiser_steps == 3 * 3
    stages = {line["stage"] for line in read_json_lines(undisturbed.folder / "training.jsonl")}
    assert stages == {"first", "round 1", "round 2"}


def test_the_adapter_of_the_last_round_is_the_one_that_is_saved(undisturbed):
    factors = load_file(undisturbed.folder / "adapter" / "adapter_model.safetensors")
    assert any(value.abs().max() > 0 for name, value in factors.items() if "lora_B" in name)


def test_the_card_says_what_the_record_says(undisturbed):
    card = (undisturbed.folder / "README.md").read_text()
    record = undisturbed.record
    for said in (record.prompts["label"], "boat, cat, dog", "photo (6), sketch (6)", record.checkpoint.name, "0.005"):
        assert said in card
    assert card.startswith("---\nlibrary_name: peft\n")


class StoppedHere(Exception):
    """Stands for a kill: nothing after it is run."""


def stop_at(monkeypatch, module, name, call):
    """Lets `module.name` end the process's work when it is called for the `call`-th time."""
    original, calls = getattr(module, name), []

    def stopping(*arguments, **settings):
        calls.append(name)
        if len(calls) == call:
            raise StoppedHere
        return original(*arguments, **settings)

    monkeypatch.setattr(module, name, stopping)


@pytest.mark.parametrize(
    ("module", "name", "call"),
    [
        (trainer, "write_atomically", 2),  # in the first stage, its second checkpoint without the completion mark
        (trainer, "write_atomically", 3 + 3),  # in round 1, its third checkpoint
        (lora, "save_adapter", 3),  # round 2 trained, its adapter not saved
        (final_model, "model_card", 1),  # the adapter published, the record not
    ],
)
@pytest.mark.usefixtures("here")
def test_a_fit_that_is_stopped_and_started_again_gives_the_same_adapter(
    undisturbed, world, journal, preset, tmp_path, monkeypatch, module, name, call
):
    config = fit_config(world, chains=str(journal), preset=str(preset))
    with monkeypatch.context() as stopped:
        stop_at(stopped, module, name, call)
        with pytest.raises(StoppedHere):
            fit_model(config, tmp_path / "model")
    assert not (tmp_path / "model" / "throughline.json").exists()
    again = fit_model(config, tmp_path / "model")
    assert weights(again.folder) == weights(undisturbed.folder)
    assert (again.folder / "rounds.jsonl").read_bytes() == (undisturbed.folder / "rounds.jsonl").read_bytes()
    assert not (again.folder / ".fitting").exists()


def test_a_process_that_is_killed_and_started_again_gives_the_same_adapter(world, preset, tmp_path, monkeypatch):
    out, said = tmp_path / "model", tmp_path / "said"
    first = typed(["fit", str(world), "--out", str(out), "--preset", str(preset)], said)
    deadline = time.monotonic() + 120
    while not list(out.glob(".fitting/units/*/checkpoints/*/complete")):
        assert first.is_alive(), said.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    first.kill()
    first.join()
    assert not (out / "throughline.json").exists()
    monkeypatch.setattr(run, "run_units", in_this_process)
    again, undisturbed = (
        fit_model(fit_config(world, preset=str(preset)), folder) for folder in (out, tmp_path / "undisturbed")
    )
    assert again.worked and weights(again.folder) == weights(undisturbed.folder)


@pytest.mark.usefixtures("here")
def test_a_model_that_is_there_is_not_fitted_again_and_another_is_refused(undisturbed, world, journal, preset, capsys):
    before = weights(undisturbed.folder)
    command = ["fit", str(world), "--out", str(undisturbed.folder), "--chains", str(journal), "--preset", str(preset)]
    assert main(command) == 0
    assert "this model is finished" in capsys.readouterr().out
    assert main([*command, "--epochs", "2"]) == 1
    errors = capsys.readouterr().err
    assert "another model is here (" in errors and "stage.epochs: 1.0 → 2.0" in errors
    assert weights(undisturbed.folder) == before
    assert not (undisturbed.folder / ".fitting").exists()


@pytest.mark.usefixtures("here")
def test_one_domain_is_enough_since_none_is_held_out(preset, tmp_path):
    world = write_images(tmp_path / "single", domains=("photo",))
    journal = write_chains(world, tmp_path / "journal-0.jsonl")
    config = fit_config(world, method="mtct", chains=str(journal), preset=str(preset))
    assert fit_model(config, tmp_path / "model").record.domains == ("photo",)


def test_the_method_follows_from_the_chains(world, journal, preset):
    assert fit_config(world, preset=str(preset)).methods == ("cls",)
    assert fit_config(world, chains=str(journal), preset=str(preset)).methods == ("mtct_sarr",)
    assert fit_config(world, chains="describer").chains.teacher == "describer"


def test_another_checkpoint_than_the_pocket_gets_the_papers_values(world):
    pocket, other = fit_config(world), fit_config(world, changes={"model.checkpoint": "some/8B", "model.hub": True})
    assert pocket.training.stage.batch == 16
    assert pocket.data.train_per_domain is None  # the demo's limit is no limit of a final model
    assert (other.training.stage.batch, other.training.stage.lr, other.training.rounds) == (128, 5e-4, 3)
    assert fit_config(world, preset="paper/pacs").model.checkpoint == "OpenGVLab/InternVL3-8B-hf"


@pytest.fixture
def line(world, preset, tmp_path, capsys):
    """The one line that a faulty command line ends in, after nothing was written."""

    def line(*arguments, code, images=world, out=tmp_path / "model"):
        assert main(["fit", str(images), "--out", str(out), "--preset", str(preset), *map(str, arguments)]) == code
        errors = [text for text in capsys.readouterr().err.splitlines() if text.startswith("throughline: error")]
        assert len(errors) == 1
        assert not out.is_dir()
        return errors[0]

    return line


def test_a_fault_is_one_line_and_nothing_is_written(line, world, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    other = write_chains(write_images(tmp_path / "other", domains=("cartoon",), first_seed=50), tmp_path / "o.jsonl")
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert "no such folder" in line(images=tmp_path / "nowhere", code=1)
    assert "no images found" in line(images=empty, code=1)
    assert "learns from reasoning chains" in line("--method", "mtct", code=2)
    assert "learns from labels only" in line("--method", "cls", "--chains", other, code=2)
    assert "no chain journal here" in line("--chains", tmp_path / "none.jsonl", code=1)
    assert "no chain of a source image is accepted" in line("--chains", other, code=1)
    assert "the describer knows drawn images only" in line("--chains", "describer", code=1)
    assert "no such checkpoint" in line("--checkpoint", tmp_path / "none", code=1)
    assert "no checkpoint in this folder" in line("--checkpoint", world, code=1)
    single = write_images(tmp_path / "single", classes=("cat",))
    assert "only one class (cat)" in line(images=single, code=1)
    assert "a file has the name" in line(out=blocked, code=1)
    assert "cannot write" in line(out=blocked / "model", code=1)
    assert "greater than 0" in line("--lr", "-1", code=2)


def test_a_folder_with_something_else_in_it_is_left_alone(world, preset, tmp_path, capsys):
    shutil.copytree(world, tmp_path / "mine")
    before = sorted(path for path in (tmp_path / "mine").rglob("*"))
    assert main(["fit", str(world), "--out", str(tmp_path / "mine"), "--preset", str(preset)]) == 1
    assert "holds something else than a model" in capsys.readouterr().err
    assert sorted(path for path in (tmp_path / "mine").rglob("*")) == before


@pytest.mark.usefixtures("here")
def test_the_record_is_json_alone_for_a_program(undisturbed, world, journal, preset, capsys):
    out = str(undisturbed.folder)
    assert main(["fit", str(world), "--out", out, "--chains", str(journal), "--preset", str(preset), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown == json.loads((undisturbed.folder / "throughline.json").read_text())
    assert shown["schema"] == 1
