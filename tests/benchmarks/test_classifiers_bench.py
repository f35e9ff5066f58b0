"""`bench/classifiers.py`: both sides of a row do the same work."""

from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

pytest.importorskip("timm", reason="the extra baselines is not installed")

from classifiers import ANEW, PLAIN, ClassifierSettings, Features, augmentation, gap, measure
from throughline.baselines import frozen
from throughline.baselines.images import image_readers
from throughline.baselines.learner import Learner
from throughline.domains.folders import read_images
from throughline.drawn.world import write_world

SMALL = ClassifierSettings(
    backbone="test_efficientnet", image_size=32, batch=2, steps=2, heads=2, per_class=1, trials=1, threads=1
)


def test_each_thing_is_measured_on_the_same_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps of two images of four domains, on either side, in each of two turns."""
    seen = {"ours": 0, "plain": 0}
    step, loss = Learner.step, cross_entropy

    def counting(learner, images, labels, number):
        seen["ours"] += sum(map(len, labels))
        return step(learner, images, labels, number)

    def counting_loss(logits, labels):
        seen["plain"] += len(labels)
        return loss(logits, labels)

    monkeypatch.setattr(Learner, "step", counting)
    monkeypatch.setattr("classifiers.cross_entropy", counting_loss)
    rows = measure(SMALL, lambda line: None)
    assert [(row.name, row.rival) for row in rows] == [
        ("training, erm on test_efficientnet", PLAIN),
        ("frozen features for 2 heads", ANEW),
    ]
    assert seen == {"ours": 32, "plain": 32}
    assert all(row.ours_value > 0 and row.settings["threads"] == 1 for row in rows)


def test_the_plain_loop_augments_as_we_do() -> None:
    mean, deviation = (0.4, 0.5, 0.6), (0.1, 0.2, 0.3)
    readers: Any = image_readers(SMALL.baselines, 32, mean, deviation)
    assert str(readers[0].args[0]) == str(augmentation(32, mean, deviation))


def test_only_one_side_computes_features_for_each_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_world(tmp_path / "images", per_class=1, seed=0)
    images, computed = read_images(tmp_path / "images"), count()
    real = frozen._computed

    def computing(*arguments):
        next(computed)
        return real(*arguments)

    monkeypatch.setattr(frozen, "_computed", computing)
    sides = [Features(SMALL, images, tmp_path / str(once), once) for once in (True, False)]
    for side in sides:
        side()
    assert next(computed) == 1 + SMALL.heads
    assert gap(*sides) == 0 and sides[0].latest.shape[0] == len(images.samples)
    sides[1].latest = sides[1].latest + torch.ones(1)
    assert gap(*sides) == pytest.approx(1)
