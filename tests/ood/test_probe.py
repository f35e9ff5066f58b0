"""What a probe can and cannot read, on features that are made for it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from throughline.chains.outcomes import Outcome
from throughline.core.errors import ThroughlineError
from throughline.domains.samples import ImageSet, Sample
from throughline.ood import probe as ood_probe
from throughline.ood.probe import FEATURES, Features, probe, probe_predictions, read_by, read_features

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


def test_another_models_probe_reads_what_lies_where_it_was(tmp_path: Path) -> None:
    """On its own features it is its own; turned round, they tell it nothing, though a probe of their own reads them."""
    rows, labels, groups = drawn(30, 0.2, seed=0)
    samples = [
        Sample(f"{n}.png", Path(), "d", (label,), str(n), group=group)
        for n, (label, group) in enumerate(zip(labels, groups, strict=True))
    ]
    asked, pool = samples[::3], [sample for number, sample in enumerate(samples) if number % 3]
    turned = np.linalg.qr(np.random.default_rng(5).normal(size=(20, 20)))[0]
    units = {"own": rows, "copy": rows, "turned": rows @ turned, "narrow": rows[:, :10]}
    for name, values in units.items():
        (tmp_path / name).mkdir()
        content = Features(tuple(sample.id for sample in samples), {"tower": values}).to_bytes(samples)
        (tmp_path / name / FEATURES).write_bytes(content)

    def read(name: str) -> Any:
        return read_by(tmp_path / "own", tmp_path / name, "tower", [sample.id for sample in asked], seed=0)

    def own(name: str) -> list[bool]:
        features = Features(
            tuple(sample.id for sample in samples), {"tower": units[name].astype(np.float32).astype(np.float64)}
        )
        return [row.predicted in row.labels for row in probe_predictions(features, pool, asked, {}, seed=0)]

    assert read("copy").tolist() == own("own") and np.mean(own("own")) > 0.9
    assert np.mean(own("turned")) > 0.9 and np.mean(read("turned")) < 0.6
    assert read("narrow") is None
    (tmp_path / "narrow" / FEATURES).unlink()
    assert read("narrow") is None


def test_an_image_without_features_is_wrong(tmp_path: Path) -> None:
    rows, labels, _ = drawn(10, 0.2, seed=0)
    samples = [Sample(f"{n}.png", Path(), "d", (label,), str(n)) for n, label in enumerate(labels)]
    for name, kept in (("reference", samples), ("changed", samples[1:])):
        (tmp_path / name).mkdir()
        features = Features(tuple(sample.id for sample in kept), {"tower": rows[-len(kept) :]})
        (tmp_path / name / FEATURES).write_bytes(features.to_bytes(samples))
    right = read_by(tmp_path / "reference", tmp_path / "changed", "tower", [sample.id for sample in samples[:2]], 0)
    assert right is not None and right.tolist() == [False, True]


@pytest.mark.parametrize("at_once", [1, 200, 4096])
def test_features_are_those_of_each_image_alone_and_a_torn_one_is_named(
    at_once: int, tiny_mllm: Any, tiny_images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from throughline.mllm.features import point_features
    from throughline.mllm.images import ImageReader
    from throughline.questions.prompt import ImageThenText

    monkeypatch.setattr(ood_probe, "AT_ONCE", at_once)
    reader, make = ImageReader(tiny_mllm.chat), ImageThenText("What is shown?")
    gone = replace(tiny_images.samples[2], root=tmp_path, image_sha256="gone")
    samples = [*tiny_images.samples[:2], gone, *tiny_images.samples[3:7]]
    told: list[tuple[int, int]] = []
    found, faults = read_features(tiny_mllm, samples, lambda s: make(s).encode(reader), lambda *n: told.append(n))
    assert list(faults) == [gone.id] and found.ids == tuple(sample.id for sample in samples if sample is not gone)
    assert told == [(number, 7) for number in range(1, 8)]
    for place, name in enumerate(found.ids):
        (alone,) = point_features(tiny_mllm, [make(tiny_images.by_id[name]).encode(reader)])
        for point, value in alone.items():
            assert found.points[point][place] == pytest.approx(value.numpy(), rel=1e-4, abs=1e-5)
