"""What a classifier reads: the images of the source domains step by step, and how an image becomes a tensor.

Everything random is drawn from the seed and the number of the step, so that a killed unit goes on with the same images
and the number of loading processes changes none.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from torchvision import transforms

from throughline.baselines.settings import BaselineSettings
from throughline.core.errors import ThroughlineError
from throughline.core.seeding import generator, seed_of
from throughline.domains.samples import Sample
from throughline.domains.views import load_sample

Read: TypeAlias = Callable[[Sample], Tensor]
"""A sample as the tensor that the classifier is given."""


def image_readers(
    settings: BaselineSettings, side: int, mean: Sequence[float], deviation: Sequence[float]
) -> tuple[Read, Read]:
    """How a training image is read, and how any other is: scaled to a square and normalised as the weights have it. The
    augmentation is that of facebookresearch/DomainBed (domainbed/datasets.py)."""
    size = (side, side)
    whole = [transforms.ToTensor(), transforms.Normalize(mean, deviation)]
    plain = transforms.Compose([transforms.Resize(size), *whole])
    augmented = transforms.Compose(
        [
            transforms.RandomResizedCrop(size, scale=(0.7, 1.0)),
            transforms.RandomHorizontalFlip(),
            transforms.ColorJitter(0.3, 0.3, 0.3, 0.3),
            transforms.RandomGrayscale(),
            *whole,
        ]
    )
    return partial(_read, augmented if settings.augment else plain), partial(_read, plain)


def _read(transform: Callable[[Any], Tensor], sample: Sample) -> Tensor:
    return transform(load_sample(sample))


class _Draws(Dataset[tuple[Tensor, int] | ThroughlineError]):
    """The samples by `(step, place in the step, index)`; the fault in the place of one that cannot be read, since torch
    would bring it from another process in the midst of a traceback."""

    def __init__(self, samples: Sequence[Sample], classes: Sequence[str], read: Read, seed: int) -> None:
        self.samples, self.read, self.seed = samples, read, seed
        self.labels = [classes.index(sample.label) for sample in samples]

    def __getitem__(self, key: tuple[int, int, int]) -> tuple[Tensor, int] | ThroughlineError:
        step, place, index = key
        # images are read on the CPU; torch.manual_seed formats the stack for every call while no GPU is in use
        torch.default_generator.manual_seed(seed_of(self.seed, "augmentation", step, place))
        try:
            return self.read(self.samples[index]), self.labels[index]
        except ThroughlineError as fault:
            return ThroughlineError(str(fault))  # of the plain kind: it has to survive being pickled


def _together(drawn: list[tuple[Tensor, int] | ThroughlineError]) -> Any:
    """A batch of all, or the first fault among them."""
    return next((one for one in drawn if isinstance(one, ThroughlineError)), None) or default_collate(drawn)


def batches(
    samples: Sequence[Sample], classes: Sequence[str], read: Read, settings: BaselineSettings, seed: int, start: int
) -> Iterator[tuple[Sequence[Tensor], Sequence[Tensor]]]:
    """For each step from `start` on what is read and its labels, both domain by domain. ThroughlineError for an image
    that cannot be read."""
    domains: dict[str, list[int]] = {}
    for index, sample in enumerate(samples):
        domains.setdefault(sample.domain, []).append(index)
    size = settings.batch_per_domain

    @cache
    def order(domain: str, number: int) -> Sequence[int]:
        """A domain's images as the pass over them of this number has them."""
        return generator(seed, "images of steps", domain, number).permutation(domains[domain]).tolist()

    def drawn(domain: str, step: int) -> Iterator[int]:
        for place in range(step * size, (step + 1) * size):
            number, at = divmod(place, len(domains[domain]))
            yield order(domain, number)[at]

    def keys(step: int) -> list[tuple[int, int, int]]:
        indices = (index for domain in domains for index in drawn(domain, step))
        return [(step, place, index) for place, index in enumerate(indices)]

    loader = DataLoader(
        _Draws(samples, classes, read, seed),
        batch_sampler=[keys(step) for step in range(start, settings.steps)],
        num_workers=settings.loader_workers,
        collate_fn=_together,
    )
    for batch in loader:
        if isinstance(batch, ThroughlineError):
            raise batch
        images, labels = batch
        yield images.split(size), labels.split(size)
