"""SIMPLE+ on constructed pools, in which no model knows all samples."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from throughline.baselines.learner import Learner
from throughline.baselines.objectives import Outputs, simple_plus
from throughline.baselines.settings import BaselineSettings
from throughline.baselines.simple_plus import MatchedPool
from throughline.training.methods import CLIP_METHODS

CLASSES, MODELS, WIDTH = 3, 2, 8


def pool(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Features of two models, labels, and which model each sample suits: that one's features have the class, the other
    one's have another class drawn at random, and both have whom the sample suits."""
    draw = torch.Generator().manual_seed(seed)
    labels, others = (torch.randint(CLASSES, (count,), generator=draw) for _ in range(2))
    suited = torch.randint(MODELS, (count,), generator=draw)
    features = 0.1 * torch.randn(count, MODELS, WIDTH, generator=draw)
    for model in range(MODELS):
        seen = torch.where(suited == model, labels, others)
        features[:, model, :CLASSES] += F.one_hot(seen, CLASSES)
        features[:, model, CLASSES + model] += 2.0 * suited - 1.0
    return features.flatten(1), labels, suited


def test_its_choice_for_each_sample_beats_the_best_single_model():
    torch.manual_seed(0)
    settings = BaselineSettings.model_validate({"steps": 400, "simple_plus": {"lr": 0.02}}).of("simple_plus")
    network = MatchedPool([WIDTH] * MODELS, CLASSES, hidden=16)
    learner = Learner(network, CLIP_METHODS["simple_plus"], settings)
    features, labels, _ = pool(600, seed=0)
    for step in range(settings.steps):
        learner.step(features.chunk(2), labels.chunk(2), step)
    asked, answers, suited = pool(600, seed=1)
    with torch.inference_mode():
        by_model, together = network.eval()(asked)
        weights = network.matching(torch.cat([F.layer_norm(own, (WIDTH,)) for own in asked.split(WIDTH, 1)], 1))
    alone = (by_model.argmax(2) == answers[:, None]).float().mean(0)
    right = (together.argmax(1) == answers).float().mean()
    assert alone.max() < 0.8 and right > 0.95
    assert (weights.argmax(1) == suited).float().mean() > 0.95


def test_the_answer_is_the_weighted_mean_of_probabilities_and_reaches_no_adapter():
    torch.manual_seed(0)
    network = MatchedPool([4, 6], CLASSES, hidden=5)
    by_model, together = network(torch.randn(7, 10))
    torch.testing.assert_close(together.exp().sum(1), torch.ones(7))
    assert (together <= by_model.max(1).values + 1e-6).all() and (together >= by_model.min(1).values - 1e-6).all()
    together.sum().backward()
    assert [name for name, weight in network.named_parameters() if weight.grad is not None] == [
        "matching.0.weight",
        "matching.0.bias",
        "matching.2.weight",
        "matching.2.bias",
    ]


def test_the_loss_is_that_of_the_mean_and_the_mean_of_those_of_the_models():
    draw = torch.Generator().manual_seed(0)
    by_model = torch.randn(2, 5, MODELS, CLASSES, generator=draw, dtype=torch.float64).log_softmax(-1)
    together = torch.randn(2, 5, CLASSES, generator=draw, dtype=torch.float64).log_softmax(-1)
    labels = torch.randint(CLASSES, (2, 5), generator=draw)
    expected = 0.0
    for domain in range(2):
        for image in range(5):
            true = labels[domain, image]
            expected -= float(together[domain, image, true] + by_model[domain, image, :, true].mean()) / 10
    outputs = Outputs(by_model.unbind(), together.unbind(), labels.unbind())
    assert float(simple_plus(outputs, BaselineSettings(), 0)) == pytest.approx(expected)
