"""`throughline data`: draw, check, split, write digits, import, sample, corrupt, fetch an image set or say where to
have it.

Each subcommand parses, calls one function of `drawn` or `domains`, and prints. No torch on any path.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field

from throughline.cli.data_import import Import, import_images
from throughline.cli.options import Shown, Source, Subcommands, add_subcommands
from throughline.cli.progress import progress
from throughline.cli.text import count_table, counted, json_text
from throughline.core.errors import UsageError
from throughline.core.files import require_free_folder
from throughline.core.settings import Settings
from throughline.core.table import Table
from throughline.domains.folders import read_images
from throughline.domains.samples import balanced, composed
from throughline.domains.splits import SplitRule
from throughline.reporting.text import to_terminal

if TYPE_CHECKING:
    from throughline.domains.checks import CheckReport, Defect

PATHS_SHOWN = 5

Share = Annotated[float, Field(ge=0, le=1)]
Folder = Annotated[Path, Shown("DIR", positional=True)]


class Drawing(Settings):
    """Draw images of twelve classes in four styles."""

    folder: Folder
    """New folder, or an unfinished one to complete."""
    per_class: int = Field(default=50, ge=1)
    """Images of each class in each style."""
    seed: int = 0
    """Whole number; the same seed gives the same pixels."""
    styles: tuple[str, ...] = ()
    """Styles to draw (default: cartoon,painting,photo,sketch)."""
    auxiliary: bool = False
    """Draw the styles of the pocket's pre-training instead, which are never used as domains."""
    size: Annotated[int, Shown("PIXELS")] = Field(default=64, ge=1)
    """Side of an image in pixels."""
    spurious: Share = 0.0
    """Share of images whose background depends on the class, 0 to 1."""
    occlusion: Share = 0.0
    """Share of the object that is covered, 0 to 0.9."""
    noise: Share = 0.0
    """Pixel noise as a share of the full range, 0 to 1."""


class Check(Settings):
    """Count the images by domain and class and list every defect; exit code 1 if training would go wrong."""

    source: Source
    max_pixels: int | None = Field(default=None, ge=1)
    """Images with more pixels are errors (default: 178956970, above which images cannot be loaded)."""


class SplitOptions(Settings):
    """Count the images in the "in" (80 %) and "out" (20 %) part of each domain, as split by DomainBed; --json lists
    them."""

    source: Source
    target: Annotated[str, Shown("DOMAIN"), AfterValidator(composed)]
    """The domain to hold out."""
    trial_seed: int = 0
    """DomainBed's trial seed, a whole number."""
    rule: SplitRule = None
    """`concepts`: the target's groups are not among the sources'; `domainbed`: DomainBed's split, groups or not
    (default: DomainBed's, with groups kept whole in each domain)."""


class Digits(Settings):
    """Write scikit-learn's 1,797 handwritten digits, 64 pixels wide, as domains like RotatedMNIST or ColoredMNIST."""

    folder: Folder
    """New or empty folder."""
    shift: Literal["rotation", "colour"]
    """Rotation: 0 to 75 degrees, ten classes; colour: two classes whose colour misleads in one domain."""
    seed: int = 0
    """Whole number; decides which digit goes to which domain."""


class Sampling(Settings):
    """List some images of each class and domain, with the hash of each file, before any model is asked: a table that
    every other command reads, and compares the files with."""

    source: Source
    out: Annotated[Path, Shown("FILE")]
    """NAME.csv, a table of images; or NAME.tsv, VLMEvalKit's table of multiple-choice questions, at most 26 classes."""
    per_class: int | None = Field(default=None, ge=1)
    """Images of each class and domain, all where there are fewer (default: all)."""
    seed: int = Field(default=0, ge=0)
    """Seed of the choice; a larger number with the same seed adds images and exchanges none."""


class Corrupt(Settings):
    """Write a copy of every image, corrupted or partly covered, into a new folder."""

    source: Source
    out: Annotated[Path, Shown("OUT", positional=True)]
    """New folder, or an unfinished one to complete; its `images.csv` has the image that each was made from."""
    kind: str
    """ImageNet-C's gaussian_noise, shot_noise, impulse_noise, speckle_noise, defocus_blur, glass_blur, motion_blur,
    zoom_blur, gaussian_blur, snow, frost, fog, spatter, brightness, contrast, saturate, elastic_transform, pixelate or
    jpeg_compression, which need the extra `corruptions`; LAION-C's glitched, vertical_lines, geometric_shapes or
    luminance_checkerboard; occlusion_grey or occlusion_noise, rectangles over a share of the image; crop, a part of it
    enlarged; or diffusion_noise."""
    severity: float
    """1 to 5; of occlusions, crop and diffusion_noise the share that is taken away, 0 to 1."""
    seed: int = 0
    """Whole number; the same seed gives the same pixels."""


class Fetch(Settings):
    """Download PACS, VLCS, OfficeHome, TerraIncognita or DomainNet; build open_styles, real images in many styles, out
    of openly licensed packages; or print licence, source and layout of another benchmark and the command that
    converts it."""

    name: Annotated[str | None, Shown("NAME", positional=True)] = None
    """open_styles, or one of the benchmarks, such as pacs or camelyon17; without it the benchmarks are listed."""
    folder: Annotated[Path | None, Shown("DIR", positional=True)] = None
    """New folder for the images; without it, sets that can be downloaded are described, too (default of open_styles:
    its name)."""
    source: str | None = None
    """Of a set that is downloaded: the one source to ask; without DIR all are listed (default: the first that can be
    had)."""
    archives: Annotated[Path | None, Shown("DIR")] = None
    """Folder with archives that you downloaded yourself, known by SHA-256, or by name where none is known; only the
    others are got."""
    more: bool = False
    """Of open_styles: three more families of flat emoji, too."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The subcommands and their options."""
    commands: Subcommands = {
        "draw": (Drawing, _draw),
        "check": (Check, _check),
        "split": (SplitOptions, _split),
        "digits": (Digits, _digits),
        "import": (Import, import_images),
        "sample": (Sampling, _sample),
        "corrupt": (Corrupt, _corrupt),
        "fetch": (Fetch, _fetch),
    }
    add_subcommands(parser, commands, json_of=("check", "split", "import"))


def run(arguments: argparse.Namespace) -> int:
    """Runs the chosen subcommand; 1 when `check` finds an error."""
    return int(arguments.act(arguments))


def _draw(arguments: argparse.Namespace) -> int:
    from throughline.drawn.scenes import WorldSettings
    from throughline.drawn.styles import AUXILIARY_STYLES, DOMAIN_STYLES
    from throughline.drawn.world import write_world

    if arguments.auxiliary and arguments.styles:
        raise UsageError("--auxiliary and --styles exclude each other", do="name the styles, or use --auxiliary")
    styles = arguments.styles or (AUXILIARY_STYLES if arguments.auxiliary else DOMAIN_STYLES)
    settings = WorldSettings(spurious=arguments.spurious, occlusion=arguments.occlusion, noise=arguments.noise)
    count = write_world(
        arguments.folder,
        per_class=arguments.per_class,
        seed=arguments.seed,
        styles=styles,
        settings=settings,
        size=arguments.size,
    )
    print(f"{count:,} images of {len(styles)} styles in {arguments.folder}")
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from throughline.domains.checks import check_images
    from throughline.domains.images import MAX_PIXELS
    from throughline.questions.class_names import class_name_defects

    with progress("checking", "images") as report_progress:
        report = check_images(arguments.source, arguments.max_pixels or MAX_PIXELS, report_progress)
    defects = (*report.defects, *class_name_defects(report.classes, report.names))
    report = replace(report, defects=tuple(sorted(defects, key=lambda defect: defect.severity != "error")))
    if arguments.json:
        print(json_text(report.to_json()))
    else:
        _print_report(report)
    return 1 if report.errors else 0


def _print_report(report: CheckReport) -> None:
    print(to_terminal(count_table(report.root, report.counts, report.images_of)))
    for defect in report.defects:
        print(_describe(defect))
    warnings = len(report.defects) - len(report.errors)
    ending = "training would be wrong" if report.errors else "fit for training"
    counts = (counted(report.images, "image"), counted(len(report.errors), "error"), counted(warnings, "warning"))
    print(f"{', '.join(counts)}: {ending}")


def _describe(defect: Defect) -> str:
    line = f"{defect.severity}: {defect.what}"
    unnamed = [name for name in defect.where if name not in defect.what]
    if not unnamed:
        return line
    more = f" and {len(unnamed) - PATHS_SHOWN:,} more (see --json)" if len(unnamed) > PATHS_SHOWN else ""
    return f"{line}: {', '.join(unnamed[:PATHS_SHOWN])}{more}"


def _split(arguments: argparse.Namespace) -> int:
    from throughline.domains.splits import count_shared, split_domains

    images = read_images(arguments.source)
    images.require_target(arguments.target)
    rule, targets = arguments.rule, (arguments.target,)
    splits = split_domains(images, arguments.trial_seed, rule, targets)
    domainbed = all(split.domainbed for split in splits.values())
    if any(sample.group is not None for sample in images.samples):
        shared, asked = count_shared(images, targets, arguments.trial_seed, rule)
        print(f"throughline: {shared:,} of {asked:,} target images are of a group that is trained on", file=sys.stderr)
    if not domainbed:
        print("throughline: groups are kept whole: this is no longer DomainBed's split", file=sys.stderr)
    if arguments.json:
        parts = {domain: {"in": split.inside, "out": split.out} for domain, split in splits.items()}
        answer: dict[str, Any] = {"target": arguments.target, "domains": parts}
        print(json_text(answer if domainbed else answer | {"domainbed": False}))
        return 0
    print(f"{'domain':<24}{'in':>8}{'out':>8}")
    for domain, split in splits.items():
        role = "target" if domain == arguments.target else "source"
        print(f"{domain:<24}{len(split.inside):>8,}{len(split.out):>8,}  {role}")
    return 0


def _digits(arguments: argparse.Namespace) -> int:
    from throughline.domains.digits import write_digits

    count = write_digits(arguments.folder, arguments.shift, arguments.seed)
    print(f"{count:,} images in {arguments.folder}")
    return 0


def _sample(arguments: argparse.Namespace) -> int:
    from throughline.domains.manifests import write_manifest
    from throughline.questions.wording import LABEL_QUESTION

    out: Path = arguments.out
    if out.suffix.lower() not in (".csv", ".tsv"):
        raise UsageError("images are listed in a table", out, "name a .csv, or a .tsv for VLMEvalKit")
    images = read_images(arguments.source)
    chosen = balanced(images.samples, arguments.per_class or len(images.samples), arguments.seed)
    write_manifest(images, chosen, out, LABEL_QUESTION)
    print(f"{counted(len(chosen), 'image')} in {out}; next: throughline data check {out}")
    return 0


def _corrupt(arguments: argparse.Namespace) -> int:
    from throughline.domains.benchmarks import TABLE
    from throughline.domains.transfer import write_view
    from throughline.domains.views import View

    view, out = View(arguments.kind, arguments.severity, arguments.seed), arguments.out
    require_free_folder(out)
    images = read_images(arguments.source)
    with progress("drawing", "images") as report_progress:
        count = write_view(images, view, out, report_progress)
    print(f"{count:,} images in {out}, {view.name}; next: throughline data check {out / TABLE}")
    return 0


def _fetch(arguments: argparse.Namespace) -> int:
    from throughline.domains.benchmarks import BENCHMARKS, benchmark_of
    from throughline.domains.published import PUBLISHED

    if arguments.name is None:
        columns = ("name", "group", "subject", "domains", "classes", "licence")
        print(to_terminal(Table("benchmarks", columns, tuple(each.row for each in BENCHMARKS.values()))), end="")
        return 0
    if arguments.name == "open_styles":
        if arguments.source is not None:
            raise UsageError("open_styles is built from many packages", do="leave --source out")
        return _build_open_styles(arguments)
    benchmark = benchmark_of(arguments.name)
    published = PUBLISHED.get(benchmark.name)
    if arguments.more or (published is None and (arguments.archives or arguments.source)):
        options = "--more is an option" if arguments.more else "--archives and --source are options"
        raise UsageError(f"{options} of other sets", arguments.name, "leave them out")
    if published is not None and arguments.folder is not None:
        return _fetch_published(arguments)
    print(benchmark.describe(arguments.folder or Path(arguments.name)))
    if published is not None:
        print(f"download it: throughline data fetch {benchmark.name} DIR", "from:", sep="\n")
        print(*(f"  {origin.line}" for origin in published.origins), sep="\n")
    return 0


def _fetch_published(arguments: argparse.Namespace) -> int:
    from throughline.domains.fetching.sources import CACHE
    from throughline.domains.published import RECORD, fetch_published

    folder = arguments.folder
    require_free_folder(folder)
    print(f"archives that are downloaded are kept in {CACHE}", file=sys.stderr)
    with progress("writing", "images") as report_progress:
        record = fetch_published(arguments.name, folder, report_progress, arguments.archives, arguments.source)
    print(to_terminal(count_table(folder, record["counts"])))
    print(f"source: {record['source']}, {record['about']}")
    for file in record["files"]:
        print(f"  {file['file']}: SHA-256 {file['sha256']}, {file['known']}")
    for reason, count in record["left_out"].items():
        print(f"left out: {counted(count, 'image')} {reason}")
    print(
        f"{record['images']:,} images, {record['variant']}; by class: unverified, no published numbers are known here"
    )
    print(f"licence: {record['licence']}", f"citation: {record['citation']}", sep="\n")
    print(f"all of this is in {folder / RECORD}; next: throughline data check {folder}")
    return 0


def _build_open_styles(arguments: argparse.Namespace) -> int:
    from throughline.domains.fetching.sources import CACHE
    from throughline.domains.open_styles.building import build_open_styles, compared

    arguments.folder = arguments.folder or Path(arguments.name)
    require_free_folder(arguments.folder)
    print(f"archives that are downloaded are kept in {CACHE}", file=sys.stderr)
    with progress("drawing", "images") as report_progress:
        record = build_open_styles(arguments.folder, report_progress, arguments.archives, arguments.more)
    counts = f"{record['images']:,} images in {arguments.folder}, {compared(record)}"
    print(f"{counts}; next: throughline data check {arguments.folder}")
    return 0
