"""Which files of a folder tree `root/<domain>/<class>/<image>` are images, in which order, and what else
lies there.

The order is torchvision's `ImageFolder` (per class folder: `sorted(os.walk(folder, followlinks=True))`,
files sorted inside) under DomainBed's sorted domain folders, because DomainBed's splits are positions in
that order. `folders.read_images` turns a listing into samples; `checks.check_images` reports what was
left aside. `find_images` is for images that have no domain and no class.

Names are compared in their composed form (Unicode's NFC): macOS writes "é" as "e" and an accent.
"""

import contextlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path

from throughline.core.errors import ThroughlineError
from throughline.domains.samples import Sample, composed, on_disk

# torchvision.datasets.folder.IMG_EXTENSIONS, compared in lower case as there; and GIF, which ImageFolder passes over.
IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif")

_SPLIT = re.compile(r"(train|val|valid|validation|test|dev|eval|crossval|holdout|full)([-_ \d]|ing|val|set)*", re.I)
"""A folder of a split, such as train, Training, val2017 or test_set."""

_NO_FOLDER_NAME = re.compile(r"^$|^\.|[/\\\x00-\x1f\x7f-\x9f\u2028\u2029]")
"""Empty, hidden, several folders, or with a line's end or another control character."""

# (device, inode): what a folder is, whatever path or link leads to it.
Identity = tuple[int, int]


@dataclass
class Listing:
    """Samples by domain in ImageFolder's order, no file of theirs opened and so without a hash; and everything that was
    left aside (paths relative to the root).

    `names` are other names of classes, of a table; `folders` gives per domain the class folders found there, empty ones
    included; `misplaced` are images outside any class folder; `others` are files that are no images; `closed` are
    folders that were not entered, by why: `symlink_loop` leads back into a folder above it, the name of a
    `hidden_folder` begins with a dot where a domain or class is expected, an `unreadable_folder` may not be read.
    """

    root: Path
    samples: list[Sample] = field(default_factory=list)
    names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    folders: dict[str, list[str]] = field(default_factory=dict)
    misplaced: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    closed: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    @property
    def empty(self) -> list[str]:
        """Class folders without an image, as `domain/class`."""
        filled = {f"{sample.domain}/{label}" for sample in self.samples for label in sample.labels}
        folders = [f"{domain}/{label}" for domain, labels in self.folders.items() for label in labels]
        return [folder for folder in folders if folder not in filled]


def is_image_name(name: str) -> bool:
    """Whether ImageFolder would take a file of this name."""
    return name.lower().endswith(IMAGE_EXTENSIONS)


def is_folder_name(name: str) -> bool:
    """Whether a domain or class may be called so: it is the name of one folder, and of one that is seen."""
    return _NO_FOLDER_NAME.search(name) is None


def is_parquet(path: Path) -> bool:
    """Whether a file begins as Parquet does."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        return file.read(4) == b"PAR1"
    return False


def is_there(root: Path, id: str) -> bool:
    """Whether a file has this id. A text that is too long for a name, or holds a zero, is that of no file."""
    with contextlib.suppress(OSError, ValueError):
        return on_disk(root, id).is_file()
    return False


def require_single(samples: Iterable[Sample], where: Path) -> None:
    """Raises a ThroughlineError for an image that is there twice: in a table, or by two spellings of a folder."""
    twice = [id for id, count in Counter(sample.id for sample in samples).items() if count > 1]
    if twice:
        remedy = "keep one (names that differ only in how accents are stored are one name)"
        raise ThroughlineError(f"the image {twice[0]} is listed more than once", where, remedy)


def split_fault(samples: Sequence[Sample]) -> str | None:
    """What is wrong where folders such as train and val stand in the place of domains or classes.

    One such name may be a class (a train); it is a split where whatever lies in it lies in folders again.
    """
    flat = {sample.domain for sample in samples if sample.id.count("/") < 3}
    names = {"domains": ({sample.domain for sample in samples}, not flat)}
    for sample in samples:
        names.setdefault(f"classes of {sample.domain}", (set(), sample.domain not in flat))[0].update(sample.labels)
    for level, (given, nested) in names.items():
        splits = sorted(filter(_SPLIT.fullmatch, given))
        if len(splits) > 1 or (splits and nested and len(given) == 1):
            return f"{', '.join(splits)}: splits are taken for the {level}"
    return None


def list_folder(root: Path) -> Listing:
    """Walks the tree once, opening no file. Raises a ThroughlineError when `root` is no folder that can
    be read, and for two folders whose names are composed alike.
    """
    if not root.exists():
        raise ThroughlineError("no such folder", root, "give the folder with <domain>/<class>/<image> in it")
    if not root.is_dir():
        raise ThroughlineError("a file where a folder of images is expected", root, "give a folder, .csv or .parquet")
    listing = Listing(root)
    for domain, inside_domain in _subfolders(listing, "", (_identity(root),)):
        listing.folders[domain] = []
        for label, inside_class in _subfolders(listing, domain, inside_domain):
            listing.folders[domain].append(label)
            _list_class(listing, domain, label, inside_class)
    require_single(listing.samples, root)
    return listing


def _identity(folder: Path) -> Identity:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _scan(listing: Listing, relative: str) -> list[tuple[str, os.DirEntry[str]]]:
    """A folder's entries by composed name, sorted; a folder that may not be read is noted, not fatal."""
    try:
        with os.scandir(on_disk(listing.root, relative)) as entries:
            return sorted(((composed(entry.name), entry) for entry in entries), key=itemgetter(0))
    except OSError as error:
        if not relative:
            raise ThroughlineError(f"cannot read the folder: {error.strerror}", listing.root) from error
        listing.closed["unreadable_folder"].append(relative)
        return []


def _subfolders(
    listing: Listing, relative: str, ancestors: tuple[Identity, ...]
) -> Iterator[tuple[str, tuple[Identity, ...]]]:
    """Domain folders of the root or class folders of a domain, each with the identities down to itself."""
    for name, entry in _scan(listing, relative):
        path = f"{relative}/{name}" if relative else name
        if not entry.is_dir():
            if not name.startswith("."):
                (listing.misplaced if is_image_name(name) else listing.others).append(path)
        elif name.startswith("."):
            listing.closed["hidden_folder"].append(path)
        elif (identity := _identity(Path(entry.path))) in ancestors:
            listing.closed["symlink_loop"].append(path)
        else:
            yield name, (*ancestors, identity)


def _list_class(listing: Listing, domain: str, label: str, ancestors: tuple[Identity, ...]) -> None:
    """Appends the images of one class folder, nested folders included, sorted as `sorted(os.walk(...))`
    sorts.
    """
    labels = (label,)  # one tuple for all its images
    folders: list[tuple[str, list[str]]] = []
    open_folders = [(f"{domain}/{label}", ancestors)]
    while open_folders:
        relative, above = open_folders.pop()
        names = []
        for name, entry in _scan(listing, relative):
            path = f"{relative}/{name}"
            if not entry.is_dir():
                names.append(name)
            elif (identity := _identity(Path(entry.path))) in above:
                # os.walk would follow it some forty times, until the system refuses.
                listing.closed["symlink_loop"].append(path)
            else:
                open_folders.append((path, (*above, identity)))
        folders.append((relative, names))
    for relative, names in sorted(folders):
        for name in names:
            path = f"{relative}/{name}"
            if is_image_name(name):
                listing.samples.append(Sample(path, listing.root, domain, labels, ""))
            else:
                listing.others.append(path)


def find_images(given: Sequence[Path]) -> list[Path]:
    """The files named, and the images in and below the folders named, in sorted order; each once.

    Raises ThroughlineError for a path that is not there, a folder that cannot be read, and when nothing is found.
    """
    files: list[Path] = []
    for path in given:
        if path.is_dir():
            files += _images_below(path)
        elif path.exists() or path.is_symlink():  # a dangling link is an image that cannot be read
            files.append(path)
        else:
            raise ThroughlineError("no such image or folder", path, "name image files, or folders of them")
    if not files:
        raise ThroughlineError("no images found", ", ".join(map(str, given)), "name image files, or folders of them")
    return list(dict.fromkeys(files))


def _images_below(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise ThroughlineError(f"cannot read the folder: {error.strerror}", error.filename) from error

    for where, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(where, name) for name in sorted(files) if is_image_name(name) and not name.startswith("."))
