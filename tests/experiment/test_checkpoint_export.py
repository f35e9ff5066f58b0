"""`throughline export --merge`: what it writes is a checkpoint that says what the model says, or nothing is there."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tests.evaluation.small import in_this_process, write_chains, write_images, write_preset

from throughline.cli.main import main
from throughline.domains.folders import read_images
from throughline.evaluation.saved_model import RECORD, open_model, read_record
from throughline.experiment import checkpoint_export, run
from throughline.experiment.checkpoint_export import EXPORT_RECORD
from throughline.experiment.config_files import resolved_yaml
from throughline.experiment.final_model import fit_config, fit_model
from throughline.mllm.checkpoints import checkpoint_source
from throughline.mllm.images import ImageReader
from throughline.mllm.likelihood import label_log_likelihood
from throughline.mllm.load import load_mllm
from throughline.questions.prompt import user_prompt

pytestmark = pytest.mark.slow

Export = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("world") / "animals")


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_preset(tmp_path_factory.mktemp("preset"))


@pytest.fixture(scope="module")
def run_folder(world: Path, preset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a unit of one round; a fit's workplace is one in small."""
    kept = tmp_path_factory.mktemp("runs") / "kept"
    journal = write_chains(world, tmp_path_factory.mktemp("chains") / "journal-0.jsonl")
    config = fit_config(world, chains=str(journal), preset=str(preset), changes={"training.rounds": 1})

    def keep(units: Any, job: Any, **options: Any) -> None:
        in_this_process(units, job, **options)
        shutil.copytree(job.run_folder, kept)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "run_units", keep)
        fit_model(config, kept.parent / "model")
    (kept / "config.yaml").write_text(resolved_yaml(config))
    return kept


@pytest.fixture(scope="module")
def model(run_folder: Path) -> Path:
    return run_folder.parent / "model"


@pytest.fixture
def export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Export:
    """Runs the verb; gives its exit code, stdout and stderr."""

    def export(model: Path, *arguments: Any, out: Path | None = None) -> tuple[int, str, str]:
        code = main(["export", str(model), "--merge", "--out", str(out or tmp_path / "out"), *map(str, arguments)])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return export


def test_the_checkpoint_answers_as_the_model_does(export: Export, model: Path, world: Path, tmp_path: Path) -> None:
    code, out, err = export(model, "--images", world)
    assert code == 0, err
    assert "it differs from the adapter by at most" in out and "tolerance 1.0e-04" in out
    opened, written = open_model(str(model)), load_mllm(str(tmp_path / "out"))
    question, classes = opened.questions.label, opened.questions.classes
    reader = ImageReader(written.chat)
    prompts = [user_prompt(sample, question).encode(reader) for sample in read_images(world).samples]
    expected = label_log_likelihood(opened.mllm, prompts, classes)
    torch.testing.assert_close(label_log_likelihood(written, prompts, classes), expected, atol=1e-4, rtol=1e-4)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_client_learns_from_the_record_what_to_ask(export: Export, model: Path, tmp_path: Path) -> None:
    code, out, _ = export(model, "--json", "--dtype", "bfloat16")
    said, record = json.loads(out), read_record(model)
    assert code == 0 and said == json.loads((tmp_path / "out" / "throughline-export.json").read_text())
    assert said["prompts"] == dict(record.prompts) and said["classes"] == list(record.classes)
    assert (said["method"], said["format"], said["tiles"]) == ("mtct_sarr", "five_stage", 1)
    assert said["base"] == {"name": "tiny-base", "fingerprint": record.checkpoint.fingerprint}
    assert said["merged"]["dtype"] == "bfloat16" and said["merged"]["rounding"] > 0
    assert said["check"]["difference"] <= said["check"]["tolerance"] < said["check"]["adapter_change"]


def test_units_and_rounds_of_a_run_are_exported_too(
    export: Export, run_folder: Path, world: Path, tmp_path: Path
) -> None:
    (unit,) = run_folder.glob("units/*mtct_sarr*")
    for number, folder in enumerate((unit, unit / "round-1")):
        code, out, err = export(folder, "--json", out=tmp_path / str(number))
        assert code == 0, err
        said = json.loads(out)
        assert (said["method"], said["classes"]) == ("mtct_sarr", ["boat", "cat", "dog"])
    both = [(tmp_path / name / "model.safetensors").read_bytes() for name in "01"]
    assert both[0] == both[1], "the last round is the unit"


def test_a_unit_of_a_second_model_has_that_one_as_its_base(
    export: Export, run_folder: Path, preset: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(run_folder, tmp_path / "run"))
    first = Path(shutil.copytree(preset.parent / "tiny-base", tmp_path / "first"))
    (first / "notes.json").write_text("{}")  # other content, so another base
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config |= {"model": {**config["model"], "checkpoint": str(first)}, "more_models": [config["model"]]}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (unit,) = folder.glob("units/*mtct_sarr*")
    code, out, err = export(unit, "--json")
    assert code == 0, err
    assert json.loads(out)["base"]["name"] == "tiny-base"


def test_a_run_whose_images_have_gone_wants_the_classes(export: Export, run_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(run_folder, tmp_path / "run")
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("animals", "gone"))
    (unit,) = (tmp_path / "run").glob("units/*mtct-*")
    code, _, err = export(unit)
    assert code == 2 and "name the classes with --classes" in err
    code, out, _ = export(unit, "--classes", "boat,cat,dog", "--json")
    assert code == 0 and json.loads(out)["method"] == "mtct"


def test_an_adapter_of_4_bit_weights_is_merged_into_full_width_when_asked_to(
    export: Export, run_folder: Path, model: Path, tmp_path: Path
) -> None:
    shutil.copytree(run_folder, tmp_path / "run")
    shutil.copytree(model, tmp_path / "model")
    config, record = tmp_path / "run" / "config.yaml", tmp_path / "model" / RECORD
    assert "quantization: none" in config.read_text()
    config.write_text(config.read_text().replace("quantization: none", "quantization: nf4"))
    record.write_text(json.dumps(json.loads(record.read_text()) | {"quantization": "nf4"}))
    (unit,) = (tmp_path / "run").glob("units/*mtct-*")
    for number, trained in enumerate((unit, tmp_path / "model")):
        code, _, err = export(trained)
        assert code == 1 and "trained on weights in nf4" in err and "--quantization none" in err
        code, out, err = export(trained, "--quantization", "none", out=tmp_path / str(number))
        assert code == 0, err
        assert "trained with base weights in nf4" in out
        assert json.loads((tmp_path / str(number) / EXPORT_RECORD).read_text())["quantization"] == "nf4"


def test_a_fault_is_one_line_and_leaves_nothing(
    export: Export, model: Path, preset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"

    def line(*arguments: Any, code: int = 1) -> str:
        found, _, err = export(*arguments)
        lines = [text for text in err.splitlines() if text.startswith("throughline: error")]
        assert found == code and len(lines) == 1 and not out.exists() and not list(tmp_path.glob(".*"))
        return lines[0]

    assert "a plain checkpoint has no adapter" in line(preset.parent / "tiny-base")
    assert "no such model" in line(tmp_path / "nowhere")
    assert "no such image or folder" in line(model, "--images", tmp_path / "nowhere")
    monkeypatch.setattr("throughline.mllm.merge_check.EXACT", 1e-12)
    assert "differs from the adapter" in line(model)


def test_a_folder_that_holds_something_is_not_touched(export: Export, model: Path, tmp_path: Path) -> None:
    held = tmp_path / "out" / "thesis.txt"
    held.parent.mkdir()
    code, _, _ = export(model)
    assert code == 0, "an empty folder is none"
    code, _, err = export(model)
    assert code == 1 and "the folder is not empty" in err
    shutil.rmtree(held.parent)
    held.parent.mkdir()
    held.write_text("years")
    code, _, err = export(model)
    assert code == 1 and "the folder is not empty" in err and held.read_text() == "years"


def test_what_a_killed_export_left_is_in_nobodys_way(export: Export, model: Path, tmp_path: Path) -> None:
    left = tmp_path / ".out.partial"
    left.mkdir()
    (left / "model-00001-of-00002.safetensors").touch()
    assert export(model)[0] == 0
    assert not left.exists() and not list((tmp_path / "out").glob("model-0*"))


def test_merging_has_to_be_asked_for(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(model), "--out", str(tmp_path / "out")]) == 2
    assert "add --merge" in capsys.readouterr().err


def test_the_type_written_is_that_of_the_bases_files() -> None:
    assert checkpoint_export._own_dtype(checkpoint_source("pocket")) == "bfloat16"


def test_the_drift_of_a_unit_is_that_of_the_model_that_was_fitted_by_it(
    run_folder: Path, model: Path, world: Path, tmp_path: Path
) -> None:
    """`drift measure` opens units as `export` does."""
    (unit,) = run_folder.glob("units/*mtct_sarr*")
    words = ["--chains", str(write_chains(world, tmp_path / "journal-0.jsonl")), "--every", "0", "--per-class", "1"]
    for folder in (unit, model):
        assert main(["drift", "measure", str(folder), str(world), "--out", str(tmp_path / folder.name), *words]) == 0
    ours, theirs = (next((tmp_path / folder.name).glob("tokens-*")) for folder in (unit, model))
    assert ours.name == theirs.name
    assert [part.read_bytes() for part in ours.iterdir()] == [part.read_bytes() for part in theirs.iterdir()]
