"""MLDG against two steps written out, on a linear classifier of numpy."""

import numpy as np
import pytest
import torch
from scipy.special import softmax

from throughline.baselines.mldg import mldg_gradients
from throughline.baselines.network import Classifier
from throughline.baselines.settings import BaselineSettings
from throughline.core.errors import ThroughlineError

LR, BETA = 0.01, 0.7


def loss_and_gradient(weight, bias, rows, labels):
    """Cross-entropy of a linear classifier and its gradient by weight and bias, by hand."""
    probabilities = softmax(rows @ weight.T + bias, axis=1)
    errors = (probabilities - np.eye(len(bias))[labels]) / len(labels)
    return -np.log(probabilities[np.arange(len(labels)), labels]).mean(), errors.T @ rows, errors.sum(axis=0)


def adam(value, gradient):
    """The first step of Adam: its moments, corrected, are the gradient and its square."""
    return value - LR * gradient / (np.abs(gradient) + 1e-8)


@pytest.mark.parametrize("tested", [1, 2, 5])
def test_the_gradient_is_that_of_two_steps_written_out(tested):
    settings = BaselineSettings.model_validate({"lr": LR, "mldg": {"beta": BETA, "meta_test": tested}})
    network = Classifier(torch.nn.Identity(), 4, 3, settings).double()
    rng = np.random.default_rng(0)
    rows, labels = rng.normal(size=(3, 6, 4)), rng.integers(0, 3, (3, 6))
    torch.manual_seed(5)
    order = torch.randperm(3).tolist()
    torch.manual_seed(5)
    loss = mldg_gradients(network, list(torch.tensor(rows)), list(torch.tensor(labels)), settings)

    tested = min(tested, 2)
    weight, bias = (value.detach().numpy() for value in (network.head.weight, network.head.bias))
    total, by_weight, by_bias = 0.0, np.zeros_like(weight), np.zeros_like(bias)
    trained_on, tested_on = order[:-tested], order[-tested:]
    for place, domain in enumerate(trained_on):
        other = tested_on[place % tested]
        first, *inner = loss_and_gradient(weight, bias, rows[domain], labels[domain])
        second, *outer = loss_and_gradient(adam(weight, inner[0]), adam(bias, inner[1]), rows[other], labels[other])
        total += (first + BETA * second) / 3
        by_weight += (inner[0] + BETA * outer[0]) / 3
        by_bias += (inner[1] + BETA * outer[1]) / 3
    assert loss == pytest.approx(total)
    assert network.head.weight.grad.numpy() == pytest.approx(by_weight)
    assert network.head.bias.grad.numpy() == pytest.approx(by_bias)
    assert np.array_equal(network.head.weight.detach().numpy(), weight)  # its own step is the optimiser's


def test_a_single_source_is_one_line():
    settings = BaselineSettings()
    network = Classifier(torch.nn.Identity(), 4, 3, settings)
    with pytest.raises(ThroughlineError, match="at least two source domains"):
        mldg_gradients(network, [torch.randn(2, 4)], [torch.tensor([0, 1])], settings)
