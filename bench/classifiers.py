"""What the engine of feature-level methods costs: ERM against a plain loop, and features for several heads.

    python bench/classifiers.py --json

The plain loop is what one writes with torchvision's ImageFolder and transforms, DataLoader and timm: the same backbone,
images, batches of each domain, augmentation and optimiser, nothing else. Both sides read, augment and train in one
process with the same threads.
"""

import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path

import timm
import torch
from pydantic import PositiveInt
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, RandomSampler
from torchvision import transforms
from torchvision.datasets import ImageFolder

from bench_script import run_bench
from throughline.baselines.frozen import frozen_reader
from throughline.baselines.images import Read
from throughline.baselines.opening import open_network
from throughline.baselines.settings import BaselineSettings
from throughline.baselines.training import TrainingTask, train
from throughline.benchmarks.settings import BenchSettings
from throughline.benchmarks.timing import BenchRow, OnProgress, Side, measure_sides, on_threads, require_close
from throughline.domains.folders import read_images
from throughline.domains.samples import ImageSet
from throughline.drawn.world import write_world
from throughline.training.methods import FEATURE_LEVEL

PLAIN, ANEW = "a plain torchvision loop", "features computed for each head"


class ClassifierSettings(BenchSettings):
    """Training images a second of `erm` against a plain loop, and frozen features for several heads."""

    backbone: str = "resnet10t"
    """An architecture of timm, with random weights."""
    image_size: PositiveInt = 64
    """Side in pixels to which images are scaled."""
    batch: PositiveInt = 32
    """Images of each domain in a step."""
    steps: PositiveInt = 8
    """Steps of a timed run."""
    heads: PositiveInt = 6
    """Classifiers on the same features."""
    per_class: PositiveInt = 6
    """Drawn images of each class and domain."""
    trials: PositiveInt = 5
    """Timed runs of each side."""

    @property
    def baselines(self) -> BaselineSettings:
        """As a run has them, with DomainBed's augmentation."""
        return BaselineSettings(
            backbone=self.backbone,
            weights="random",
            image_size=self.image_size,
            batch_per_domain=self.batch,
            steps=self.steps,
            freeze_batch_norm=False,
        )


def measure(settings: ClassifierSettings, on_progress: OnProgress) -> list[BenchRow]:
    """A row for training and one for frozen features."""
    with on_threads(settings.threads), tempfile.TemporaryDirectory() as scratch:
        write_world(Path(scratch) / "images", per_class=settings.per_class, seed=0)
        images = read_images(Path(scratch) / "images")
        facts = settings.model_dump(exclude={"threads", "heads", "steps"})
        facts |= {"threads": torch.get_num_threads(), "torch": str(torch.__version__), "timm": timm.__version__}
        on_progress("erm")
        trained = settings.steps * settings.batch * len(images.domains)
        rows = measure_sides(
            f"training, erm on {settings.backbone}",
            ours(settings, images, Path(scratch)),
            {PLAIN: plain_loop(settings, Path(scratch) / "images", len(images.classes))},
            settings.trials,
            facts | {"steps": settings.steps, "domains": len(images.domains)},
            count=trained / 1000,
            unit="seconds per 1,000 images",
        )
        on_progress("frozen features")
        name = f"frozen features for {settings.heads} heads"
        once, anew = (Features(settings, images, Path(scratch) / kind, kind == "once") for kind in ("once", "anew"))
        return rows + measure_sides(
            name,
            once,
            {ANEW: anew},
            settings.trials,
            facts | {"heads": settings.heads},
            lambda rival: {"largest_difference": require_close(name, gap(once, anew), 0.0, "features differ")},
            count=len(images.samples) / 1000,
            unit="seconds per 1,000 images",
        )


def ours(settings: ClassifierSettings, images: ImageSet, scratch: Path) -> Side:
    """`erm` as a unit of a run trains it, weights and checkpoint written."""
    network, read, _ = open_network("erm", settings.baselines, images.classes, unfrozen, "cpu", seed=0)
    folders = (scratch / f"unit-{number}" for number in count())

    def run() -> None:
        folder = next(folders)
        folder.mkdir()
        task = TrainingTask(
            method=FEATURE_LEVEL["erm"],
            settings=settings.baselines,
            classes=images.classes,
            samples=images.samples,
            validation=(),
            read=read,
            predict=lambda samples: (),
            seed=0,
            folder=folder,
            select=False,
        )
        train(task, network)

    return run


def unfrozen(*_: object) -> Read:
    """What a network that trains its backbone never asks for."""
    raise AssertionError("nothing is frozen")


def augmentation(side: int, mean: tuple[float, ...], deviation: tuple[float, ...]) -> transforms.Compose:
    """DomainBed's, written out."""
    return transforms.Compose(
        [
            transforms.RandomResizedCrop((side, side), scale=(0.7, 1.0)),
            transforms.RandomHorizontalFlip(),
            transforms.ColorJitter(0.3, 0.3, 0.3, 0.3),
            transforms.RandomGrayscale(),
            transforms.ToTensor(),
            transforms.Normalize(mean, deviation),
        ]
    )


def plain_loop(settings: ClassifierSettings, root: Path, classes: int) -> Side:
    """The same training by hand."""
    torch.manual_seed(0)
    model = timm.create_model(settings.backbone, num_classes=classes)
    transform = augmentation(settings.image_size, model.pretrained_cfg["mean"], model.pretrained_cfg["std"])
    domains = [ImageFolder(path, transform) for path in sorted(root.iterdir()) if path.is_dir()]
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-5)

    def batches(domain: ImageFolder) -> Iterator[list[Tensor]]:
        sampler = RandomSampler(domain, num_samples=settings.steps * settings.batch)
        yield from DataLoader(domain, settings.batch, sampler=sampler)

    def run() -> None:
        model.train()
        for step in zip(*map(batches, domains), strict=True):
            images, labels = (torch.cat(parts) for parts in zip(*step, strict=True))
            optimizer.zero_grad()
            loss: Tensor = cross_entropy(model(images), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    return run


class Features:
    """Reads the features of all images for each head, from files of earlier heads or each time anew."""

    def __init__(self, settings: ClassifierSettings, images: ImageSet, folder: Path, once: bool) -> None:
        self.settings, self.images, self.folder, self.once = settings, images, folder, once
        self.turns, self.latest = count(), Tensor()

    def __call__(self) -> None:
        """All heads of a run, which begins without features."""
        turn = self.folder / str(next(self.turns))
        for head in range(self.settings.heads):
            folder = turn if self.once else turn / str(head)
            freeze = partial(frozen_reader, self.images.samples, (), folder, 32, lambda line: None)
            frozen = self.settings.baselines.model_copy(update={"frozen": True})
            _, read, _ = open_network("erm", frozen, self.images.classes, freeze, "cpu", seed=head)
            self.latest = torch.stack([read(sample) for sample in self.images.samples])


def gap(first: Features, second: Features) -> float:
    """The largest difference of what both read last."""
    return float((first.latest - second.latest).abs().max())


if __name__ == "__main__":
    sys.exit(run_bench(ClassifierSettings, measure))
