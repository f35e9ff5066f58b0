"""A linear probe: logistic regression on features that are there already, by scikit-learn."""

from collections.abc import Sequence

import torch

from throughline.baselines.images import Read
from throughline.baselines.network import Network
from throughline.baselines.settings import LinearProbeSettings
from throughline.core.errors import ThroughlineError
from throughline.domains.samples import Sample


def fit_head(
    network: Network, samples: Sequence[Sample], classes: Sequence[str], read: Read, settings: LinearProbeSettings
) -> None:
    """Puts the solution for these samples into the network's `head`; a class that none of them has gets probability 0.
    Raises a ThroughlineError where they have one class."""
    from sklearn.linear_model import LogisticRegression

    labels = [classes.index(sample.label) for sample in samples]
    if len(set(labels)) < 2:
        raise ThroughlineError("a linear probe needs images of at least two classes", "methods", "leave it out")
    model = LogisticRegression(C=settings.c, max_iter=settings.iterations)
    model.fit(torch.stack([read(sample) for sample in samples]).double().numpy(), labels)
    weight, bias = (torch.from_numpy(values).float() for values in (model.coef_, model.intercept_))
    if len(model.classes_) == 2:  # it has one row then, that of the second class
        weight, bias = (torch.cat([torch.zeros_like(values), values]) for values in (weight, bias))
    head = network.get_submodule("head")
    with torch.no_grad():
        head.get_parameter("weight").zero_()[model.classes_] = weight.to(network.device)
        head.get_parameter("bias").fill_(-torch.inf)[model.classes_] = bias.to(network.device)
