"""The losses of feature-level methods against independent computations on random numbers."""

import itertools

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax

from throughline.baselines.objectives import LOSSES, Outputs, coral_penalty, irm_penalty
from throughline.baselines.settings import BaselineSettings

Domain = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]
SETTINGS = BaselineSettings.model_validate({"irm": {"weight": 7.0, "anneal_steps": 3}, "coral": {"weight": 0.3}})


@pytest.fixture
def domains() -> list[Domain]:
    """Three domains of eight images: features, logits of four classes, labels."""
    rng = np.random.default_rng(0)
    return [(rng.normal(d, 1 + d, (8, 5)), rng.normal(0, 2, (8, 4)), rng.integers(0, 4, 8)) for d in range(3)]


def loss_of(name: str, domains: list[Domain], step: int = 0) -> float:
    features, logits, labels = ([torch.tensor(values) for values in each] for each in zip(*domains, strict=True))
    return LOSSES[name](Outputs(features, logits, labels), SETTINGS, step).item()


def cross_entropy(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    return -float(log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean())


def test_erm_is_the_mean_cross_entropy_over_all_images(domains):
    logits, labels = np.concatenate([d[1] for d in domains]), np.concatenate([d[2] for d in domains])
    assert loss_of("erm", domains) == pytest.approx(cross_entropy(logits, labels))


def slope(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """The derivative of the cross-entropy by a scale of the logits, at 1, as it is by hand."""
    mean_logit = (softmax(logits, axis=1) * logits).sum(axis=1)
    return float((mean_logit - logits[np.arange(len(labels)), labels]).mean())


def test_the_penalty_of_irm_is_the_product_of_the_slopes_of_two_halves(domains):
    _, logits, labels = domains[0]
    by_hand = slope(logits[::2], labels[::2]) * slope(logits[1::2], labels[1::2])
    assert irm_penalty(torch.tensor(logits), torch.tensor(labels)).item() == pytest.approx(by_hand)


def test_the_penalty_of_irm_has_the_gradient_of_finite_differences():
    logits, labels = torch.randn(6, 3, dtype=torch.float64, requires_grad=True), torch.tensor([0, 1, 2, 0, 1, 2])
    assert torch.autograd.gradcheck(lambda rows: irm_penalty(rows, labels), [logits])


@pytest.mark.parametrize(("step", "weight"), [(2, 1.0), (3, 7.0)])
def test_irm_weighs_its_penalty_by_one_until_the_annealing_ends(domains, step, weight):
    penalties = [slope(z[::2], y[::2]) * slope(z[1::2], y[1::2]) for _, z, y in domains]
    expected = loss_of("erm", domains) + weight * np.mean(penalties)
    assert loss_of("irm", domains, step) == pytest.approx(expected)


def distance(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    means = ((first.mean(axis=0) - second.mean(axis=0)) ** 2).mean()
    return float(means + ((np.cov(first, rowvar=False) - np.cov(second, rowvar=False)) ** 2).mean())


def test_coral_adds_the_mean_distance_of_means_and_covariances_over_pairs_of_domains(domains):
    pairs = [distance(a[0], b[0]) for a, b in itertools.combinations(domains, 2)]
    assert loss_of("coral", domains) == pytest.approx(loss_of("erm", domains) + 0.3 * np.mean(pairs))


def test_domains_with_the_same_features_have_no_distance(domains):
    features = torch.tensor(domains[0][0])
    assert float(coral_penalty(features, features)) == 0


def test_of_a_single_source_coral_is_erm(domains):
    assert loss_of("coral", domains[:1]) == loss_of("erm", domains[:1])
