"""DomainBed's split of every domain into an "in" part (80 %) and an "out" part (20 %), index for index.

Training uses the "in" part of the source domains, model selection their "out" part, and DomainBed's reported
accuracy is on the "in" part of the target. Source: facebookresearch/DomainBed, `domainbed/lib/misc.py` and
`domainbed/scripts/train.py`.
"""

import hashlib
from dataclasses import dataclass

import numpy as np

from throughline.domains.samples import ImageSet, Sample

HOLDOUT_FRACTION = 0.2


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


def split_domains(images: ImageSet, trial_seed: int, holdout_fraction: float = HOLDOUT_FRACTION) -> dict[str, Split]:
    """The split of each domain, in sorted order of domains; `trial_seed` is DomainBed's.

    When any sample has a group, samples of one group stay in one part (a sample without one is its own group)
    and every split says `domainbed=False`. A domain that is a single group is wholly "in".
    """
    grouped = any(sample.group is not None for sample in images.samples)
    splits = {}
    for index, domain in enumerate(images.domains):
        samples = images.in_domain(domain)
        held_out = int(len(samples) * holdout_fraction)
        shuffler = np.random.RandomState(seed_hash(trial_seed, index))
        if grouped:
            splits[domain] = _split_groups(samples, held_out, shuffler)
        else:
            ids = [sample.id for sample in samples]
            shuffler.shuffle(ids)
            splits[domain] = Split(inside=tuple(ids[held_out:]), out=tuple(ids[:held_out]))
    return splits


def _split_groups(samples: tuple[Sample, ...], held_out: int, shuffler: np.random.RandomState) -> Split:
    """Fills "out" with shuffled groups that still fit; if none fits, with the smallest of several groups."""
    groups: dict[tuple[bool, str], list[str]] = {}
    for sample in samples:
        # The flag keeps a lone sample's id apart from another sample's group of the same name.
        key = (True, sample.group) if sample.group is not None else (False, sample.id)
        groups.setdefault(key, []).append(sample.id)
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
