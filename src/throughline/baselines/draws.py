"""The random hyper-parameters of facebookresearch/DomainBed (domainbed/hparams_registry.py at b93c22a, for data sets of
larger images other than DomainNet): with the same seeds the same values. Free of torch."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from throughline.domains.splits import seed_hash

Draw = Callable[[np.random.RandomState], Any]


def _power(base: float, low: float, high: float, kind: type = float) -> Draw:
    return lambda random: kind(base ** random.uniform(low, high))


def _one_of(*values: float) -> Draw:
    return lambda random: random.choice(values).item()


HYPER_PARAMETERS: Mapping[str, tuple[str, Draw]] = {
    "lr": ("lr", _power(10, -5, -3.5)),
    "weight_decay": ("weight_decay", _power(10, -6, -2)),
    "batch_size": ("batch_per_domain", _power(2, 3, 5.5, int)),
    "resnet_dropout": ("dropout", _one_of(0.0, 0.1, 0.5)),
    "irm_lambda": ("irm.weight", _power(10, -1, 5)),
    "irm_penalty_anneal_iters": ("irm.anneal_steps", _power(10, 0, 4, int)),
    "mmd_gamma": ("coral.weight", _power(10, -1, 1)),
    "mldg_beta": ("mldg.beta", _power(10, -1, 1)),
    "n_meta_test": ("mldg.meta_test", _one_of(1, 2)),
}
"""DomainBed's name, our key of `baselines`, and the draw; each has a generator of its own."""


def domainbed_draw(number: int, trial_seed: int) -> dict[str, Any]:
    """The keys that a draw of DomainBed's sweep sets, `number` being its hparams_seed from 1; 0 is the defaults."""
    seed = seed_hash(number, trial_seed)
    return {
        f"baselines.{key}": draw(np.random.RandomState(seed_hash(seed, name)))
        for name, (key, draw) in HYPER_PARAMETERS.items()
    }
