"""The forecast of feature-level methods against what their networks do."""

import pytest
import torch
from torch import nn

from throughline.baselines.network import open_backbone
from throughline.cli.preview import as_json, as_text
from throughline.experiment.config_files import load_config
from throughline.experiment.feature_workload import FEATURES
from throughline.experiment.forecast import Forecast, forecast_run
from throughline.experiment.run import preview_run

timm = pytest.importorskip("timm", reason="the extra baselines is not installed")

CONFIG = """
data: {drawn: {per_class: 1}, targets: [sketch]}
model: {device: cpu}
methods: [clip_zero_shot, clip_linear_probe, coop, clip_lora, simple_plus, erm, smos]
baselines:
  clip: {checkpoint: pocket_clip}
  simple_plus: {pool: [test_efficientnet]}
  backbone: test_efficientnet
  weights: random
  image_size: 32
  steps: 5
  batch_per_domain: 4
evaluation: {answering: {answers: [likelihood]}}
"""


@pytest.fixture(scope="module")
def forecast(tmp_path_factory):
    """Of 48 images of four domains, 12 of them asked about; with the preview."""
    path = tmp_path_factory.mktemp("config") / "trial.yaml"
    path.write_text(CONFIG)
    preview = preview_run(load_config(str(path)))
    found = forecast_run(preview)
    assert isinstance(found, Forecast)
    return preview, found


def phases_of(forecast, method):
    (unit,) = (unit for unit in forecast[1].units if unit.unit.method == method)
    return {phase.name: phase.all_flops for phase in unit.phases}


def products_of(model, *inputs):
    """FLOPs of all convolutions and linear layers of a forward pass, two for each product."""
    counted = []

    def count(module, _, output):
        weights = module.weight.numel() // module.weight.shape[0]  # what an element of the output is a sum of
        counted.append(2 * output.numel() * weights)

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    with torch.no_grad():
        model.eval()(*inputs)
    return sum(counted)


def test_a_backbone_is_computed_three_times_for_a_training_image_and_once_for_an_answer(forecast):
    settings = forecast[0].config.baselines
    image = products_of(open_backbone(settings), torch.zeros(1, 3, 32, 32))
    assert phases_of(forecast, "erm") == {"training": 3 * image * 5 * 3 * 4, "answering": 12 * image}
    assert phases_of(forecast, "smos")["training"] == 4 * image * 5 * 3 * 4


def test_features_are_computed_once_for_all_units(forecast):
    found = {
        method: [name for name in phases_of(forecast, method) if name.startswith(FEATURES)]
        for method in ("clip_zero_shot", "clip_linear_probe", "coop", "clip_lora", "simple_plus")
    }
    assert found == {
        "clip_zero_shot": [f"{FEATURES}drawn by pocket_clip"],
        "clip_linear_probe": [],
        "coop": [],
        "clip_lora": [],
        "simple_plus": [f"{FEATURES}drawn by test_efficientnet"],
    }
    assert phases_of(forecast, "coop")["training"] > 0 == phases_of(forecast, "clip_linear_probe").get("training", 0)


def test_hours_are_told_without_a_language_model(forecast):
    preview, found = forecast
    assert found.elapsed["this machine"] > 0
    hours = {unit.unit.method: unit.total_seconds("this machine") for unit in found.units}
    assert hours["clip_lora"] > hours["coop"] > hours["clip_linear_probe"] == 0
    assert "encoders alone are counted" in as_text(preview, found)
    shown = as_json(preview, found)
    assert shown["unknown"] is None and shown["forecast"]["paths"] is None
