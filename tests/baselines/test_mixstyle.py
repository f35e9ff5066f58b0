"""MixStyle against statistics computed by hand."""

import numpy as np
import pytest
import torch

from throughline.baselines.mixstyle import MixStyle, mix_behind, mix_statistics, stages_of
from throughline.baselines.network import open_backbone
from throughline.baselines.settings import BaselineSettings, MixStyleSettings


@pytest.mark.parametrize(("shape", "places"), [((4, 3, 5, 6), (1, 2)), ((4, 30, 3), (0,))])
def test_each_channel_gets_the_mixed_mean_and_deviation(shape, places):
    rng = np.random.default_rng(0)
    features = rng.normal(1, 2, shape) * np.arange(1, 5).reshape(-1, *[1] * (len(shape) - 1))
    share, order = np.array([1.0, 0.25, 0.5, 0.0]), [3, 2, 1, 0]
    mixed = mix_statistics(torch.tensor(features), torch.tensor(share), torch.tensor(order)).numpy()
    for image, own in enumerate(share):
        for of in (np.mean, lambda rows, axis: np.std(rows, axis=axis, ddof=1)):
            before, other = of(features[image], axis=places), of(features[order[image]], axis=places)
            assert of(mixed[image], axis=places) == pytest.approx(own * before + (1 - own) * other, rel=1e-5)


def test_an_image_with_all_of_its_own_statistics_is_left_as_it_is():
    features = torch.randn(3, 4, 5, 5)
    torch.testing.assert_close(mix_statistics(features, torch.ones(3), torch.tensor([1, 2, 0])), features)


def test_no_gradient_flows_through_the_statistics_of_the_other_image():
    features = torch.randn(2, 1, 4, 4, requires_grad=True)
    mix_statistics(features, torch.tensor([0.5, 1.0]), torch.tensor([1, 0]))[0].sum().backward()
    assert features.grad[0].abs().sum() > 0 and features.grad[1].abs().sum() == 0


def test_features_are_mixed_in_a_share_of_the_passes_of_training_only():
    features, settings = torch.randn(2, 3, 4, 4), MixStyleSettings(probability=0.3)
    mixing = MixStyle(settings).train()
    mixed = [not torch.equal(mixing(features), features) for _ in range(300)]
    assert 0.1 < np.mean(mixed) < 0.5  # an order of two may leave both in their place
    mixing.eval()
    assert torch.equal(mixing(features), features)


@pytest.mark.parametrize(
    ("backbone", "stages"), [("resnet10t", ["layer1", "layer2"]), ("test_efficientnet", ["blocks.0", "blocks.1"])]
)
def test_features_are_mixed_behind_the_first_stages(backbone, stages):
    settings = BaselineSettings(backbone=backbone, weights="random")
    network = open_backbone(settings)
    assert stages_of(network)[:2] == stages
    seen = []
    network.get_submodule(stages[1]).register_forward_hook(lambda module, inputs, output: seen.append(output))
    mixing = mix_behind(network, MixStyleSettings(probability=1.0, alpha=0.1)).train()
    network.eval()  # batch norm and dropout are still
    images = torch.randn(6, 3, 32, 32)
    network(images)
    mixing.eval()
    network(images)
    assert not torch.allclose(seen[0], seen[1])
