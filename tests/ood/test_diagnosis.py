"""Causes of errors on answers that are made to have one."""

from collections.abc import Sequence
from itertools import permutations
from typing import Any

import numpy as np
import pytest

from throughline.ood.diagnosis import CAUSES, Evidence, diagnose, reread

IMAGES = 240


def made(answers: float, reread: float, tower: float, seed: int = 0) -> Evidence:
    """Right or wrong with these shares, two targets and seeds; where one is right, so are those with a higher share."""
    rng = np.random.default_rng(seed)
    keys = [(target, run) for target in ("photo", "sketch") for run in (0, 1)]
    drawn = {key: rng.uniform(size=IMAGES) for key in keys}
    shares = {"answers": answers, "reread": reread, "tower": tower}
    return Evidence(**{name: {key: drawn[key] < share for key in keys} for name, share in shares.items()})


@pytest.mark.parametrize(
    ("shares", "named"),
    [
        ((0.25, 0.3, 0.35), ("visual",)),
        ((0.25, 0.3, 0.95), ("mapping",)),
        ((0.25, 0.9, 0.95), ("semantic",)),
        ((0.2, 0.6, 0.6), ("semantic", "visual")),  # as much in the words as in the eyes
        ((0.1, 0.4, 0.7), ()),  # a third each
        ((0.95, 0.97, 0.98), ()),
        ((0.5, 0.5, 0.45), ("visual",)),  # the probe reads a little less than the model
        ((0.6, 0.6, 0.3), ()),  # much less
    ],
)
def test_the_cause_is_where_the_accuracy_is_lost(shares: tuple[float, float, float], named: tuple[str, ...]) -> None:
    found = diagnose(made(*shares))
    assert sorted(found.named) == sorted(named), found
    assert sum(found.causes[name].mean for name in CAUSES) == pytest.approx(found.error.mean)
    assert all(own.low <= own.mean <= own.high for own in (found.error, *found.causes.values()))


def test_with_a_reference_only_what_came_to_it_counts() -> None:
    """Both see little; the second has lost its words besides."""
    whole, damaged = made(0.5, 0.52, 0.55), made(0.1, 0.52, 0.55)
    assert diagnose(damaged).named != ("semantic",)
    found = diagnose(damaged, whole)
    assert found.named == ("semantic",) and found.error.mean == pytest.approx(0.4, abs=0.05)
    assert not diagnose(whole, whole).named


def test_a_refusal_says_why() -> None:
    assert "not surely above 10 %" in diagnose(made(0.95, 0.97, 0.98)).why
    assert "not surely ahead of" in diagnose(made(0.1, 0.4, 0.7)).why
    assert "more than a probe reads" in diagnose(made(0.6, 0.6, 0.3)).why


def test_what_is_not_about_the_same_images_is_an_error() -> None:
    good = made(0.5, 0.55, 0.6)
    parts = vars(good).values()
    short = [{key: row[:-1] for key, row in runs.items()} for runs in parts]
    with pytest.raises(ValueError, match="not about the same images"):
        Evidence(short[0], good.reread, good.tower)
    with pytest.raises(ValueError, match="other images"):
        diagnose(good, Evidence(*short))


CLASSES = ("boat", "cat", "cup", "dog")


def answered(words: dict[str, str], right: float, images: int = 200) -> tuple[list[str | None], list[str]]:
    """What a model says that sees the class in this share of the images, else any, and calls the classes by `words`."""
    rng = np.random.default_rng(3)
    true = [CLASSES[number % 4] for number in range(images)]
    seen = [label if rng.uniform() < right else str(rng.choice(CLASSES)) for label in true]
    return [words.get(label, label) for label in seen], true


def folds_of(answers: Sequence[object]) -> list[int]:
    return [number // 4 % 5 for number in range(len(answers))]


def test_exchanged_words_are_read_as_what_they_stand_for() -> None:
    straight, true = answered({}, 0.8)
    twisted, _ = answered({"cat": "dog", "dog": "cup", "cup": "cat"}, 0.8)
    assert np.mean([said == label for said, label in zip(twisted, true, strict=True)]) < 0.4
    as_said = np.array([said == label for said, label in zip(straight, true, strict=True)])
    for said in (straight, twisted):
        assert reread(said, true, folds_of(true)).tolist() == as_said.tolist()


def test_a_reading_is_the_best_exchange_of_words_in_the_other_folds() -> None:
    """Against every exchange there is, in answers that are hardly better than chance."""
    said, true = answered({"boat": "cup"}, 0.3, images=60)
    folds = np.array(folds_of(true))
    expected = np.zeros(len(true), bool)
    for fold in range(5):
        others = [(s, t) for s, t, at in zip(said, true, folds, strict=True) if at != fold]

        def worth(order: tuple[str, ...], others: list[Any] = others) -> float:
            read = dict(zip(CLASSES, order, strict=True))
            return sum(read[s] == t for s, t in others) + sum(own == read[own] for own in CLASSES) / 2

        read = dict(zip(CLASSES, max(permutations(CLASSES), key=worth), strict=True))
        expected[folds == fold] = [read[str(s)] == t for s, t, at in zip(said, true, folds, strict=True) if at == fold]
    assert reread(said, true, folds.tolist()).tolist() == expected.tolist()


def test_what_names_no_class_stays_wrong_and_a_word_that_was_never_said_keeps_its_meaning() -> None:
    true = [*CLASSES, *CLASSES]
    said = [None, "cat", "cup", "dog", "boat", "cat", "cup", "dog"]
    folds = [0] * 4 + [1] * 4
    assert reread(said, true, folds).tolist() == [False] + [True] * 7
    assert not reread([None] * 8, true, folds).any()
