"""What would give a wrong number, and nobody would be told: at the command line, by exit code and words."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from throughline.cli.main import main
from throughline.core.errors import ThroughlineError
from throughline.core.settings import LoraSettings
from throughline.core.yaml_text import read_yaml
from throughline.mllm.load import load_mllm
from throughline.mllm.lora import ADAPTER_WEIGHTS, add_lora, load_adapter, save_adapter

DIVERGING = ("training.stage.lr=1e30", "methods=cls", "data.targets=photo")


def overrides(*keys):
    return [word for key in keys for word in ("--set", key)]


@pytest.mark.slow
@pytest.mark.usefixtures("forked_workers")
@pytest.mark.parametrize("batch", [8, 16, 64])  # in the midst of a stage, at its last step, in its only one
def test_training_that_diverges_stops_the_run_and_saves_nothing(batch, tmp_path, capsys):
    keys = (*DIVERGING, f"training.stage.batch={batch}")
    assert main(["run", "tiny", "--out", str(tmp_path), *overrides(*keys)]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "training diverged: the" in said
    assert "at step" in said
    assert "training.stage.lr = 1e+30" in said
    assert "lower the learning rate" in said
    assert not list(tmp_path.rglob(ADAPTER_WEIGHTS))
    assert (tmp_path / "results.jsonl").read_text() == ""


@pytest.mark.slow
@pytest.mark.usefixtures("forked_workers")
def test_a_model_whose_training_diverges_is_not_kept(tmp_path, tiny_images, capsys):
    out = tmp_path / "model"
    assert main(["fit", str(tiny_images.root), "--out", str(out), "--lr", "1e30", "--batch", "4"]) == 1
    assert "training diverged" in capsys.readouterr().err
    assert not list(out.rglob(ADAPTER_WEIGHTS))


def test_an_adapter_that_holds_no_numbers_is_not_loaded(tmp_path, tiny_mllm, tiny_checkpoint):
    save_adapter(add_lora(tiny_mllm.model, LoraSettings(), seed=0), tmp_path)
    weights = load_file(tmp_path / ADAPTER_WEIGHTS)
    name = sorted(weights)[0]
    save_file({**weights, name: torch.full_like(weights[name], float("nan"))}, tmp_path / ADAPTER_WEIGHTS)
    with pytest.raises(ThroughlineError, match=r"not numbers, e\.g\. .*: its training diverged"):
        load_adapter(load_mllm(str(tiny_checkpoint)).model, tmp_path)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("seeds=0,1,0", "seeds: 0 is given twice"),
        ("data.targets=photo,photo", "data.targets: photo is given twice"),
        ("methods=cls,cls", "methods: cls is given twice"),
        ("evaluation.answering.answers=label,label", "label is given twice"),
        ("training.stage.lr=.inf", "training.stage.lr is inf, expected: a finite number"),
        ("training.stage.weight_decay=.nan", "training.stage.weight_decay is nan, expected: a finite number"),
    ],
)
def test_what_is_doubled_or_no_number_is_no_config(key, words, tmp_path, capsys):
    assert main(["run", "tiny", "--out", str(tmp_path / "run"), *overrides(key)]) == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("doubled", ["seeds: [0]\nseeds: [1]\n", "data:\n  drawn: {per_class: 2, per_class: 3}\n"])
def test_a_key_that_stands_twice_is_told_with_its_line(doubled, tmp_path, capsys):
    config = tmp_path / "config.yaml"
    config.write_text("name: x\n" + doubled)
    assert main(["run", str(config), "--out", str(tmp_path / "run")]) == 1
    said = capsys.readouterr().err
    assert "is given twice" in said
    assert f"{Path(config).name}, line" in said


@pytest.mark.parametrize(
    ("faulty", "words"),
    [
        ("? [x]\n: 1\n", "found unhashable key"),
        ("{a: b}: c\n", "found unhashable key"),
        ("day: 2024-02-30\n", "2024-02-30 is no timestamp"),
        ("day: !!bool perhaps\n", "perhaps is no bool"),
        ("seeds: " + "[" * 3000, "nested too deeply"),
    ],
)
def test_a_config_that_yaml_cannot_read_is_one_line(faulty, words, tmp_path, capsys):
    config = tmp_path / "config.yaml"
    config.write_text("name: x\n" + faulty)
    assert main(["run", str(config), "--out", str(tmp_path / "run")]) == 1
    said = capsys.readouterr().err
    assert f"the config is not valid YAML ({words})" in said
    assert said.count("\n") == 1


def test_a_merged_mapping_that_is_merged_again_keeps_its_own_values(tmp_path):
    """PyYAML writes the keys of a merge into the mapping, where one may then stand twice."""
    file = tmp_path / "merged.yaml"
    file.write_text("x: &x {k: 1, m: 3}\na: {inner: &b {<<: *x, k: 2}}\nc: {<<: *b}\n")
    assert read_yaml(file, "file")["c"] == {"k": 2, "m": 3}
