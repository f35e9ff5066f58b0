"""What keeps features near those of a precursor, against independent computations."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.special import softmax
from torch.distributions import Normal

from throughline.baselines.network import open_backbone
from throughline.baselines.settings import BaselineSettings, SmosSettings
from throughline.baselines.smos import Precursor, nearness


@pytest.mark.parametrize("shape", [(2, 4, 5, 3), (2, 20, 3)])
def test_nearness_is_a_normal_likelihood_but_for_its_constant(shape):
    features, before = torch.randn(2, *shape, dtype=torch.float64)
    variances = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    likelihood = Normal(features, variances.sqrt()).log_prob(before).mean()
    expected = -float(likelihood) - np.log(2 * np.pi) / 2
    assert float(nearness(features, before, variances)) == pytest.approx(expected)


def test_the_divergence_is_scipys_squared_distance_of_the_softmax():
    network = open_backbone(BaselineSettings(backbone="test_resnet", weights="random", image_size=32)).eval()
    precursor, images = Precursor(network, SmosSettings(weight=1, lr_factor=1e12)), torch.randn(6, 3, 32, 32)
    before, first = network(images), 2 * torch.randn(6, network.num_features)
    rows = (softmax(own.detach().double().numpy(), axis=1) for own in (first, before))
    by_row = [jensenshannon(p, q) ** 2 for p, q in zip(*rows, strict=True)]
    assert float(precursor(images, first)) == pytest.approx(np.mean(by_row), rel=1e-4)


@pytest.mark.parametrize("backbone", ["test_resnet", "test_efficientnet", "test_vit", "test_mambaout"])
def test_an_unchanged_backbone_is_as_near_as_its_variances_allow(backbone):
    network = open_backbone(BaselineSettings(backbone=backbone, weights="random", image_size=32)).eval()
    settings = SmosSettings()
    precursor, images = Precursor(network, settings), torch.randn(2, 3, 32, 32)
    added = precursor(images, network(images))
    stages = len(network.feature_info)
    assert added.item() == pytest.approx(0.15 * stages * np.log(0.1) / 2 / 10, rel=1e-4)
    before = added.item()
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    added = precursor(images, network(images))
    assert added.item() > before
    added.backward()
    assert all(raw.grad is not None for raw in precursor.raw_variances)
    assert all(weight.grad is None for weight in precursor.frozen.parameters())
