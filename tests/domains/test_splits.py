import hashlib
import itertools
import random
from collections.abc import Iterable
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from throughline.domains.folders import read_images
from throughline.domains.samples import ImageSet, Sample
from throughline.domains.splits import count_shared, seed_hash, split_domains


def image_set(sizes: dict[str, int], group_of=lambda domain, number: None) -> ImageSet:
    samples = tuple(
        Sample(f"{d}/cup/{n:05d}.png", Path(d), d, ("cup",), f"{d}{n}", group=group_of(d, n))
        for d in sorted(sizes)
        for n in range(sizes[d])
    )
    return ImageSet("x", Path("x"), tuple(sorted(sizes)), ("cup",), samples)


def numbers(ids: tuple[str, ...]) -> list[int]:
    return [int(id.split("/")[-1].removesuffix(".png")) for id in ids]


def domainbed(size: int, trial_seed: int, index: int) -> tuple[list[int], list[int]]:
    """DomainBed's steps written down once more, with the standard library's own big integers for the hash."""
    text = "(" + str(trial_seed) + ", " + str(index) + ")"
    seed = int.from_bytes(hashlib.md5(text.encode("utf-8")).digest(), "big") & 0x7FFFFFFF
    state = np.random.RandomState()
    state.seed(seed)
    keys = [*range(size)]
    state.shuffle(keys)
    count = size * 2 // 10  # int(size * 0.2); equal for every size below, as asserted there
    return keys[count:], keys[:count]


def test_seed_hash_gives_the_numbers_computed_by_hand():
    # int(md5(b"(0, 0)").hexdigest(), 16) % 2**31 and so on, computed once outside this project.
    found = [seed_hash(*names) for names in ((0, 0), (0, 1), (1, 0), (2, 3))]
    assert found == [894182419, 1514274641, 785910682, 1709828778]


def test_small_domains_split_into_the_frozen_indexes():
    splits = split_domains(image_set({"a": 10, "b": 10}), trial_seed=0)
    assert numbers(splits["a"].out) == [2, 3]
    assert numbers(splits["a"].inside) == [8, 1, 4, 5, 0, 9, 6, 7]
    assert numbers(splits["b"].out) == [5, 0]
    assert numbers(splits["b"].inside) == [3, 7, 8, 6, 1, 2, 9, 4]


def test_a_domain_as_large_as_pacs_art_splits_into_the_frozen_indexes():
    split = split_domains(image_set({"art_painting": 2048}), trial_seed=0)["art_painting"]
    assert (len(split.out), len(split.inside)) == (409, 1639)
    assert numbers(split.out)[:5] == [548, 677, 1997, 977, 1553]
    assert numbers(split.inside)[:5] == [895, 510, 1575, 933, 362]


@pytest.mark.parametrize("trial_seed", [0, 1, 2])
def test_every_domain_has_the_seed_of_its_place_in_sorted_order(trial_seed):
    sizes = {"photo": 57, "cartoon": 101, "sketch": 4, "art": 30}
    splits = split_domains(image_set(sizes), trial_seed)
    assert list(splits) == ["art", "cartoon", "photo", "sketch"]
    for index, domain in enumerate(sorted(sizes)):
        assert sizes[domain] * 2 // 10 == int(sizes[domain] * 0.2)
        inside, out = domainbed(sizes[domain], trial_seed, index)
        assert (numbers(splits[domain].inside), numbers(splits[domain].out)) == (inside, out)
        assert splits[domain].domainbed


def test_the_indexes_point_into_torchvisions_listing(tree, paint):
    torchvision_datasets = pytest.importorskip("torchvision.datasets")
    for name in ("art/dog/nested/q.png", "art/dog/Q.PNG", "art/.thumbs/x.png", "art/cat/.y.png"):
        paint(tree / name)
    (tree / "art/.thumbs").rename(tree.parent / "thumbs")
    listed = [Path(path) for path, _ in torchvision_datasets.ImageFolder(str(tree / "art")).samples]
    inside, out = domainbed(len(listed), 1, 0)
    split = split_domains(read_images(tree), trial_seed=1)["art"]
    assert split.inside == tuple(listed[position].relative_to(tree).as_posix() for position in inside)
    assert split.out == tuple(listed[position].relative_to(tree).as_posix() for position in out)


def test_an_image_that_cannot_be_decoded_still_has_its_place_in_the_split(tree):
    before = split_domains(read_images(tree), 0)
    (tree / "art/cat/2.png").write_bytes(b"broken")
    assert split_domains(read_images(tree), 0) == before


@given(st.lists(st.integers(0, 9), min_size=1, max_size=60), st.integers(0, 5))
def test_groups_stay_whole_and_the_split_says_it_is_not_domainbeds(groups, trial_seed):
    images = image_set({"a": len(groups)}, lambda _, number: f"patient {groups[number]}")
    split = split_domains(images, trial_seed)["a"]
    assert not split.domainbed
    assert sorted(split.inside + split.out) == [sample.id for sample in images.samples]
    inside = {images.by_id[id].group for id in split.inside}
    out = {images.by_id[id].group for id in split.out}
    assert not inside & out
    assert inside


def test_groups_of_one_fill_the_out_part_to_its_size():
    images = image_set({"a": 50}, lambda _, number: f"patient {number}")
    assert len(split_domains(images, 0)["a"].out) == 10


def test_samples_without_a_group_are_groups_of_their_own():
    images = image_set({"a": 40}, lambda _, number: "one" if number < 3 else None)
    split = split_domains(images, 0)["a"]
    assert len(split.out) == 8
    assert len({id in split.out for id in (s.id for s in images.samples[:3])}) == 1


INSIDE, OUT = attrgetter("inside"), attrgetter("out")


def groups_of(images: ImageSet, ids: Iterable[str]) -> set[str]:
    return {images.by_id[id].group or id for id in ids}


@st.composite
def concept_sets(draw):
    """Domains that share some concepts, and pictures that are concepts of their own."""
    samples = []
    for domain in draw(st.lists(st.sampled_from("abcd"), min_size=2, unique=True)):
        for label, most in (("x", 12), ("y", 5)):
            shared = draw(st.sets(st.integers(0, most)))
            groups = [f"{label}{number}" for number in sorted(shared)] + [None] * draw(st.integers(0, 8))
            for number, group in enumerate(groups):
                name = f"{domain}/{label}/{number}.png"
                samples.append(Sample(name, Path("r"), domain, (label,), name, group=group))
    samples.sort(key=lambda sample: sample.id)
    domains = tuple(sorted({sample.domain for sample in samples}))
    return ImageSet("made", Path("r"), domains, ("x", "y"), tuple(samples))


@given(concept_sets(), st.integers(0, 3))
def test_by_concepts_no_group_is_on_two_sides_and_every_sample_has_its_half(images, trial_seed):
    assume(len(images.domains) > 1)
    half_of: dict[str, set[str]] = {}
    for target in images.domains:
        splits = split_domains(images, trial_seed, "concepts", (target,))
        own = splits.pop(target)
        sources = splits.values()
        parts = [own.inside, own.out, *([id for s in sources for id in part(s)] for part in (INSIDE, OUT))]
        for one, other in itertools.combinations([groups_of(images, part) for part in parts], 2):
            assert not one & other
        for name, split in (*splits.items(), (target, own)):
            half_of.setdefault(name, set()).update(split.inside + split.out)
        assert count_shared(images, (target,), trial_seed, "concepts")[0] == 0
    # over all folds a domain is asked about its one half and trained on with its other
    assert half_of == {name: {sample.id for sample in images.in_domain(name)} for name in images.domains}


@given(concept_sets(), st.integers(0, 3))
def test_by_concepts_halves_are_equal_for_each_kind_of_group(images, trial_seed):
    asked = split_domains(images, trial_seed, "concepts", images.domains)
    taught = split_domains(images, trial_seed, "concepts", ())
    for label in images.classes:
        sizes = []
        for splits in (asked, taught):
            ids = [id for split in splits.values() for id in split.inside + split.out]
            sizes.append(len(groups_of(images, (id for id in ids if images.by_id[id].label == label))))
        assert abs(sizes[0] - sizes[1]) <= 1


def test_of_ten_groups_of_a_class_one_in_each_half_validates():
    images = image_set({"a": 100, "b": 100}, lambda _, number: f"concept {number}")
    splits = split_domains(images, 0, "concepts", ("b",))
    assert {name: (len(split.inside), len(split.out)) for name, split in splits.items()} == {
        "a": (40, 10),
        "b": (40, 10),
    }
    assert split_domains(images, 0, "concepts", ("b",)) == splits
    assert split_domains(images, 1, "concepts", ("b",)) != splits


def test_by_the_rule_of_domainbed_groups_change_nothing_and_it_is_told_what_is_shared():
    plain = image_set({"a": 40, "b": 40})
    grouped = image_set({"a": 40, "b": 40}, lambda _, number: f"concept {number}" if number < 30 else None)
    assert split_domains(grouped, 3, "domainbed") == split_domains(plain, 3)
    inside = {grouped.by_id[id].group for id in split_domains(plain, 3)["a"].inside} - {None}
    assert count_shared(grouped, ("b",), 3, "domainbed") == (len(inside), 40)


def test_a_split_asks_no_global_random_state():
    images = image_set({"a": 30})
    first = split_domains(images, 0)
    np.random.seed(99)
    random.seed(99)
    before = np.random.get_state()[1].tolist()
    assert split_domains(images, 0) == first
    assert np.random.get_state()[1].tolist() == before
