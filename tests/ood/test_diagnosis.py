"""Causes of errors on answers that are made to have one."""

import numpy as np
import pytest

from throughline.ood.diagnosis import CAUSES, Evidence, diagnose

IMAGES = 240


def made(answers: float, tower: float, decoder: float, seed: int = 0) -> Evidence:
    """Right or wrong with these shares, two targets and seeds; what a later point has, the points before it have."""
    rng = np.random.default_rng(seed)
    keys = [(target, run) for target in ("photo", "sketch") for run in (0, 1)]
    drawn = {key: rng.uniform(size=IMAGES) for key in keys}
    shares = {"answers": answers, "tower": tower, "decoder": decoder}
    return Evidence(**{name: {key: drawn[key] < share for key in keys} for name, share in shares.items()})


@pytest.mark.parametrize(
    ("shares", "cause"),
    [
        ((0.25, 0.35, 0.3), "visual"),
        ((0.25, 0.95, 0.3), "mapping"),
        ((0.25, 0.95, 0.9), "semantic"),
        ((0.2, 0.6, 0.6), None),  # as much in the eyes as in the words
        ((0.95, 0.98, 0.97), None),
    ],
)
def test_the_cause_is_where_the_accuracy_is_lost(shares: tuple[float, float, float], cause: str | None) -> None:
    found = diagnose(made(*shares))
    assert found.cause == cause, found
    assert sum(found.causes[name].mean for name in CAUSES) == pytest.approx(found.error.mean)
    assert all(own.low <= own.mean <= own.high for own in (found.error, *found.causes.values()))


def test_with_a_reference_only_what_came_to_it_counts() -> None:
    """Both see little; the second has lost its words besides."""
    whole, damaged = made(0.5, 0.55, 0.52), made(0.1, 0.55, 0.52)
    assert diagnose(damaged).cause != "semantic"
    found = diagnose(damaged, whole)
    assert found.cause == "semantic" and found.error.mean == pytest.approx(0.4, abs=0.05)
    assert diagnose(whole, whole).cause is None


def test_a_refusal_says_why() -> None:
    assert "not surely above 10 %" in diagnose(made(0.95, 0.98, 0.97)).why
    assert "not surely ahead of" in diagnose(made(0.2, 0.6, 0.6)).why


def test_what_is_not_about_the_same_images_is_an_error() -> None:
    good = made(0.5, 0.6, 0.55)
    short = {key: row[:-1] for key, row in good.answers.items()}
    with pytest.raises(ValueError, match="not about the same images"):
        Evidence(short, good.tower, good.decoder)
    with pytest.raises(ValueError, match="other images"):
        diagnose(
            good, Evidence(*({k: r[:-1] for k, r in own.items()} for own in (good.answers, good.tower, good.decoder)))
        )
