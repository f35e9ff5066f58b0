"""Which images are labelled examples, in what order, with which labels."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from throughline.core.errors import ThroughlineError
from throughline.domains.samples import ImageSet, Sample, balanced
from throughline.evaluation.examples import (
    draw_examples,
    example_pool,
    in_order,
    nearest_examples,
    spread_examples,
    vote,
    with_labels,
)

CLASSES, DOMAINS, EACH = ("boat", "cat", "dog"), ("lake", "park", "street"), 6


def sample(domain: str, label: str, number: int, group: str | None = None) -> Sample:
    return Sample(f"{domain}/{label}/{number}.png", Path(), domain, (label,), f"{domain}{label}{number}", group=group)


SAMPLES = tuple(sample(domain, label, n) for domain in DOMAINS for label in CLASSES for n in range(EACH))
IMAGES = ImageSet("set", Path("set"), DOMAINS, CLASSES, SAMPLES)


def test_a_sample_is_balanced_and_a_smaller_one_is_a_part_of_it() -> None:
    four, two = (balanced(SAMPLES, per_class, seed=0) for per_class in (4, 2))
    assert set(Counter((s.domain, s.label) for s in four).values()) == {4}
    assert set(two) < set(four) and list(two) == sorted(two, key=SAMPLES.index)
    assert balanced(SAMPLES, 4, seed=1) != four
    assert balanced(SAMPLES[::-1], 4, seed=0) == four[::-1]
    assert balanced(SAMPLES, 99, seed=0) == SAMPLES


def test_no_example_is_asked_about_nor_shares_a_group_with_what_is() -> None:
    asked = balanced(IMAGES.in_domain("park"), 2, seed=0)
    pool = example_pool(IMAGES, ["park"], "target", asked)
    assert {s.domain for s in pool} == {"park"} and not set(pool) & set(asked) and len(pool) == 3 * (EACH - 2)
    assert {s.domain for s in example_pool(IMAGES, ["park"], "sources", asked)} == {"lake", "street"}
    assert {s.domain for s in example_pool(IMAGES, ["park"], ["lake"], asked)} == {"lake"}
    grouped = ImageSet(
        "g",
        Path(),
        DOMAINS,
        CLASSES,
        tuple(sample(s.domain, s.label, n, f"{s.label}{n}") for s in SAMPLES for n in [int(s.id[-5])]),
    )
    concepts = {s.group for s in balanced(grouped.in_domain("park"), 2, seed=0)}
    left = example_pool(grouped, ["park"], "sources", balanced(grouped.in_domain("park"), 2, seed=0))
    assert left and not concepts & {s.group for s in left}


@pytest.mark.parametrize(
    ("domains", "said"), [("target", "no image of park is left"), (["pork"], "no domain named pork")]
)
def test_a_pool_that_cannot_be_is_one_line(domains: str | list[str], said: str) -> None:
    with pytest.raises(ThroughlineError, match=said):
        example_pool(IMAGES, ["park"], domains, IMAGES.in_domain("park"))


def test_fewer_shots_are_the_beginning_and_classes_take_turns() -> None:
    eight = draw_examples(SAMPLES, 8, seed=3)
    assert [draw_examples(SAMPLES, shots, seed=3) for shots in range(9)] == [eight[:shots] for shots in range(9)]
    assert all(len({s.label for s in eight[start : start + 3]}) == 3 for start in (0, 3))
    assert len(set(eight)) == 8
    assert draw_examples(SAMPLES[::-1], 8, seed=3) == eight
    assert draw_examples(SAMPLES, 8, seed=4) != eight


def test_shares_are_kept_at_every_number_of_shots() -> None:
    for shots in range(1, 13):
        counts = Counter(s.label for s in draw_examples(SAMPLES, shots, seed=0, shares={"cat": 3, "dog": 1}))
        assert counts["boat"] == 0 and abs(counts["cat"] - 0.75 * shots) <= 1
    with pytest.raises(ThroughlineError, match="no image of the class cow"):
        draw_examples(SAMPLES, 2, seed=0, shares={"cow": 1})


def test_a_class_that_runs_out_is_one_line() -> None:
    with pytest.raises(ThroughlineError, match="need more images of cat than there are"):
        draw_examples(SAMPLES, 19, seed=0, shares={"cat": 1})


def test_a_spurious_domain_goes_with_its_class_as_often_as_said() -> None:
    def agreement(strength: float) -> float:
        pairs = []
        for seed in range(60):
            chosen = draw_examples(SAMPLES, 9, seed=seed, spurious=strength)
            pairs.append(Counter((s.label, s.domain) for s in chosen))
        return float(
            np.mean(
                [sum(max(c for (label, _), c in own.items() if label == name) for name in CLASSES) / 9 for own in pairs]
            )
        )

    with pytest.raises(ThroughlineError, match="needs 2 domains"):
        draw_examples(IMAGES.in_domain("park"), 4, seed=0, spurious=0.5)
    assert agreement(1.0) == 1.0
    assert agreement(0.0) < agreement(0.7) < 1.0


def test_nearest_are_those_of_scikit_learn_with_the_nearest_last() -> None:
    rng = np.random.default_rng(0)
    pool, asked = rng.normal(size=(len(SAMPLES), 5)), rng.normal(size=(4, 5))
    rows = NearestNeighbors(n_neighbors=3, metric="cosine").fit(pool).kneighbors(asked, return_distance=False)
    assert nearest_examples(SAMPLES, pool, asked, 3) == [tuple(SAMPLES[place] for place in row[::-1]) for row in rows]


def test_the_nearest_examples_vote() -> None:
    rows, labels = np.array([[1.0, 0], [0.9, 0.2], [0.8, 0.3], [0, 1]]), ["cat", "dog", "dog", "boat"]
    for scale in (1, 100):  # the cosine knows no lengths
        asked = scale * np.array([1.0, 0.05])
        assert [vote(list(rows), labels, asked, neighbours) for neighbours in (1, 3, 9)] == ["cat", "dog", "dog"]
    assert vote(list(rows), labels, np.array([0.1, 1]), 1) == "boat"


def test_spread_examples_cover_every_cluster_before_any_twice() -> None:
    centres = np.eye(4)
    rows = np.repeat(centres, 5, axis=0) + np.random.default_rng(1).normal(scale=0.01, size=(20, 4))
    for seed in range(10):
        chosen = spread_examples(SAMPLES[:20], rows, 4, seed)
        assert {SAMPLES.index(s) // 5 for s in chosen} == {0, 1, 2, 3}
        assert chosen[:2] == spread_examples(SAMPLES[:20], rows, 2, seed)


def test_shuffled_labels_are_wrong_and_as_many_of_each() -> None:
    chosen = draw_examples(SAMPLES, 8, seed=0)
    true, shuffled = with_labels(chosen), with_labels(chosen, shuffled=True)
    assert [label for _, label in true] == [s.label for s in chosen]
    assert [s for s, _ in shuffled] == list(chosen)
    assert Counter(label for _, label in shuffled) == Counter(label for _, label in true)
    assert all(label != s.label for s, label in shuffled)
    assert with_labels((), shuffled=True) == ()


def test_an_order_is_drawn_and_0_is_that_of_the_choice() -> None:
    chosen = draw_examples(SAMPLES, 8, seed=0)
    assert in_order(chosen, 0) == chosen
    assert set(in_order(chosen, 1)) == set(chosen) and in_order(chosen, 1) not in (chosen, in_order(chosen, 2))
