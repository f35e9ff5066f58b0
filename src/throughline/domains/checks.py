"""Looks at every file of an image set and reports what would make training or its measurement wrong.

An error is a defect with which training would fail or its result would mislead; a warning is worth knowing.
`throughline data check` prints the report. Nothing is changed on disk.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from throughline.core.files import in_threads
from throughline.domains.folders import SPLIT_REMEDY, hash_files, is_unicode, read_listing
from throughline.domains.images import MAX_PIXELS, bits_in_use, image_fault
from throughline.domains.listing import Listing, split_fault
from throughline.domains.samples import ImageSet, Sample, spread

Severity = Literal["error", "warning"]
# Files that show a picture but that ImageFolder, and so every DomainBed split, passes over.
UNLISTED_FORMATS = (".heic", ".heif", ".avif", ".jfif", ".jpe", ".jp2", ".svg", ".dcm", ".npy")
# What describes an image set may lie at its root: image lists, chains, the truth of drawn scenes.
DESCRIPTIONS = (".csv", ".json", ".jsonl", ".md", ".parquet")
# How many images of a domain a run decodes, to see whether their 16 bits are in use, before it starts.
LOOKED_AT = 8
# Below five images int(n * 0.2) is 0: no image is left to select a model on.
SMALLEST_DOMAIN = 5


@dataclass(frozen=True)
class Defect:
    """One finding: its kind, how bad it is, a sentence, and the files (ids) or names it is about."""

    kind: str
    severity: Severity
    what: str
    where: tuple[str, ...] = ()


@dataclass(frozen=True)
class CheckReport:
    """Counts of images, `counts[domain][class]`, over all domains and classes, and the defects, errors
    first. An image with several labels counts in each of its classes, and once in `images`.
    """

    root: Path
    domains: tuple[str, ...]
    classes: tuple[str, ...]
    counts: dict[str, dict[str, int]]
    defects: tuple[Defect, ...]
    names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Of classes that are not written as their folders: the display name, then synonyms."""
    images: int = 0
    images_of: dict[str, int] = field(default_factory=dict)
    """By domain."""

    @property
    def errors(self) -> tuple[Defect, ...]:
        """The defects with which training would be wrong."""
        return tuple(defect for defect in self.defects if defect.severity == "error")

    def to_json(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return {**asdict(self), "root": str(self.root), "ok": not self.errors}


def check_images(
    root: Path, max_pixels: int = MAX_PIXELS, on_progress: Callable[[int, int], None] | None = None
) -> CheckReport:
    """Lists, hashes and decodes every image of a folder, CSV or Parquet file.

    `on_progress(done, total)` is called after each image. Raises a ThroughlineError only where there is
    nothing to report on: no such folder, or a table that cannot be read.
    """
    root = Path(root)
    listing = read_listing(root)
    samples = listing.samples
    domains = tuple(sorted({*listing.folders, *(sample.domain for sample in samples)}))
    classes = tuple(sorted({label for sample in samples for label in sample.labels}))
    tally = Counter((sample.domain, label) for sample in samples for label in sample.labels)
    counts = {domain: {label: tally[domain, label] for label in classes} for domain in domains}
    defects = [
        *_layout_defects(listing),
        *_domain_and_class_defects(listing, counts, classes),
        *_group_defects(samples),
        *_broken_images(samples, max_pixels, on_progress),
        *_unused_bits(samples),
        *_copies(samples),
    ]
    defects.sort(key=lambda defect: defect.severity != "error")
    by_domain = dict(Counter(sample.domain for sample in samples))
    return CheckReport(root, domains, classes, counts, tuple(defects), listing.names, len(samples), by_domain)


def quick_check(images: ImageSet) -> Iterator[Defect]:
    """What `read_images` lets pass and can be told in seconds: one class only, empty class folders, and 16-bit images
    that use fewer bits, as far as a few images of each domain show.
    """
    if len(images.classes) < 2:
        yield Defect("too_few_classes", "error", f"only one class ({images.classes[0]}): nothing to choose from")
    for folder in images.empty:
        yield Defect("empty_class", "warning", f"the class folder {folder} is empty", (folder,))
    yield from _unused_bits(spread(images.samples, LOOKED_AT * len(images.domains)))


def _unused_bits(images: Sequence[Sample]) -> Iterable[Defect]:
    bits_of: dict[str, list[int]] = defaultdict(list)
    for image, used in zip(images, in_threads(lambda image: bits_in_use(image.path), images), strict=True):
        if used is not None:
            bits_of[image.domain].append(used)
    for domain, bits in bits_of.items():
        # In a domain that uses all 16 bits an image may be dark by itself; 12 bits are a sixteenth of the brightness.
        narrow = bits if max(bits) < 16 else [each for each in bits if each <= 12]
        if narrow:
            white = round((2 ** max(narrow) - 1) / 257)
            what = f"{len(narrow)} of {len(bits)} 16-bit images looked at in {domain} use only {max(narrow)} bits"
            factor = 2 ** (16 - max(narrow))
            remedy = f"they are loaded too dark, with white as {white} of 255; multiply their values by {factor}"
            yield Defect("unused_bits", "warning", f"{what}: {remedy}", (domain,))


_CLOSED: dict[str, tuple[Severity, str]] = {
    "unreadable_folder": ("error", "the folder {} cannot be read"),
    "symlink_loop": ("warning", "{} is a symlink loop: it leads back into a folder above it and is not entered"),
    "hidden_folder": ("warning", "the hidden folder {} is left out (DomainBed would count it as a domain or class)"),
}
"""By kind, the defect that a folder is which the listing did not enter."""


def _layout_defects(listing: Listing) -> Iterable[Defect]:
    for kind, (severity, what) in _CLOSED.items():
        for path in listing.closed.get(kind, ()):
            yield Defect(kind, severity, what.format(path), (path,))
    fault = split_fault(listing.samples)
    if fault is not None:
        yield Defect("split_folders", "error", f"{fault}: {SPLIT_REMEDY}")
    pictures = [name for name in listing.others if name.lower().endswith(UNLISTED_FORMATS)]
    described = {name for name in listing.others if "/" not in name and name.lower().endswith(DESCRIPTIONS)}
    others = [name for name in listing.others if name not in described.union(pictures)]
    gifs = [sample.id for sample in listing.samples if sample.id.lower().endswith(".gif")]
    for kind, names, what in (
        ("misplaced", listing.misplaced, "images outside a <domain>/<class> folder are left out"),
        (
            "unlisted_format",
            pictures,
            "pictures in a format that is not listed are left out; convert them to PNG or JPEG",
        ),
        ("gif", gifs, "of GIF images the first frame is read; DomainBed leaves them out, so its splits differ"),
        ("not_an_image", others, "files that are not images are left out"),
    ):
        if names:
            yield Defect(kind, "warning", what, tuple(names))
    for sample in listing.samples:
        if not is_unicode(sample.id):
            yield Defect("bad_name", "error", f"the file name {sample.id!r} is not UTF-8", (ascii(sample.id),))


def _domain_and_class_defects(
    listing: Listing, counts: dict[str, dict[str, int]], classes: tuple[str, ...]
) -> Iterable[Defect]:
    if len(counts) < 2:
        what = f"fewer than two domains ({', '.join(counts) or 'none'}): nothing to train on when one is held out"
        yield Defect("too_few_domains", "error", what, tuple(counts))
    if counts and len(classes) < 2:
        what = f"fewer than two classes ({', '.join(classes) or 'none'})"
        yield Defect("too_few_classes", "error", what, classes)
    for level, names in (("domain", tuple(counts)), ("class", classes)):
        for alike in _same_but_for_spelling(names):
            what = f"{level} name twice, differing only in case or separators: {' and '.join(alike)}"
            yield Defect(f"{level}_twice", "error", what, alike)
    for domain, row in counts.items():
        total = sum(row.values())
        if not total:
            yield Defect("empty_domain", "error", f"the domain {domain} has no <class>/<image>", (domain,))
            continue
        if total < SMALLEST_DOMAIN:
            what = f"the domain {domain} has {total} images: none is left for model selection"
            yield Defect("small_domain", "warning", what, (domain,))
        for label in (label for label, count in row.items() if not count):
            state = "an empty folder" if label in listing.folders.get(domain, ()) else "missing"
            what = f"class {label} is {state} in domain {domain} (labels do not shift: classes are the union)"
            yield Defect("class_missing", "warning", what, (f"{domain}/{label}",))
    for folder in listing.empty:
        if folder.split("/")[1] not in classes:
            yield Defect("empty_class", "warning", f"the class folder {folder} is empty, as in every domain", (folder,))


def _same_but_for_spelling(names: Iterable[str]) -> list[tuple[str, ...]]:
    alike: dict[str, list[str]] = defaultdict(list)
    for name in names:
        alike[" ".join(name.casefold().replace("_", " ").replace("-", " ").split())].append(name)
    return [tuple(group) for group in alike.values() if len(group) > 1]


def _group_defects(samples: list[Sample]) -> Iterable[Defect]:
    domains_of: dict[str, set[str]] = defaultdict(set)
    for sample in samples:
        if sample.group is not None:
            domains_of[sample.group].add(sample.domain)
    across = tuple(group for group, domains in domains_of.items() if len(domains) > 1)
    if across:
        what = f"groups are in several domains ({len(across):,}): the target is not fully unseen"
        yield Defect("group_across_domains", "warning", f"{what}, but by data.split_rule=concepts", across)


def _broken_images(
    samples: list[Sample], max_pixels: int, on_progress: Callable[[int, int], None] | None
) -> Iterable[Defect]:
    # Pillow decodes without holding Python's lock
    faults = in_threads(lambda sample: image_fault(sample.path, max_pixels), samples)
    for number, (sample, fault) in enumerate(zip(samples, faults, strict=True), start=1):
        if fault is not None:
            yield Defect(fault.kind, "error", f"{sample.id}: {fault.what}", (sample.id,))
        if on_progress is not None:
            on_progress(number, len(samples))


def _copies(samples: list[Sample]) -> Iterable[Defect]:
    """Files with the same bytes: fatal across domains (the target is not unseen) or labels (one is wrong)."""
    by_hash: dict[str, list[Sample]] = defaultdict(list)
    for sample, value in zip(samples, hash_files(sample.path for sample in samples), strict=True):
        if isinstance(value, str) and sample.path.stat().st_size:  # empty files are reported as such
            by_hash[value].append(sample)
            if sample.image_sha256 not in ("", value):
                what = f"{sample.id}: the file is not the one that the table was made from"
                yield Defect("changed_image", "error", what, (sample.id,))
    for copies in by_hash.values():
        if len(copies) < 2:
            continue
        ids = tuple(sample.id for sample in copies)
        labels = sorted({" + ".join(sample.labels) for sample in copies})
        domains = sorted({sample.domain for sample in copies})
        if len(labels) > 1:
            what = f"same bytes under two labels ({', '.join(labels)})"
            yield Defect("conflicting_labels", "error", what, ids)
        if len(domains) > 1:
            what = f"same bytes in two domains ({', '.join(domains)}): a held-out image would be trained on"
            yield Defect("copy_across_domains", "error", what, ids)
        if len(labels) == len(domains) == 1:
            yield Defect("copy", "warning", f"same bytes twice in {domains[0]}/{labels[0]}", ids)
