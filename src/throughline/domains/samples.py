"""What one image is and what a set of images is: the frozen records that every other room gets.

`folders.read_images` makes them; splits, training, evaluation and the checks read them.
"""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from throughline.core.errors import ThroughlineError
from throughline.core.files import content_hash
from throughline.core.nearest import did_you_mean
from throughline.core.seeding import seed_of

if TYPE_CHECKING:
    from throughline.domains.views import View

composed = partial(unicodedata.normalize, "NFC")
"""The form in which names are compared."""


def in_words(name: str) -> str:
    """A class's name with blanks for underscores, as it is shown to a model."""
    return " ".join(name.replace("_", " ").split())


def on_disk(root: Path, id: str) -> Path:
    """Where the file or folder of an id lies: an id is composed, what the disk calls it may be otherwise."""
    for spelt in (id, unicodedata.normalize("NFD", id)):
        path = root / spelt
        if id.isascii() or path.exists():
            return path
    path = root
    for part in PurePosixPath(id).parts:  # some names in one form, some in another
        path = next((other for other in path.glob("*") if composed(other.name) == part), path / part)
    return path


@dataclass(frozen=True, slots=True)
class Sample:
    """One image with its domain and labels.

    `id` is the path relative to the image set's root with `/` between the parts; `root` is where that lies on
    this machine and enters no hash. `labels` has one entry when `task` is "single", any number
    when it is "multi". `group` keeps samples together in a group-aware split. `parent_id` is the sample
    that a derived image (corrupted, counterfactual) was made from. `view` is how the pixels of the file are changed
    when it is opened (`views.load_sample`); the hash of a view enters `image_sha256`.
    """

    id: str
    root: Path
    domain: str
    labels: tuple[str, ...]
    image_sha256: str
    task: str = "single"
    group: str | None = None
    parent_id: str | None = None
    view: "View | None" = None

    @property
    def path(self) -> Path:
        """The image's file. Made when it is asked for: a path for each of a million images would fill the memory."""
        return on_disk(self.root, self.id)

    @property
    def label(self) -> str:
        """The one label of a single-label sample."""
        if self.task != "single" or len(self.labels) != 1:
            what = f"{self.id} may have several labels, and this takes images with one"
            raise ThroughlineError(what, self.root, "ask for the answer paths of zero_shot, which take them")
        return self.labels[0]


@dataclass(frozen=True)
class ImageSet:
    """All samples of one source: domains and classes in sorted order, samples by domain, in ImageFolder's
    order.

    The class list is the union over the domains, so a class missing in one domain never shifts another's
    label.
    """

    name: str
    root: Path
    domains: tuple[str, ...]
    classes: tuple[str, ...]
    samples: tuple[Sample, ...]
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Of classes that are not written as they are called here: the display name, then synonyms."""
    empty: tuple[str, ...] = ()
    """Class folders without an image, as `domain/class`."""

    @property
    def several(self) -> bool:
        """Whether an image may have several labels."""
        return any(sample.task == "multi" for sample in self.samples)

    @cached_property
    def by_id(self) -> dict[str, Sample]:
        """Every sample by its id."""
        return {sample.id: sample for sample in self.samples}

    def in_domain(self, domain: str) -> tuple[Sample, ...]:
        """The samples of one domain, in the order torchvision's ImageFolder lists them."""
        self.require_domain(domain)
        return tuple(sample for sample in self.samples if sample.domain == domain)

    def require_domain(self, domain: str) -> None:
        """Raises a ThroughlineError that names the nearest known domain when `domain` is none of them."""
        if domain not in self.domains:
            hint = did_you_mean(domain, self.domains, "the domains")
            raise ThroughlineError(f"no domain named {domain}", self.root, hint)

    def require_target(self, target: str) -> None:
        """Raises a ThroughlineError unless `target` is a domain and at least one source domain is left
        beside it.
        """
        if len(self.domains) < 2:
            raise ThroughlineError(
                f"only one domain ({', '.join(self.domains)}): nothing to train on when it is held out",
                self.root,
                "give at least two folders <domain>/<class>/<image>",
            )
        self.require_domain(target)

    def with_names(self, names: Mapping[str, Sequence[str]]) -> "ImageSet":
        """With these names of classes, too."""
        return replace(self, names={**self.names, **names})

    def fingerprint(self) -> str:
        """SHA-256 (hex) of the content: ids, domains, labels, groups and image bytes; no path, and no name
        of the set or of classes."""
        rows = [[s.id, s.domain, list(s.labels), s.task, s.group, s.parent_id, s.image_sha256] for s in self.samples]
        return content_hash({"domains": self.domains, "classes": self.classes, "samples": rows})


def balanced(samples: Sequence[Sample], per_class: int, seed: int) -> tuple[Sample, ...]:
    """At most `per_class` of each class and domain, in their own order; of samples with several labels, those that are
    among so many of any of theirs. Whether a sample is chosen depends on no other class, and with a smaller number the
    choice is a part of this one."""
    cells: dict[tuple[str, str], list[Sample]] = {}
    for sample in samples:
        for label in sample.labels:
            cells.setdefault((sample.domain, label), []).append(sample)
    drawn = (sorted(cell, key=lambda sample: seed_of(seed, "asked", sample.id))[:per_class] for cell in cells.values())
    chosen = {sample.id for cell in drawn for sample in cell}
    return tuple(sample for sample in samples if sample.id in chosen)


def spread(samples: Sequence[Sample], limit: int) -> tuple[Sample, ...]:
    """At most `limit` of the samples in their own order, taken from the domains in turn and within each from its
    classes in turn."""
    domains, classes = sorted({sample.domain for sample in samples}), sorted({sample.labels[0] for sample in samples})
    by_domain = []
    for number, domain in enumerate(domains):
        # each domain begins with another class, so that few images show many classes
        first = number * len(classes) // len(domains)
        by_class: dict[str, list[Sample]] = {label: [] for label in classes[first:] + classes[:first]}
        for sample in samples:
            if sample.domain == domain:
                by_class[sample.labels[0]].append(sample)
        by_domain.append(_in_turn(by_class.values()))
    chosen = {sample.id for sample in _in_turn(by_domain)[:limit]}
    return tuple(sample for sample in samples if sample.id in chosen)


def _in_turn(groups: Iterable[list[Sample]]) -> list[Sample]:
    """The first of each group, then the second of each, and so on."""
    return [sample for row in zip_longest(*groups) for sample in row if sample is not None]
