"""Linear MMD² against kernels of scikit-learn, and a permutation test that neither cries wolf nor sleeps."""

import numpy as np
import pytest
from sklearn.metrics.pairwise import linear_kernel

from throughline.analysis.divergence import divergence, linear_mmd2


def test_mmd_is_that_of_the_linear_kernel():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(7, 5)), rng.normal(size=(11, 5)) + 0.3
    expected = linear_kernel(a).mean() + linear_kernel(b).mean() - 2 * linear_kernel(a, b).mean()
    assert linear_mmd2(a, b) == pytest.approx(expected)


def test_lengths_say_nothing_nor_do_rows_of_zeros():
    rng = np.random.default_rng(0)
    rows, domains = rng.normal(size=(6, 3)), ["photo"] * 3 + ["sketch"] * 3
    longer = np.concatenate([rows * rng.uniform(1, 9, size=(6, 1)), np.zeros((1, 3))])
    plain = divergence(rows, domains, "e", "images", None, permutations=9)
    found = divergence(longer, [*domains, "photo"], "e", "images", None, permutations=9)
    assert found.pairs[0].distance == pytest.approx(plain.pairs[0].distance)
    assert found.samples == plain.samples == 6


def test_pairs_of_domains_one_of_which_is_elsewhere():
    rng = np.random.default_rng(1)
    near = rng.normal(size=(40, 8)) + 2
    far = rng.normal(size=(20, 8)) - 2
    domains = ["cartoon"] * 20 + ["photo"] * 20 + ["sketch"] * 20
    found = divergence(np.concatenate([near, far]), domains, "e", "images", None, permutations=199)
    by_name = {(pair.first, pair.second): pair for pair in found.pairs}
    assert set(by_name) == {("cartoon", "photo"), ("cartoon", "sketch"), ("photo", "sketch")}
    same, other = by_name["cartoon", "photo"], by_name["photo", "sketch"]
    assert same.p_value > 0.05 and other.p_value == 1 / 200
    assert same.distance < 2 * same.expected and other.distance > 10 * other.expected
    assert found.mean == pytest.approx(np.mean([pair.distance for pair in found.pairs]))
    assert found.samples == 60


def test_shuffled_domains_have_uniform_p_values():
    rng = np.random.default_rng(2)
    p = []
    for _ in range(60):
        found = divergence(rng.normal(size=(20, 4)), ["a"] * 10 + ["b"] * 10, "e", "images", None, permutations=99)
        p.append(found.pairs[0].p_value)
    assert 0.35 < np.mean(p) < 0.65 and np.mean(np.array(p) <= 0.1) < 0.25


def test_rows_that_say_nothing_are_left_out():
    rows = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0], [0.0, 2.0]])
    found = divergence(rows, ["a", "a", "b", "b"], "e", "class words", "teacher", permutations=9)
    assert found.samples == 3 and found.mean == pytest.approx(2.0)


def test_one_domain_has_no_pair():
    assert divergence(np.ones((3, 2)), ["a"] * 3, "e", "images", None) is None
