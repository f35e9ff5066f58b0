"""Corruption errors and relative robustness, against numbers by hand and a bootstrap that draws image by image."""

import numpy as np
import pytest

from throughline.metrics.robustness import bootstrap_columns, corruption_error, mean_over_kinds, relative_robustness


def observed(*shares: float) -> np.ndarray:
    """The same shares in each of three draws."""
    return np.tile(shares, (3, 1))


def test_corruption_errors_by_hand() -> None:
    """A model at 20 and 40 % error where the baseline has 50 and 50 %; 10 and 20 % on clean images."""
    model, clean = observed(0.2, 0.4), observed(0.1)
    baseline, baseline_clean = observed(0.5, 0.5), observed(0.2)
    assert corruption_error(model, baseline) == pytest.approx([0.6 / 1.0] * 3)
    assert corruption_error(model - clean, baseline - baseline_clean) == pytest.approx([(0.1 + 0.3) / (0.3 + 0.3)] * 3)
    assert relative_robustness(model, clean) == pytest.approx([0.7 / 0.9] * 3)
    assert corruption_error(baseline, baseline) == pytest.approx([1.0] * 3)


def test_the_mean_over_kinds_is_that_of_their_ratios_not_the_ratio_of_sums() -> None:
    """Hendrycks and Dietterich normalise each kind before they average: a hard one weighs no more than an easy one."""
    model, baseline = (observed(0.1), observed(0.8)), (observed(0.2), observed(0.8))
    by_kind = [corruption_error(own, beside) for own, beside in zip(model, baseline, strict=True)]
    assert mean_over_kinds(by_kind) == pytest.approx([(0.5 + 1.0) / 2] * 3)


def test_a_kind_without_a_number_is_left_out_of_the_mean() -> None:
    nothing, half = corruption_error(observed(0.3), observed(0.0)), corruption_error(observed(0.1), observed(0.2))
    assert np.isnan(nothing).all()
    assert mean_over_kinds([nothing, half]) == pytest.approx([0.5] * 3)
    assert np.isnan(mean_over_kinds([nothing, nothing])).all()


def test_a_ratio_to_what_may_be_nothing_is_no_number() -> None:
    """The baseline seems to rise by 2 points, but falls in 5 % of the draws; with 1 % the ratio stands."""
    rises, model = np.full(1000, 0.02), np.full((1000, 1), 0.1)
    rises[950:] = -0.02
    assert np.isnan(corruption_error(model, rises[:, None])).all()
    rises[950:990] = 0.02
    ratios = corruption_error(model, rises[:, None])
    assert np.isfinite(ratios).all() and ratios == pytest.approx(np.full(1000, 5.0))


def test_columns_are_drawn_together_and_spread_as_images_drawn_one_by_one() -> None:
    rng = np.random.default_rng(1)
    tables = {name: (rng.uniform(size=(size, 3)) < 0.3).astype(float) for name, size in (("a", 80), ("b", 40))}
    tables = {name: np.column_stack([own, own[:, 0]]) for name, own in tables.items()}
    found = bootstrap_columns(tables, np.random.default_rng(0), draws=4000)
    assert found.shape == (4001, 4) and (found[:, 0] == found[:, 3]).all()
    assert found[0] == pytest.approx(np.mean([own.mean(axis=0) for own in tables.values()], axis=0))
    naive = []
    for _ in range(4000):
        drawn = (own[rng.integers(len(own), size=len(own))] for own in tables.values())
        naive.append(np.mean([own.mean(axis=0) for own in drawn], axis=0))
    assert found[1:].mean(axis=0) == pytest.approx(found[0], abs=0.005)
    assert np.cov(found[1:].T) == pytest.approx(np.cov(np.array(naive).T), abs=2e-4)
