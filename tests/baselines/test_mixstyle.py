"""MixStyle against statistics computed by hand."""

import numpy as np
import pytest
import torch

from throughline.baselines.learner import Learner
from throughline.baselines.mixstyle import mix_behind, mix_statistics, stages_of
from throughline.baselines.network import Classifier, open_backbone
from throughline.baselines.settings import BaselineSettings, MixStyleSettings
from throughline.core.errors import ThroughlineError
from throughline.training.methods import FEATURE_LEVEL


@pytest.mark.parametrize("shape", [(4, 5, 6, 3), (4, 30, 3)])
def test_each_channel_gets_the_mixed_mean_and_deviation(shape):
    rng = np.random.default_rng(0)
    places = tuple(range(len(shape) - 2))
    features = rng.normal(1, 2, shape) * np.arange(1, 5).reshape(-1, *[1] * (len(shape) - 1))
    share, order = np.array([1.0, 0.25, 0.5, 0.0]), [3, 2, 1, 0]
    mixed = mix_statistics(torch.tensor(features), torch.tensor(share), torch.tensor(order)).numpy()
    for image, own in enumerate(share):
        for of in (np.mean, lambda rows, axis: np.std(rows, axis=axis, ddof=1)):
            before, other = of(features[image], axis=places), of(features[order[image]], axis=places)
            assert of(mixed[image], axis=places) == pytest.approx(own * before + (1 - own) * other, rel=1e-5)


def test_an_image_with_all_of_its_own_statistics_is_left_as_it_is():
    features = torch.randn(3, 5, 5, 4)
    torch.testing.assert_close(mix_statistics(features, torch.ones(3), torch.tensor([1, 2, 0])), features)


def test_no_gradient_flows_through_the_statistics_of_the_other_image():
    features = torch.randn(2, 4, 4, 1, requires_grad=True)
    mix_statistics(features, torch.tensor([0.5, 1.0]), torch.tensor([1, 0]))[0].sum().backward()
    assert features.grad[0].abs().sum() > 0 and features.grad[1].abs().sum() == 0


class Stage(torch.nn.Identity):
    """A backbone of one stage that does nothing."""

    def __init__(self, channels, output_fmt="NCHW"):
        super().__init__()
        self.stage, self.output_fmt = torch.nn.Identity(), output_fmt
        self.feature_info = [{"module": "stage", "num_chs": channels}]


def test_features_are_mixed_in_a_share_of_the_passes_of_training_only():
    backbone, features = Stage(3), torch.randn(2, 3, 4, 4)
    mix_behind(backbone, MixStyleSettings(probability=0.3))
    mixed = [not torch.equal(backbone.stage(features), features) for _ in range(300)]
    assert 0.1 < np.mean(mixed) < 0.5  # an order of two may leave both in their place
    backbone.eval()
    assert all(torch.equal(backbone.stage(features), features) for _ in range(30))


@pytest.mark.parametrize("output_fmt", ["NCHW", "NHWC"])
def test_statistics_are_over_the_places_of_a_channel_wherever_it_stands(output_fmt):
    """A mean of each image's own in each channel, and no deviation within it, goes on to other images as a whole."""
    backbone, own = Stage(2, output_fmt), torch.tensor([[1.0, -1.0], [2.0, -2.0], [3.0, -3.0]])
    mix_behind(backbone, MixStyleSettings(probability=1))
    channels_last = own[:, None, None, :].expand(3, 4, 5, 2)
    mixed = backbone.stage(channels_last if output_fmt == "NHWC" else channels_last.permute(0, 3, 1, 2))
    mixed = mixed if output_fmt == "NHWC" else mixed.permute(0, 2, 3, 1)
    torch.testing.assert_close(mixed, mixed[:, :1, :1].expand_as(mixed))
    torch.testing.assert_close(mixed[..., 0], -mixed[..., 1])


def test_a_backbone_whose_stages_give_something_else_is_one_line():
    backbone = Stage(2)
    mix_behind(backbone, MixStyleSettings())
    for output in (torch.zeros(3, 4, 5, 2), (torch.zeros(3, 2, 4, 5), 4)):
        with pytest.raises(ThroughlineError, match="stage of the backbone gives no features with 2 channels"):
            backbone.stage(output)


@pytest.mark.parametrize(
    ("backbone", "stages"), [("resnet10t", ["layer1", "layer2"]), ("test_efficientnet", ["blocks.0", "blocks.1"])]
)
def test_features_are_mixed_behind_the_first_stages(backbone, stages):
    settings = BaselineSettings(backbone=backbone, weights="random")
    network = open_backbone(settings)
    assert [stage["module"] for stage in stages_of(network)[:2]] == stages
    mix_behind(network, MixStyleSettings(probability=1.0))
    seen = []
    network.get_submodule(stages[1]).register_forward_hook(lambda module, inputs, output: seen.append(output))
    classifier, images = Classifier(network, network.num_features, 3, settings), torch.randn(6, 3, 32, 32)
    classifier.train()(images)  # batch norm is still
    classifier.eval()(images)
    assert not torch.allclose(seen[0], seen[1])


def test_whoever_is_asked_mixes_nothing():
    settings = BaselineSettings(backbone="test_efficientnet", weights="random", mixstyle={"probability": 1})
    backbone = open_backbone(settings)
    network = Classifier(backbone, backbone.num_features, 3, settings)
    images = torch.randn(6, 3, 32, 32)
    before = network.eval()(images)[1]
    learner = Learner(network, FEATURE_LEVEL["mixstyle"], settings)
    assert torch.equal(network.eval()(images)[1], before)
    learner.step([images], [torch.arange(6) % 3], 0)
    trained = network.eval()(images)[1]
    assert not torch.equal(trained, before) and torch.equal(network(images)[1], trained)
