"""DomainBed's split of every domain into an "in" part (80 %) and an "out" part (20 %), index for index.

Training uses the "in" part of the source domains, model selection their "out" part, and DomainBed's reported
accuracy is on the "in" part of the target. Source: facebookresearch/DomainBed, `domainbed/lib/misc.py` and
`domainbed/scripts/train.py`.
"""

import hashlib
import itertools
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from operator import itemgetter
from typing import Literal

import numpy as np

from throughline.core.seeding import generator
from throughline.domains.samples import ImageSet, Sample

HOLDOUT_FRACTION = 0.2
SplitRule = Literal["domainbed", "concepts"] | None
"""`domainbed`: DomainBed's split, groups ignored. `concepts`: one half of the groups for the sources, the other for the
target. None: DomainBed's sizes, each group kept whole within its domain."""
Part = tuple[bool, bool]
"""Whether a group is the target's rather than the sources', and whether it is in the "out" part."""
DEALT: tuple[Part, ...] = (*((False, False), (True, False)) * 4, (False, True), (True, True))
"""The parts that ten groups of a class get, in their shuffled order: halves of them, a fifth of each in "out"."""


@dataclass(frozen=True)
class Split:
    """Sample ids of one domain's two parts, each in the shuffled order DomainBed keeps.

    `domainbed` is False when groups were kept whole: the parts are then not DomainBed's.
    """

    inside: tuple[str, ...]
    out: tuple[str, ...]
    domainbed: bool = True


def seed_hash(*names: object) -> int:
    """DomainBed's seed from any values: the MD5 of the printed tuple, modulo 2^31."""
    return int(hashlib.md5(str(names).encode(), usedforsecurity=False).hexdigest(), 16) % 2**31


def split_domains(
    images: ImageSet, trial_seed: int, rule: SplitRule = None, targets: Collection[str] = ()
) -> dict[str, Split]:
    """The split of each domain, in sorted order of domains; `trial_seed` is DomainBed's.

    When any sample has a group and no rule is given, samples of one group stay in one part (a sample without one is its
    own group) and every split says `domainbed=False`. A domain that is a single group is wholly "in". By the rule
    `concepts`, a domain's parts have only the groups of the half that it gets as one of the `targets` or as a source,
    and a group is in the same part of every domain.
    """
    grouped = rule is None and any(sample.group is not None for sample in images.samples)
    dealt = _deal_groups(images, trial_seed) if rule == "concepts" else {}
    splits = {}
    for index, domain in enumerate(images.domains):
        samples = images.in_domain(domain)
        held_out = int(len(samples) * HOLDOUT_FRACTION)
        shuffler = np.random.RandomState(seed_hash(trial_seed, index))
        if grouped:
            splits[domain] = _split_groups(samples, held_out, shuffler)
            continue
        ids = [sample.id for sample in samples]
        shuffler.shuffle(ids)
        splits[domain] = Split(inside=tuple(ids[held_out:]), out=tuple(ids[:held_out]))
        if dealt:
            inside, out = (tuple(id for id in ids if dealt[id] == (domain in targets, part)) for part in (False, True))
            splits[domain] = Split(inside, out, domainbed=False)
    return splits


def count_shared(images: ImageSet, targets: Collection[str], trial_seed: int, rule: SplitRule) -> tuple[int, int]:
    """How many images of the targets' parts are of a group with an image that is trained on, and how many there are."""
    splits, by_id = split_domains(images, trial_seed, rule, targets), images.by_id
    trained = {_group(by_id[id]) for name, split in splits.items() if name not in targets for id in split.inside}
    asked = [_group(by_id[id]) for name in targets for id in (*splits[name].inside, *splits[name].out)]
    return sum(group in trained for group in asked), len(asked)


def _group(sample: Sample) -> tuple[bool, str]:
    """The flag keeps a lone sample's id apart from another sample's group of the same name."""
    return (True, sample.group) if sample.group is not None else (False, sample.id)


def _deal_groups(images: ImageSet, trial_seed: int) -> dict[str, Part]:
    """By sample id its part. Groups are shuffled, sorted by class and by the domains that they are in, and dealt out in
    turn, so that both halves have as many groups of each kind, to within one."""
    members: dict[tuple[bool, str], list[Sample]] = defaultdict(list)
    for sample in images.samples:
        members[_group(sample)].append(sample)
    groups, dealt = sorted(members.items(), key=itemgetter(0)), dict[str, Part]()
    shuffled = [groups[place][1] for place in generator(trial_seed, "concepts").permutation(len(groups))]
    shuffled.sort(key=lambda group: (group[0].labels, sorted({sample.domain for sample in group})))
    for _, alike in itertools.groupby(shuffled, key=lambda group: group[0].labels):
        for part, group in zip(itertools.cycle(DEALT), alike, strict=False):
            dealt |= {sample.id: part for sample in group}
    return dealt


def _split_groups(samples: tuple[Sample, ...], held_out: int, shuffler: np.random.RandomState) -> Split:
    """Fills "out" with shuffled groups that still fit; if none fits, with the smallest of several groups."""
    groups: dict[tuple[bool, str], list[str]] = {}
    for sample in samples:
        groups.setdefault(_group(sample), []).append(sample.id)
    shuffled = list(groups)
    shuffler.shuffle(shuffled)
    chosen: set[tuple[bool, str]] = set()
    room = held_out
    for name in shuffled:
        if len(groups[name]) <= room:
            chosen.add(name)
            room -= len(groups[name])
    if not chosen and held_out and len(shuffled) > 1:
        chosen.add(min(shuffled, key=lambda name: len(groups[name])))
    return Split(
        inside=tuple(id for name in shuffled if name not in chosen for id in groups[name]),
        out=tuple(id for name in shuffled if name in chosen for id in groups[name]),
        domainbed=False,
    )
