"""Leave-one-domain-out over DomainBed's splits; no target image is ever trained or selected on."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from throughline.core.errors import ThroughlineError
from throughline.domains.samples import ImageSet, Sample
from throughline.domains.splits import split_domains
from throughline.evaluation.folds import keep_all, leave_out


def images_of(sizes: list[int]) -> ImageSet:
    samples = tuple(
        Sample(f"d{domain}/c{i % 2}/{i}.png", Path("x"), f"d{domain}", (f"c{i % 2}",), f"{domain}-{i}")
        for domain, size in enumerate(sizes)
        for i in range(size)
    )
    return ImageSet("made", Path("made"), tuple(f"d{i}" for i in range(len(sizes))), ("c0", "c1"), samples)


@given(st.data(), st.lists(st.integers(1, 23), min_size=2, max_size=5), st.integers(0, 5))
def test_the_target_is_in_neither_training_nor_validation_and_nothing_is_lost(
    data: st.DataObject, sizes: list[int], trial: int
) -> None:
    images = images_of(sizes)
    targets = data.draw(st.lists(st.sampled_from(images.domains), min_size=1, max_size=len(sizes) - 1, unique=True))
    fold = leave_out(images, targets, trial)
    parts = [{one.id for one in part} for part in (fold.train, fold.validation, fold.test)]
    assert not {one.domain for one in (*fold.train, *fold.validation)} & set(targets)
    assert {one.domain for one in fold.test} == set(targets)
    assert sum(map(len, parts)) == len(images.samples)
    assert set.union(*parts) == set(images.by_id)
    assert fold.target_in <= parts[2]


@pytest.mark.parametrize("trial", [0, 1])
def test_a_fold_is_made_of_domainbeds_splits_index_for_index(trial: int) -> None:
    images = images_of([10, 15, 23])
    splits = split_domains(images, trial)
    fold = leave_out(images, ("d1",), trial)
    assert [one.id for one in fold.train] == [*splits["d0"].inside, *splits["d2"].inside]
    assert [one.id for one in fold.validation] == [*splits["d0"].out, *splits["d2"].out]
    assert [one.id for one in fold.test] == [one.id for one in images.in_domain("d1")]
    assert fold.target_in == set(splits["d1"].inside)
    assert (len(fold.train), len(fold.validation), len(fold.target_in)) == (8 + 19, 2 + 4, 12)


def test_trials_split_differently() -> None:
    images = images_of([10, 10])
    assert leave_out(images, ("d0",), 0).train != leave_out(images, ("d0",), 1).train


@pytest.mark.parametrize(
    ("sizes", "targets", "line"),
    [
        ([4, 4], ("d7",), "no domain named d7"),
        ([4], ("d0",), "only one domain"),
        ([4, 4], ("d0", "d1"), "nothing to train on"),
    ],
)
def test_a_fold_that_cannot_be_is_told_in_one_line(sizes: list[int], targets: tuple[str, ...], line: str) -> None:
    with pytest.raises(ThroughlineError, match=line):
        leave_out(images_of(sizes), targets, 0)


def test_the_final_model_keeps_every_image() -> None:
    images = images_of([3, 4])
    fold = keep_all(images)
    assert (fold.train, fold.validation, fold.test) == (images.samples, (), ())
