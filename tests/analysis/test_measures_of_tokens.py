"""Probabilities, entropy and mismatch on tables small enough to be worked out by hand."""

import math

import numpy as np
import pytest
from tests.analysis.tables import table_of

from throughline.analysis.context import context
from throughline.analysis.entropy import entropy_table, overlap
from throughline.analysis.estimates import over_images
from throughline.analysis.mismatch import mismatch
from throughline.analysis.optimisation import curve
from throughline.analysis.probabilities import buckets, moved
from throughline.analysis.records import State
from throughline.analysis.tokens import tokens_of
from throughline.runs.records import TrainingLine

BASE = State(method=None, unit=None, round=None)
MTCT = State(method="mtct", unit="u", round=None)
BEFORE = table_of(
    [
        ("a", "label", 1, "class", 0.1, 2.0),
        ("a", "label", 2, "class", 0.5, 2.0),
        ("a", "label", 9, "end", 0.9, 0.1),
        ("a", "teacher", 3, "text", 0.2, 3.0),
        ("a", "teacher", 1, "class", 0.8, 1.0),
        ("b", "label", 1, "class", 0.9, 1.0),
        ("b", "label", 9, "end", 0.9, 0.1),
        ("b", "teacher", 3, "text", 0.1, 2.0),
        ("b", "teacher", 4, "tag", 0.1, 5.0),
        ("b", "teacher", 1, "class", 0.1, 1.0),
    ]
)
AFTER = table_of(
    [
        ("a", "label", 1, "class", 0.9, 1.0),
        ("a", "label", 2, "class", 0.5, 1.0),
        ("a", "label", 9, "end", 0.9, 0.1),
        ("a", "teacher", 3, "text", 0.8, 1.0),
        ("a", "teacher", 1, "class", 0.7, 0.9),
        ("b", "label", 1, "class", 0.1, 1.0),
        ("b", "label", 9, "end", 0.9, 0.1),
        ("b", "teacher", 3, "text", 0.3, 1.0),
        ("b", "teacher", 4, "tag", 0.9, 0.0),
        ("b", "teacher", 1, "class", 0.76, 0.8),
    ]
)


def test_buckets_by_hand():
    found = buckets(BEFORE, BASE, "label", "class")
    assert (found.tokens, found.images, found.low.mean, found.high.mean) == (
        3,
        2,
        pytest.approx(1 / 3),
        pytest.approx(1 / 3),
    )
    assert found.mean.mean == pytest.approx(0.5) and found.mean.low <= 0.5 <= found.mean.high
    assert sum(found.histogram) == 3 and found.histogram[2] + found.histogram[1] == 1  # 0.1 on the edge of two bars
    chain = buckets(BEFORE, BASE, "teacher", "chain")
    assert (chain.tokens, chain.low.mean, chain.high.mean) == (5, 0.8, 0.2)
    assert buckets(BEFORE, BASE, "self", "chain") is None


def test_moved_by_hand():
    found = moved(BEFORE, AFTER, (BASE, MTCT), "label", "class")
    assert (found.low_to_high, found.high_to_low) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert found.net.mean == pytest.approx(0)
    chain = moved(BEFORE, AFTER, (BASE, MTCT), "teacher", "chain")
    assert (chain.low_to_high, chain.high_to_low) == (0.6, 0.0)
    assert chain.net.mean == pytest.approx(40)  # high: 1 of 5 before, 3 of 5 after


def test_other_tokens_cannot_have_moved():
    with pytest.raises(ValueError, match="not the same"):
        moved(BEFORE, AFTER[:9], (BASE, MTCT), "teacher", "chain")


def test_context_weighs_images_not_tokens():
    found = context(BEFORE, BASE, "teacher")
    assert (found.images, found.without, found.with_chain) == (2, 0.5, 0.5)  # a: 0 of 2 and 1 of 1; b: 1 of 1, 0 of 1
    assert (found.low_without, found.low_with_chain) == (0.25, 0.5)
    assert found.net.mean == pytest.approx(0) and found.net.low <= 0 <= found.net.high


def test_entropy_by_hand():
    found = entropy_table(BEFORE, AFTER, (BASE, MTCT), "teacher", minimum=2, top=5)
    assert [(one.token, one.count) for one in found.top] == [("t3", 2), ("t1", 2)]  # the tag is no word
    assert (found.top[0].before, found.top[0].after) == (2.5, 1.0)
    assert found.top[0].reduction == 1.5 and found.top[1].reduction == pytest.approx(0.15)
    assert (found.tokens, found.mean_before, found.mean_after) == (4, 1.75, pytest.approx(3.7 / 4))
    assert found.about_classes == 1
    assert entropy_table(BEFORE, AFTER, (BASE, MTCT), "teacher", minimum=3) is None


def test_overlap_is_what_both_lists_have():
    one = entropy_table(BEFORE, AFTER, (BASE, MTCT), "teacher", minimum=2, top=1)
    other = entropy_table(BEFORE, AFTER, (BASE, MTCT), "teacher", minimum=2)
    assert overlap(other, one).shared == ("t3",) and overlap(other, one).of == 1


def test_perplexity_is_the_mean_over_chains_of_their_own_means():
    found = mismatch(BEFORE, BASE, "teacher", None)
    a, b = (np.log(0.2) + np.log(0.8)) / 2, 3 * np.log(0.1) / 3
    assert found.perplexity.mean == pytest.approx(math.exp(-(a + b) / 2))
    assert found.perplexity.low < found.perplexity.mean < found.perplexity.high
    assert (found.images, found.low, found.distance) == (2, 0.8, None)


def test_distance_of_two_states_is_the_area_between_their_distributions():
    found = mismatch(AFTER, MTCT, "teacher", BEFORE)
    first, second = sorted(tokens_of(BEFORE, "teacher").probability), sorted(tokens_of(AFTER, "teacher").probability)
    assert found.distance == pytest.approx(np.mean(np.abs(np.array(first) - second)))  # equally many: sorted pairs


def test_an_interval_is_over_images_however_many_tokens_they_have():
    found = over_images([1.0] * 98 + [0.0, 0.0], ["long"] * 98 + ["short"] * 2)
    assert found.mean == 0.98
    assert (found.low, found.high) == (0.0, 1.0)  # a draw of two images is often twice the same
    alone = over_images([0.25, 0.75], ["one", "one"])
    assert (alone.low, alone.mean, alone.high) == (0.5, 0.5, 0.5)


def test_curves_go_on_counting_through_the_rounds():
    lines = [
        TrainingLine("round 1", 1, 5, 1.0, 1.0, losses={"label": 1.0}, class_probability={"label": 0.5}),
        TrainingLine("round 1", 1, 8, 1.0, 2.5, losses={"label": 0.5, "chain": 2.0}),
        TrainingLine("round 2", 2, 5, 1.0, 1.0, losses={"chain": 1.0}, class_probability={"chain": 0.9}),
    ]
    found = curve("sarr", "u", lines)
    assert found.steps == (5, 8, 13)
    assert found.losses == {"chain": (None, 2.0, 1.0), "label": (1.0, 0.5, None)}
    assert found.class_probability == {"chain": (None, None, 0.9), "label": (0.5, None, None)}
    assert curve("sarr", "u", []) is None
