"""Leave-one-domain-out: which images a fold trains on, selects on and is measured on.

DomainBed's conventions: train on the `in` part of the source domains, select on their `out` part ("training-domain
validation"), report the target's `in` part; `all` is the whole target domain, which most MLLM papers report. By the
rule `concepts` of `domains.splits` each of them has only its half of the groups.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from throughline.core.errors import ThroughlineError
from throughline.domains.samples import ImageSet, Sample
from throughline.domains.splits import Split, SplitRule, split_domains


@dataclass(frozen=True)
class Fold:
    """The samples of one held-out target, each part in DomainBed's order; `target_in` holds ids."""

    targets: tuple[str, ...] = ()
    train: tuple[Sample, ...] = ()
    validation: tuple[Sample, ...] = ()
    test: tuple[Sample, ...] = ()
    target_in: frozenset[str] = frozenset()

    @property
    def judged(self) -> tuple[Sample, ...]:
        """What a search judges the trained weights by: the sources' `out` parts; of two targets their `in` parts."""
        return self.validation if len(self.targets) < 2 else tuple(s for s in self.test if s.id in self.target_in)


def keep_all(images: ImageSet) -> Fold:
    """Nothing held out: every image trains, none selects or measures. For the final model (`throughline fit`)."""
    return Fold(train=images.samples)


def measure_only(images: ImageSet, targets: Sequence[str], trial_seed: int, rule: SplitRule = None) -> Fold:
    """All images of the targets are measured and none trains: a set of one domain will do."""
    return _measured(images, targets, split_domains(images, trial_seed, rule, targets))


def leave_out(
    images: ImageSet,
    targets: Sequence[str],
    trial_seed: int,
    train_per_domain: int | None = None,
    rule: SplitRule = None,
) -> Fold:
    """The fold that holds `targets` out. ThroughlineError for an unknown target or when no source is left.

    `train_per_domain` keeps the first so many of each source's `in` part, in DomainBed's shuffled order.
    """
    for target in targets:
        images.require_target(target)
    splits = split_domains(images, trial_seed, rule, targets)
    sources = [domain for domain in images.domains if domain not in targets]
    if not sources:
        raise ThroughlineError("every domain is held out: nothing to train on", images.root, "leave one out")
    by_id = images.by_id

    def samples(part: str, at_most: int | None = None) -> tuple[Sample, ...]:
        return tuple(by_id[i] for domain in sources for i in getattr(splits[domain], part)[:at_most])

    measured = _measured(images, targets, splits)
    return replace(measured, train=samples("inside", train_per_domain), validation=samples("out"))


def _measured(images: ImageSet, targets: Sequence[str], splits: Mapping[str, Split]) -> Fold:
    asked = {name for target in targets for name in (*splits[target].inside, *splits[target].out)}
    return Fold(
        targets=tuple(targets),
        test=tuple(sample for target in targets for sample in images.in_domain(target) if sample.id in asked),
        target_in=frozenset(name for target in targets for name in splits[target].inside),
    )
