"""Gets a published benchmark from the first of its sources that can be had, and writes it as a folder
`<domain>/<class>/<image>`.

`data fetch` calls `fetch_published`. `published.json` has a row for each set. Of many files no checksum is known, so
what decides is whether the images of each domain are as many as published.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import TypeAdapter

from throughline.core.errors import ThroughlineError, UsageError
from throughline.core.files import file_sha256, full_disk, partial_folder
from throughline.core.nearest import did_you_mean
from throughline.domains.benchmarks import BENCHMARKS, Benchmark, write_rows
from throughline.domains.class_lists import CLASS_LISTS
from throughline.domains.fetching.sources import CACHE, Package, files_by_hash, obtain
from throughline.domains.fetching.unpacking import read_files
from throughline.domains.listing import is_image_name, is_parquet
from throughline.domains.tables import COLUMNS, read_parquet

RECORD = "source.json"
"""What lies beside the domains' folders: which source was used, its checksums, and what was counted."""

Picture = tuple[str, str, Mapping[str, Any] | None]
"""Domain and class as the source spells them, and the image as `{bytes, path}`."""


@dataclass(frozen=True)
class Origin:
    """One place to have a set from. `files` are archives in which the last two folders of an image are its domain and
    class, or Parquet with the images inside. Where `annotations` are given, an archive of COCO Camera Traps JSON, these
    say of each image what its location and category are. `duplicates` lists images that are left out, a line each."""

    name: str
    about: str
    files: tuple[Package, ...]
    annotations: Package | None = None
    duplicates: Package | None = None

    @property
    def line(self) -> str:
        """For people: what it is, and by what its files are checked."""
        unverified = [package.name for package in self.packages if not package.checksum]
        return f"--source {self.name}: {self.about}" + (f"; unverified: {', '.join(unverified)}" if unverified else "")

    @property
    def packages(self) -> list[Package]:
        """All that is downloaded."""
        return [*self.files, *filter(None, (self.annotations, self.duplicates))]


@dataclass(frozen=True)
class Published:
    """A set of the catalogue `BENCHMARKS`: where it is to be had, the first one first; the number of images that each
    variant of it is known to have, by domain in their order or in all; and other names of its domains."""

    name: str
    origins: tuple[Origin, ...]
    counts: Mapping[str, tuple[int, ...]]
    aliases: Mapping[str, str] = field(default_factory=dict)


_FILE = resources.files(__package__).joinpath("published.json")
PUBLISHED = {row.name: row for row in TypeAdapter(list[Published]).validate_json(_FILE.read_bytes())}
"""By name, the sets of DomainBed."""


def fetch_published(
    name: str,
    out: Path,
    report: Callable[[int, int], None],
    archives: Path | None = None,
    source: str | None = None,
    cache: Path = CACHE,
) -> dict[str, Any]:
    """Writes the set into the new folder `out` and gives its record, which `source.json` there holds, too.

    `archives` is a folder with files that the user has, known by their names or SHA-256; others are downloaded into
    `cache`. With `source` only the origin of that name is asked. Raises a ThroughlineError that says what is wrong with
    each origin: a file that cannot be had or unpacked, or other numbers of images than published.
    """
    published, benchmark = PUBLISHED[name], BENCHMARKS[name]
    names = [origin.name for origin in published.origins]
    if source not in (None, *names):
        raise UsageError(f"{name} has no source {source}", do=did_you_mean(str(source), names, "its sources"))
    given = None if archives is None else files_by_hash(archives)
    total, faults = sum(next(iter(published.counts.values()))), list[str]()
    for origin in published.origins:
        if source not in (None, origin.name):
            continue
        try:
            files = {package: obtain(package, cache, given) for package in origin.packages}
            record = {"name": name, "source": origin.name, "about": origin.about, "files": _checked(files)}
            beside = dict[str, str]()  # filled when all rows are read, which is before it is written
            rows = _rows(published, benchmark, origin, files, record, beside)
            write_rows(rows, out, on_image=lambda done: report(done, total), beside=beside)
            return record
        except ThroughlineError as error:
            if full_disk(error, out):
                raise
            faults.append(f"{origin.name}: {error}")
    left, do = partial_folder(out), "import what you have: throughline data import"
    if left.is_dir():
        do += f"; the same command continues from what is in {left}, or remove that"
    raise ThroughlineError(f"no source gives {name}", "; ".join(faults), do)


def _checked(files: Mapping[Package, Path]) -> list[dict[str, str]]:
    """Of each file the SHA-256 that was found, and whether it is known to be the right one."""
    return [
        {
            "file": package.name,
            "sha256": package.sha256 or file_sha256(path),
            "known": f"pinned by {'SHA-256' if package.sha256 else 'MD5'}" if package.checksum else "unverified",
        }
        for package, path in files.items()
    ]


def _rows(
    published: Published,
    benchmark: Benchmark,
    origin: Origin,
    files: Mapping[Package, Path],
    record: dict[str, Any],
    beside: dict[str, str],
) -> Iterator[dict[str, Any]]:
    """Rows for `write_rows`. After the last one `record` gets the counts, and `beside` the record."""
    assert not isinstance(benchmark.domains, int)
    domains = {_plain(name): name for name in benchmark.domains}
    domains |= {_plain(name): domain for name, domain in published.aliases.items()}
    classes = {_plain(name): name for name in CLASS_LISTS[benchmark.lists]}
    duplicates = _listed(files[origin.duplicates]) if origin.duplicates else frozenset[str]()
    tally, left_out = Counter[tuple[str, str]](), Counter[str]()
    for written_domain, written_class, image in _pictures(origin, files):
        domain, label = domains.get(_plain(written_domain)), classes.get(_plain(written_class))
        if domain is None or label is None:
            left_out["of no domain and class of the set"] += 1
        elif f"{domain}/{label}/{PurePosixPath((image or {}).get('path') or '').name}" in duplicates:
            left_out["listed as duplicates"] += 1
        else:
            tally[domain, label] += 1
            yield {"domain": domain, "label": label, "image": image}
    record["counts"] = {
        domain: {label: tally[domain, label] for label in classes.values()} for domain in benchmark.domains
    }
    record |= {"images": tally.total(), "left_out": dict(left_out)}
    record["variant"] = _variant(published, [sum(own.values()) for own in record["counts"].values()], record["counts"])
    record |= {"licence": benchmark.licence, "citation": benchmark.citation}
    beside[RECORD] = json.dumps(record, indent=2, ensure_ascii=False) + "\n"


def _listed(file: Path) -> frozenset[str]:
    """The images that a text file lists as `<domain>/<class>/<image>`, one in each line."""
    lines = frozenset(file.read_text("utf-8", errors="replace").split())
    if not lines or not all(map(_is_picture, lines)):
        raise ThroughlineError("no list of images", file, "remove it and repeat")
    return lines


def _variant(published: Published, found: Sequence[int], domains: Iterable[str]) -> str:
    """Which variant has these numbers of images. Raises a ThroughlineError where none has."""
    for variant, counts in published.counts.items():
        if tuple(found) == counts or (sum(found),) == counts:
            return variant
    counted = ", ".join(f"{count:,} {domain}" for domain, count in zip(domains, found, strict=True))
    known = "; ".join(f"{' + '.join(map(str, counts))}, {variant}" for variant, counts in published.counts.items())
    raise ThroughlineError(f"{sum(found):,} images ({counted}), but known are {known}")


def _plain(name: str) -> str:
    """Letters and figures alone: the same name whether it is written Real World, RealWorld or real_world."""
    return re.sub(r"[\W_]", "", name).casefold()


def _pictures(origin: Origin, files: Mapping[Package, Path]) -> Iterator[Picture]:
    places = _places(files[origin.annotations]) if origin.annotations else None
    paths = [files[package] for package in origin.files]
    if all(map(is_parquet, paths)):
        yield from _of_parquet(paths)
        return
    for archive in paths:
        for path, data in read_files(archive, _is_picture if places is None else lambda n: _base(n) in places):
            image = {"bytes": data, "path": path.name}
            for domain, label in [path.parts[-3:-1]] if places is None else places[path.name]:
                yield domain, label, image


def _is_picture(name: str) -> bool:
    """Of an image in two folders; macOS puts a hidden file of the same ending beside each."""
    return is_image_name(name) and not _base(name).startswith(".") and name.count("/") > 1


def _base(name: str) -> str:
    return name.rsplit("/", 1)[-1]


def _of_parquet(paths: Sequence[Path]) -> Iterator[Picture]:
    import pyarrow

    def choose(names: Sequence[str]) -> dict[str, str]:
        if missing := [column for column in COLUMNS if column not in names]:
            raise ThroughlineError(f"no column {missing[0]} (found: {', '.join(names)})", paths[0])
        return {column: column for column in COLUMNS}

    try:
        table = read_parquet(paths, choose)
        for row, image in zip(table.rows, table.pictures or (), strict=True):
            yield row["domain"], row["label"], image
    except (pyarrow.ArrowException, OSError, ValueError) as error:  # broken, or with paths in the place of images
        raise ThroughlineError(f"no Parquet with images ({error})", paths[0], "remove it and repeat") from error


def _places(archive: Path) -> dict[str, dict[tuple[str, str], None]]:
    """By file name, the locations and categories of an image, in the order of the annotations: DomainBed puts an image
    into the folder of each of its categories."""
    categories, images, pairs = dict[Any, str](), dict[Any, Any](), list[tuple[Any, Any]]()
    try:
        for _, data in read_files(archive, lambda name: name.endswith(".json") and not _base(name).startswith(".")):
            traps = json.loads(data)
            categories |= {category["id"]: category["name"] for category in traps["categories"]}
            images |= {image["id"]: image for image in traps["images"]}
            pairs += [(each["image_id"], each["category_id"]) for each in traps["annotations"]]
        places: dict[str, dict[tuple[str, str], None]] = {}
        for image, category in pairs:
            place = f"location_{images[image]['location']}", categories[category]
            places.setdefault(_base(images[image]["file_name"]), {})[place] = None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ThroughlineError(
            f"no annotations of camera traps ({error!r})", archive, "remove it and repeat"
        ) from error
    return places
