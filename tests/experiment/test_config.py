import re

import pytest
import yaml

from throughline.core.errors import ThroughlineError, UsageError
from throughline.core.nested import flattened
from throughline.experiment.config_files import load_config, preset_paths, preset_summaries, resolved_yaml
from throughline.mllm.checkpoints import checkpoint_name


def told(name, *overrides):
    with pytest.raises(ThroughlineError) as caught:
        load_config(name, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", preset_paths())
def test_every_preset_is_a_config(name):
    overrides = ["data.images=somewhere"] if name.startswith(("paper/", "models/")) else []
    config = load_config(name, overrides)
    assert config.name == name.rsplit("/", maxsplit=1)[-1]
    assert preset_summaries()[name]


def test_a_paper_preset_without_images_says_how_to_give_them():
    assert "--set data.images=DIR" in told("paper/pacs")


def test_the_paper_presets_have_the_papers_values():
    for name in (name for name in preset_paths() if name.startswith("paper/")):
        config = load_config(name, ["data.images=somewhere"])
        stage = config.training.stage
        assert (stage.lr, stage.batch, stage.epochs, config.training.rounds) == (5e-4, 128, 3, 3)
        assert (config.model.lora.rank, config.training.rejected) == (8, "drop")


def test_presets_of_other_models_are_the_papers_with_another_checkpoint():
    checkpoints = set()
    wanted = load_config("paper/pacs", ["data.images=somewhere"]).model_dump(exclude={"name"})
    for name in (name for name in preset_paths() if name.startswith("models/")):
        found = load_config(name, ["data.images=somewhere", "data.name=pacs"]).model_dump(exclude={"name"})
        checkpoints.add(found["model"].pop("checkpoint"))
        assert found == wanted | {"model": {k: v for k, v in wanted["model"].items() if k != "checkpoint"}}
    families = ("OpenGVLab/InternVL3-2B-hf", "OpenGVLab/InternVL3_5-", "Qwen/Qwen2.5-VL-3B", "Qwen/Qwen2.5-VL-7B")
    assert len(checkpoints) == 6
    for family in (*families, "llava-hf/llava-1.5-7b-hf"):
        assert any(checkpoint.startswith(family) for checkpoint in checkpoints)


def test_a_resolved_config_reads_back_as_itself(tmp_path):
    config = load_config("demo", ["training.stage.lr=1e-4", "data.targets=sketch,photo"])
    path = tmp_path / "config.yaml"
    path.write_text(resolved_yaml(config))
    assert load_config(str(path)) == config


def test_overrides_are_yaml_and_a_lone_value_is_a_list():
    config = load_config("demo", ["seeds=3", "methods=cls,mtct", "data.targets=all", "training.stage.lr=1e-4"])
    assert (config.seeds, config.methods, config.data.targets) == ((3,), ("cls", "mtct"), "all")
    assert config.training.stage.lr == 1e-4


def test_naming_one_key_of_a_rounds_draws_leaves_the_others(config_file):
    """Not those of `SamplingSettings`, whose temperature is 0."""
    whole = load_config(str(config_file)).training.self_labelling
    named = load_config(str(config_file), ["training.self_labelling.max_new_tokens=9"]).training.self_labelling
    assert named == whole.model_copy(update={"max_new_tokens": 9})


def test_a_domain_called_by_a_number_is_a_name():
    assert load_config("demo", ["data.targets=[15, 30]"]).data.targets == ("15", "30")


def test_a_config_without_a_name_is_called_after_its_file(config_file):
    assert load_config(str(config_file)).name == "trial"


def test_an_unknown_key_names_the_nearest_known_one_and_the_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"data": {"images": "x"}, "training": {"stage": {"epoch": 3}}}))
    line = told(str(path))
    assert "unknown key training.stage.epoch " in line
    assert "did you mean training.stage.epochs?" in line
    assert str(path) in line


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("more-models=1", "unknown key more-models .*did you mean more_models?"),
        ("training.stage.learning-rate=1", "unknown key training.stage.learning-rate "),
        ("training.stage.max-grad-norm=1", "did you mean training.stage.max_grad_norm?"),
        ("data.names={hot dog: {a: 1}}", "data.names.hot dog is "),
        ("evaluation.answering.answers=[labels]", "evaluation.answering.answers.0 is 'labels'"),
    ],
)
def test_keys_that_are_no_identifiers_are_named(override, said):
    assert re.search(said, told("demo", override))


@pytest.mark.parametrize("where", ["factors.size.b", "per_method.cls"])
def test_a_nested_group_sets_its_own_keys_and_leaves_the_others(where):
    keys = {"training": {"stage": {"lr": 1e-3}}} if where != "per_method.cls" else {"training.stage": {"lr": 1e-3}}
    config = load_config("demo", [], {"training.stage.epochs": 9, "training.rounds": 1, where: keys})
    own = config.at(config.data, {"size": "b"}, "cls").training
    assert (own.rounds, own.stage.epochs, own.stage.lr) == (1, 9, 1e-3)


def test_a_level_that_only_asks_may_be_nested_and_replaces_mappings_whole():
    asks = {"evaluation": {"examples": {"shots": 2, "shares": {"cup": 1}}}}
    level = {**asks, "questions": {"descriptions": {"a.b": "x"}}}
    changes = {"evaluation.examples": {"shots": 1, "seed": 5, "shares": {"b": 1}}, "questions.descriptions.c": "y"}
    config = load_config("demo", [], {**changes, "factors": {"asks": {"two": asks}, "all": {"of it": level}}})
    assert config.asked_factors == ("asks",)
    own = config.at(config.data, {"all": "of it"})
    examples = own.evaluation.examples
    assert (examples.shots, examples.seed, examples.shares) == (2, 5, {"cup": 1})
    assert own.questions.descriptions == {"a.b": ("x",)}


@pytest.mark.parametrize("level", ["model: {checkpoint: X}", "data: {drawn: {per_class: 2}}", "model.checkpoint: X"])
def test_a_value_of_the_whole_run_is_no_level_in_any_form(level):
    assert "a value of the whole run cannot be a factor" in told("demo", f"factors.a={{b: {{{level}}}}}")


def test_a_path_may_begin_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "my-base").mkdir()
    keys = {"data.images", "chains.journal", "chains.pairs", "evaluation.made", "evaluation.begun"}
    changes = {"data.drawn": None, "chains.teacher": None, "model.checkpoint": "~/my-base"}
    config = load_config("demo", [], changes | dict.fromkeys(keys, "~/some/place"))
    flat = flattened(config.model_dump(mode="json"))
    assert {flat[key] for key in keys} == {f"{tmp_path}/some/place"}
    assert checkpoint_name(config.model.checkpoint) == "my-base"


def test_a_key_in_the_wrong_place_names_its_place():
    assert "did you mean training.stage.lr or baselines.lr?" in told("demo", "lr=1")


def test_an_unknown_key_in_a_group_that_may_be_null_is_found():
    assert "did you mean data.drawn.per_class?" in told("demo", "data.drawn.per_clas=3")


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("training.stage.epochs=many", ("training.stage.epochs", "'many'", "number")),
        ("chains.format=six_stage", ("chains.format", "'six_stage'", "five_stage")),
        ("workers=0", ("workers", "0", "greater than or equal to 1")),
        ("name=a/b", ("name", "as in a_b")),
        ("name=_my run", ("name", "letters, digits, dots, dashes and underscores, as in my_run")),
        ("seeds=[0, x]", ("seeds", "'x'", "integer")),
    ],
)
def test_a_wrong_value_is_one_line_with_key_value_and_what_is_expected(override, parts):
    line = told("demo", override)
    for part in parts:
        assert part in line


def test_a_server_and_4_bit_weights_are_refused_in_one_line():
    serve = "training.sampler.serve=vllm serve {checkpoint} --port {port}"
    assert load_config("demo", [serve]).training.sampler.serve
    with pytest.raises(ThroughlineError) as refused:
        load_config("demo", [serve, "model.quantization=nf4"])
    assert refused.value.what.startswith("a server needs merged weights") and "\n" not in str(refused.value)
    assert "remove model.quantization" in str(refused.value)


def test_images_and_a_drawn_world_together_are_refused():
    assert "data.drawn=null" in told("demo", "data.images=x")
    assert load_config("demo", ["data.images=x", "data.drawn=null"]).name == "demo"


def test_mistakes_of_a_describer_who_is_not_the_teacher_are_refused():
    line = told("tiny", "chains.teacher=null", "chains.part_mistakes=0.3")
    assert "part_mistakes is about the describer" in line


def test_an_unknown_preset_names_the_nearest():
    assert "did you mean demo?" in told("demmo")


@pytest.mark.parametrize("text", ["a: [1", "- a", "", "a: b: c"])
def test_a_file_that_is_no_mapping_is_one_line(tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    assert str(path) in told(str(path))


@pytest.mark.parametrize("override", ["workers", "=3", "a..b=1", "methods.x=1", "workers=[1"])
def test_a_malformed_override_is_wrong_usage(override):
    with pytest.raises(UsageError):
        load_config("demo", [override])


def test_a_lone_value_and_words_with_commas_are_lists_everywhere(config_file):
    words = ("evaluation.answering.answers=likelihood", "model.lora.vision=q_proj,v_proj", "model.lora.decoder=[]")
    config = load_config(str(config_file), words)
    assert config.evaluation.answering.answers == ("likelihood",)
    assert (config.model.lora.vision, config.model.lora.decoder) == (("q_proj", "v_proj"), ())
