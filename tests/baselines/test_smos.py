"""What keeps features near those of a precursor, against independent computations."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.special import softmax
from torch.distributions import Normal

from throughline.baselines.network import open_backbone
from throughline.baselines.settings import BaselineSettings, SmosSettings
from throughline.baselines.smos import Precursor, jensen_shannon, nearness


def test_the_divergence_is_scipys_squared_distance_of_the_softmax():
    first, second = np.random.default_rng(0).normal(0, 2, (2, 6, 9))
    by_row = [jensenshannon(p, q) ** 2 for p, q in zip(softmax(first, axis=1), softmax(second, axis=1), strict=True)]
    assert float(jensen_shannon(torch.tensor(first), torch.tensor(second))) == pytest.approx(np.mean(by_row))


@pytest.mark.parametrize(("shape", "channels"), [((2, 3, 4, 5), (1, 3, 1, 1)), ((2, 20, 3), (1, 1, 3))])
def test_nearness_is_a_normal_likelihood_but_for_its_constant(shape, channels):
    features, before = torch.randn(2, *shape, dtype=torch.float64)
    variances = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    likelihood = Normal(features, variances.view(channels).sqrt()).log_prob(before).mean()
    expected = -float(likelihood) - np.log(2 * np.pi) / 2
    assert float(nearness(features, before, variances)) == pytest.approx(expected)


@pytest.mark.parametrize("backbone", ["test_resnet", "test_efficientnet", "test_vit"])
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
