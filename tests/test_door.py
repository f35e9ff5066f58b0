"""`import throughline` as a notebook meets it; docs/howto/python.md, which tests run, shows every name at work."""

import inspect
import typing
from pathlib import Path

import pytest

import throughline

NAMES = [name for name in throughline.__all__ if name != "ThroughlineError"]


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_documented_typed_and_shown_at_work(name):
    function = getattr(throughline, name)
    assert inspect.getdoc(function)
    signature = inspect.signature(function)
    assert signature.return_annotation is not signature.empty
    assert all(parameter.annotation is not parameter.empty for parameter in signature.parameters.values())
    page = Path(__file__).parent.parent / "docs" / "howto" / "python.md"
    assert f"throughline.{name}(" in page.read_text() or f"`{name}(" in page.read_text()


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'train'"):
        _ = throughline.train
    assert {*NAMES, "ThroughlineError"} <= set(dir(throughline))


def test_overrides_are_plain_values_under_dotted_keys():
    config = throughline.load_config("tiny", {"training.rounds": 2, "data.targets": ["photo"], "methods": ["cls"]})
    assert (config.training.rounds, config.data.targets, config.methods) == (2, ("photo",), ("cls",))
    with pytest.raises(throughline.ThroughlineError, match="unknown key training"):
        throughline.load_config("tiny", {"training.round": 2})


def test_overrides_do_not_go_with_a_config_that_is_made_already(tmp_path):
    with pytest.raises(TypeError, match="give them to load_config"):
        throughline.run_experiment(throughline.load_config("tiny"), tmp_path, {"workers": 2})


def test_chains_are_built_once(tmp_path):
    throughline.write_world(tmp_path / "world", per_class=1, seed=0, styles=("sketch",))
    images = throughline.read_images(str(tmp_path / "world"))
    first = throughline.build_chains(images, tmp_path / "chains")
    again = throughline.build_chains(images, tmp_path / "chains")
    assert first.images == first.done == again.done == 12
    assert first.answers >= 12 and again.answers == 0


def test_a_model_answers_own_and_built_in_questions(tiny_checkpoint, tiny_images):
    from throughline.core.settings import AnswerSettings

    model = throughline.load_model(tiny_checkpoint, tiny_images.classes)
    samples = tiny_images.samples[:2]
    own = model.questions.build(AnswerSettings(answers=("likelihood",)))[0]
    predictions = throughline.ask(model, samples, ["likelihood", own])
    assert [prediction.sample_id for prediction in predictions] == [samples[0].id] * 2 + [samples[1].id] * 2
    [answer] = throughline.predict(model, [samples[0].path], chains=False)
    assert answer.label == predictions[0].predicted and typing.cast(float, answer.confidence) > 1 / 4
