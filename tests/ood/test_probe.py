"""What a probe can and cannot read, on features that are made for it."""

from pathlib import Path

import numpy as np
import pytest

from throughline.chains.outcomes import Outcome
from throughline.core.errors import ThroughlineError
from throughline.domains.samples import Sample
from throughline.ood.probe import Features, probe, probe_predictions

CLASSES = ("boat", "cat", "dog")


def drawn(per_class: int, noise: float, seed: int) -> tuple[np.ndarray, list[str], list[str]]:
    """Features with the class in three of twenty directions; two images a group."""
    rng = np.random.default_rng(seed)
    labels = [label for label in CLASSES for _ in range(per_class)]
    centres = np.eye(3)[[CLASSES.index(label) for label in labels]]
    rows = np.concatenate([centres, np.zeros((len(labels), 17))], axis=1) + noise * rng.normal(size=(len(labels), 20))
    return rows, labels, [f"{label}{number // 2}" for number, label in enumerate(labels)]


def test_what_is_there_is_read_and_what_is_not_is_chance() -> None:
    train, labels, groups = drawn(20, 0.2, seed=0)
    test, true, _ = drawn(30, 0.2, seed=1)
    assert (
        np.mean([said == label for said, label in zip(probe(train, labels, groups, test, 0), true, strict=True)]) > 0.95
    )
    blind = np.random.default_rng(2).normal(size=train.shape)
    said = probe(blind, labels, groups, np.random.default_rng(3).normal(size=test.shape), 0)
    assert abs(np.mean([s == label for s, label in zip(said, true, strict=True)]) - 1 / 3) < 0.15


def test_rare_classes_count_as_much() -> None:
    train, labels, groups = drawn(40, 0.7, seed=0)
    kept = [place for place, label in enumerate(labels) if label != "dog" or place % 8 == 0]
    test, true, _ = drawn(60, 0.7, seed=1)
    said = probe(train[kept], [labels[p] for p in kept], [groups[p] for p in kept], test, 0)
    recall = [np.mean([s == label for s, label in zip(said, true, strict=True) if label == name]) for name in CLASSES]
    assert min(recall) > 0.4


def test_one_class_is_one_line() -> None:
    with pytest.raises(ThroughlineError, match="at least two classes"):
        probe(np.zeros((4, 2)), ["cat"] * 4, list("abcd"), np.zeros((1, 2)), 0)


def test_an_image_that_cannot_be_read_is_an_error_at_every_point() -> None:
    rows, labels, _ = drawn(8, 0.2, seed=0)
    samples = [Sample(f"{n}.png", Path(), "d", (label,), str(n)) for n, label in enumerate(labels)]
    broken = samples[1].id
    known = [sample for sample in samples if sample.id != broken]
    points = {name: rows[[sample is not samples[1] for sample in samples]] for name in ("tower", "layer 1, last")}
    features = Features(tuple(sample.id for sample in known), points)
    found = probe_predictions(features, samples[2:], samples[:2], {broken: "torn"}, 0)
    assert [(p.answer, p.sample_id) for p in found] == [
        (f"probe: {point}", name) for point in points for name in ("0.png", broken)
    ]
    assert [(p.outcome, p.predicted is None, p.text) for p in found] == [
        (Outcome.OK, False, ""),
        (Outcome.ERROR, True, "torn"),
    ] * 2
