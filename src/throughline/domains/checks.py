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
from throughline.domains.images import MAX_PIXELS, ImageError, bits_in_use, load_image
from throughline.domains.listing import Entry, Listing, split_fault
from throughline.domains.samples import ImageSet, Sample, spread

Severity = Literal["error", "warning"]
# Files that show a picture but that ImageFolder, and so every DomainBed split, passes over.
UNLISTED_FORMATS = (".heic", ".heif", ".avif", ".jfif", ".jpe", ".jp2", ".svg", ".dcm", ".npy")
# What describes an image set may lie at its root: image lists, chains, the truth of drawn scenes.
DESCRIPTIONS = (".csv", ".json", ".jsonl", ".parquet")
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
    first.
    """

    root: Path
    domains: tuple[str, ...]
    classes: tuple[str, ...]
    counts: dict[str, dict[str, int]]
    defects: tuple[Defect, ...]
    names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Of classes that are not written as their folders: the display name, then synonyms."""

    @property
    def errors(self) -> tuple[Defect, ...]:
        """The defects with which training would be wrong."""
        return tuple(defect for defect in self.defects if defect.severity == "error")

    def to_json(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        images = sum(sum(row.values()) for row in self.counts.values())
        return {**asdict(self), "root": str(self.root), "ok": not self.errors, "images": images}


def check_images(
    root: Path, max_pixels: int = MAX_PIXELS, on_progress: Callable[[int, int], None] | None = None
) -> CheckReport:
    """Lists, hashes and decodes every image of a folder, CSV or Parquet file.

    `on_progress(done, total)` is called after each image. Raises a ThroughlineError only where there is
    nothing to report on: no such folder, or a table that cannot be read.
    """
    root = Path(root)
    listing = read_listing(root)
    entries = listing.entries
    domains = tuple(sorted({*listing.folders, *(entry.domain for entry in entries)}))
    classes = tuple(sorted({entry.label for entry in entries}))
    tally = Counter((entry.domain, entry.label) for entry in entries)
    counts = {domain: {label: tally[domain, label] for label in classes} for domain in domains}
    defects = [
        *_layout_defects(listing),
        *_domain_and_class_defects(listing, counts, classes),
        *_group_defects(entries),
        *_broken_images(entries, max_pixels, on_progress),
        *_unused_bits(entries),
        *_copies(entries),
    ]
    defects.sort(key=lambda defect: defect.severity != "error")
    return CheckReport(root, domains, classes, counts, tuple(defects), listing.names)


def quick_check(images: ImageSet) -> Iterator[Defect]:
    """What `read_images` lets pass and can be told in seconds: one class only, empty class folders, and 16-bit images
    that use fewer bits, as far as a few images of each domain show.
    """
    if len(images.classes) < 2:
        yield Defect("too_few_classes", "error", f"only one class ({images.classes[0]}): nothing to choose from")
    for folder in images.empty:
        yield Defect("empty_class", "warning", f"the class folder {folder} is empty", (folder,))
    yield from _unused_bits(spread(images.samples, LOOKED_AT * len(images.domains)))


def _unused_bits(images: Sequence[Entry | Sample]) -> Iterable[Defect]:
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
            remedy = f"they are loaded too dark, with white as {white} of 255; scale them to 16 bits"
            yield Defect("unused_bits", "warning", f"{what}: {remedy}", (domain,))


_LEFT_OUT: tuple[tuple[str, str, Severity, str], ...] = (
    ("unlistable", "unreadable_folder", "error", "the folder {} cannot be read"),
    (
        "loops",
        "symlink_loop",
        "warning",
        "{} is a symlink loop: it leads back into a folder above it and is not entered",
    ),
    (
        "hidden",
        "hidden_folder",
        "warning",
        "the hidden folder {} is left out (DomainBed would count it as a domain or class)",
    ),
)
"""Each a list of the listing, and the defect that every path in it is."""


def _layout_defects(listing: Listing) -> Iterable[Defect]:
    for paths, kind, severity, what in _LEFT_OUT:
        for path in getattr(listing, paths):
            yield Defect(kind, severity, what.format(path), (path,))
    fault = split_fault(listing.entries)
    if fault is not None:
        yield Defect("split_folders", "error", f"{fault}: {SPLIT_REMEDY}")
    pictures = [name for name in listing.others if name.lower().endswith(UNLISTED_FORMATS)]
    described = {name for name in listing.others if "/" not in name and name.lower().endswith(DESCRIPTIONS)}
    others = [name for name in listing.others if name not in described.union(pictures)]
    gifs = [entry.id for entry in listing.entries if entry.id.lower().endswith(".gif")]
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
    for entry in listing.entries:
        if not is_unicode(entry.id):
            yield Defect("bad_name", "error", f"the file name {entry.id!r} is not UTF-8", (ascii(entry.id),))


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


def _group_defects(entries: list[Entry]) -> Iterable[Defect]:
    domains_of: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        if entry.group is not None:
            domains_of[entry.group].add(entry.domain)
    for group, domains in domains_of.items():
        if len(domains) > 1:
            what = f"group {group} is in several domains ({', '.join(sorted(domains))})"
            yield Defect("group_across_domains", "warning", f"{what}: the target is not fully unseen", (group,))


def _broken_images(
    entries: list[Entry], max_pixels: int, on_progress: Callable[[int, int], None] | None
) -> Iterable[Defect]:
    def fault_of(entry: Entry) -> ImageError | None:
        try:
            load_image(entry.path, max_pixels)
        except ImageError as fault:
            return fault
        return None

    faults = in_threads(fault_of, entries)  # Pillow decodes without holding Python's lock
    for number, (entry, fault) in enumerate(zip(entries, faults, strict=True), start=1):
        if fault is not None:
            yield Defect(fault.kind, "error", f"{entry.id}: {fault.what}", (entry.id,))
        if on_progress is not None:
            on_progress(number, len(entries))


def _copies(entries: list[Entry]) -> Iterable[Defect]:
    """Files with the same bytes: fatal across domains (the target is not unseen) or labels (one is wrong)."""
    by_hash: dict[str, list[Entry]] = defaultdict(list)
    for entry, value in zip(entries, hash_files(entry.path for entry in entries), strict=True):
        if isinstance(value, str) and entry.path.stat().st_size:  # empty files are reported as such
            by_hash[value].append(entry)
    for copies in by_hash.values():
        if len(copies) < 2:
            continue
        ids = tuple(entry.id for entry in copies)
        labels = sorted({entry.label for entry in copies})
        domains = sorted({entry.domain for entry in copies})
        if len(labels) > 1:
            what = f"same bytes under two labels ({', '.join(labels)})"
            yield Defect("conflicting_labels", "error", what, ids)
        if len(domains) > 1:
            what = f"same bytes in two domains ({', '.join(domains)}): a held-out image would be trained on"
            yield Defect("copy_across_domains", "error", what, ids)
        if len(labels) == len(domains) == 1:
            yield Defect("copy", "warning", f"same bytes twice in {domains[0]}/{labels[0]}", ids)
