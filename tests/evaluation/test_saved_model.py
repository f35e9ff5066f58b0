"""Opening a model: as it was fitted, on another base, zero-shot on a plain checkpoint, and what is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from tests.evaluation.small import in_this_process
from tests.mllm.tiny import write_checkpoint

from throughline.core.errors import ThroughlineError, UsageError
from throughline.core.settings import ModelSettings
from throughline.domains.folders import read_images
from throughline.evaluation.saved_model import find_record, open_model, read_record
from throughline.experiment import run
from throughline.experiment.final_model import fit_config, fit_model
from throughline.mllm.images import ImageReader
from throughline.mllm.likelihood import label_log_likelihood
from throughline.questions.prompt import user_prompt
from throughline.questions.question_set import make_question_set


def base_folder(preset: Path) -> Path:
    return preset.parent / "tiny-base"


@pytest.fixture
def copy(model, tmp_path):
    """The model's folder, to be spoilt."""
    return Path(shutil.copytree(model, tmp_path / "copy"))


def rewrite(folder: Path, **changes) -> None:
    path = folder / "throughline.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_an_opened_model_asks_what_it_was_trained_on(model):
    opened, record = open_model(str(model)), read_record(model)
    assert opened.questions.classes == ("boat", "cat", "dog")
    assert opened.questions.label == record.prompts["label"]
    assert opened.answering == record.answering
    assert (opened.method, opened.seed) == ("cls", 0)


def test_the_adapter_is_in_place(model, preset, images):
    """Against the plain base: training moved what is said about a training image."""
    fitted, plain = open_model(str(model)), open_model(str(base_folder(preset)), ("boat", "cat", "dog"))
    prompt = user_prompt(read_images(images).samples[0], fitted.questions.label)
    said = []
    for opened in (fitted, plain):
        asked = [prompt.encode(ImageReader(opened.mllm.chat))]
        said.append(label_log_likelihood(opened.mllm, asked, opened.questions.classes))
    assert (said[0] - said[1]).abs().max() > 0.1
    assert torch.isfinite(said[0]).all()


@pytest.mark.slow
def test_a_model_fitted_on_quantized_weights_is_asked_on_them(images, preset, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "run_units", in_this_process)
    config = fit_config(images, preset=str(preset), changes={"model.quantization": "nf4"})
    fit_model(config, tmp_path / "model")
    assert read_record(tmp_path / "model").quantization == "nf4"
    assert "decoder in nf4" in (tmp_path / "model/README.md").read_text()
    assert open_model(str(tmp_path / "model")).mllm.quantization == "nf4"
    assert open_model(str(tmp_path / "model"), base=ModelSettings(quantization="none")).mllm.quantization == "none"


def test_a_record_from_before_weights_could_be_quantized_is_read(copy):
    record = json.loads((copy / "throughline.json").read_text())
    del record["quantization"]
    (copy / "throughline.json").write_text(json.dumps(record))
    assert read_record(copy).quantization == open_model(str(copy)).mllm.quantization == "none"


def test_other_classes_replace_the_models_own(model):
    questions = open_model(str(model), ["house", "alarm_clock"]).questions
    assert questions.classes == ("house", "alarm_clock")
    assert questions == make_question_set(["house", "alarm_clock"], questions.format)


def test_a_plain_checkpoint_is_asked_zero_shot(preset):
    opened = open_model(str(base_folder(preset)), ("cat", "dog"))
    assert opened.record is None and opened.method == "zero_shot"
    assert find_record(str(base_folder(preset))) is None


def test_a_base_that_has_moved_can_be_named(model, preset, tmp_path):
    copy, moved = tmp_path / "model", tmp_path / "moved"
    shutil.copytree(model, copy)
    shutil.copytree(base_folder(preset), moved)
    record = json.loads((copy / "throughline.json").read_text())
    record["checkpoint"]["source"] = str(tmp_path / "gone")
    (copy / "throughline.json").write_text(json.dumps(record))
    with pytest.raises(ThroughlineError, match="needs its base tiny-base: name its folder with --checkpoint"):
        open_model(str(copy))
    assert open_model(str(copy), base=ModelSettings(checkpoint=str(moved))).record is not None


def test_another_base_is_refused_in_one_line(model, tmp_path):
    write_checkpoint("internvl", tmp_path)
    settings = json.loads((tmp_path / "generation_config.json").read_text())
    (tmp_path / "generation_config.json").write_text(json.dumps(settings | {"temperature": 0.5}))
    with pytest.raises(ThroughlineError, match=r"this base is not the tiny-base .* content \w{8}, not \w{8}"):
        open_model(str(model), base=ModelSettings(checkpoint=str(tmp_path)))


def test_a_base_on_the_hub_is_not_fetched_unasked(copy):
    hub = {"name": "some/8B", "source": "some/8B", "hub": True, "fingerprint": "0" * 64}
    rewrite(copy, checkpoint=hub)
    with pytest.raises(ThroughlineError, match="allow the download with --hub"):
        open_model(str(copy))


def test_a_record_of_a_later_minor_version_is_read(copy):
    rewrite(copy, invented_later=1)
    assert read_record(copy).method == "cls"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"schema": 99}, "schema 99 is newer"),
        ({"classes": []}, "classes"),
        ({"prompts": {"label": "?"}}, "lacks one of the two prompts"),
        ({"format": "six_stage"}, "format"),
    ],
)
def test_a_spoilt_record_is_refused(copy, changes, said):
    rewrite(copy, **changes)
    with pytest.raises(ThroughlineError, match=said):
        open_model(str(copy))


def test_what_is_no_model_is_refused(copy, images, preset, tmp_path):
    (copy / "throughline.json").write_text("{")
    with pytest.raises(ThroughlineError, match="the record cannot be read"):
        open_model(str(copy))
    (copy / "throughline.json").unlink()
    (copy / ".fitting").mkdir()
    with pytest.raises(ThroughlineError, match="not finished"):
        open_model(str(copy))
    with pytest.raises(ThroughlineError, match="no model here"):
        open_model(str(images), ("cat", "dog"))
    with pytest.raises(ThroughlineError, match="no such model or checkpoint"):
        open_model(str(tmp_path / "nowhere"), ("cat", "dog"))
    with pytest.raises(UsageError, match="has no classes"):
        open_model(str(base_folder(preset)))


def test_class_names_that_answers_could_not_tell_apart_are_refused(model):
    with pytest.raises(UsageError, match="named twice"):
        open_model(str(model), ["alarm_clock", "Alarm clock"])
    with pytest.raises(UsageError, match="one class"):
        open_model(str(model), ["cat"])
