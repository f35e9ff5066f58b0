"""`throughline data`: draw, check, split, write digits, and say where the benchmarks are to be had.

Each subcommand parses, calls one function of `drawn` or `domains`, and prints. No torch on any path.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from throughline.cli.options import SOURCE_HELP, positive_int, share, words
from throughline.cli.progress import progress
from throughline.cli.text import counted
from throughline.core.errors import ThroughlineError, UsageError

if TYPE_CHECKING:
    from throughline.domains.checks import CheckReport, Defect

SUMMARY = "draw, check, split and fetch images by domain and class"

PATHS_SHOWN = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The subcommands and their options."""
    commands = parser.add_subparsers(title="subcommands", dest="command", metavar="COMMAND", required=True)
    _add_draw(commands)
    _add_check(commands)
    _add_split(commands)
    _add_digits(commands)
    _add_fetch(commands)


def run(arguments: argparse.Namespace) -> int:
    """Runs the chosen subcommand; 1 when `check` finds an error."""
    code: int = arguments.act(arguments)
    return code


def _add_draw(commands: Any) -> None:
    draw = commands.add_parser("draw", help="write the drawn world", description="Writes the drawn world.")
    draw.add_argument("folder", metavar="DIR", type=Path, help="new folder; an unfinished one is completed")
    draw.add_argument(
        "--per-class", type=positive_int, default=50, metavar="N", help="images of each class in each style"
    )
    draw.add_argument("--seed", type=int, default=0, help="whole number; the same seed draws the same pixels")
    draw.add_argument(
        "--styles",
        type=words,
        default=(),
        metavar="A,B",
        help="styles (default: cartoon,painting,photo,sketch)",
    )
    draw.add_argument(
        "--auxiliary",
        action="store_true",
        help="draw the pre-training styles instead, which are never domains",
    )
    draw.add_argument("--size", type=positive_int, default=64, metavar="PIXELS", help="side of an image, pixels")
    draw.add_argument(
        "--spurious",
        type=share,
        default=0.0,
        help="share of scenes before their class's own background, 0 to 1",
    )
    draw.add_argument("--occlusion", type=share, default=0.0, help="covered share of the object, 0 to 0.9")
    draw.add_argument("--noise", type=share, default=0.0, help="pixel noise as a share of full scale, 0 to 1")
    draw.set_defaults(act=_draw)


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


def _add_check(commands: Any) -> None:
    check = commands.add_parser(
        "check",
        help="count images and find defects",
        description="Prints domains x classes with counts and every defect; exit code 1 when training would be wrong.",
    )
    check.add_argument("source", metavar="DIR", type=Path, help=SOURCE_HELP)
    check.add_argument(
        "--max-pixels",
        type=positive_int,
        default=None,
        metavar="N",
        help="an image of more pixels is an error (default: 178956970, what loading refuses)",
    )
    check.add_argument("--json", action="store_true", help="print the report as one JSON object")
    check.set_defaults(act=_check)


def _check(arguments: argparse.Namespace) -> int:
    from throughline.domains.checks import check_images
    from throughline.domains.images import MAX_PIXELS

    with progress("checking", "images") as report_progress:
        report = check_images(arguments.source, arguments.max_pixels or MAX_PIXELS, report_progress)
    if arguments.json:
        print(json.dumps(report.to_json(), indent=2))
    else:
        _print_report(report)
    return 1 if report.errors else 0


def _print_report(report: CheckReport) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # Off a terminal nothing is folded to 80 columns: there the reader is a file or a program.
    console = Console() if sys.stdout.isatty() else Console(width=4096, soft_wrap=True)
    table = Table(title=f"{report.root}: images by domain and class")
    table.add_column("class")
    for domain in report.domains:
        table.add_column(Text(domain), justify="right")
    for label in report.classes:
        table.add_row(Text(label), *(f"{report.counts[domain][label]:,}" for domain in report.domains))
    table.add_section()
    totals = [sum(report.counts[domain].values()) for domain in report.domains]
    table.add_row("all", *(f"{total:,}" for total in totals))
    console.print(table)
    for defect in report.defects:
        console.print(Text(_describe(defect)))
    warnings = len(report.defects) - len(report.errors)
    ending = "training would be wrong" if report.errors else "fit for training"
    counts = (counted(sum(totals), "image"), counted(len(report.errors), "error"), counted(warnings, "warning"))
    console.print(f"{', '.join(counts)}: {ending}")


def _describe(defect: Defect) -> str:
    line = f"{defect.severity}: {defect.what}"
    unnamed = [name for name in defect.where if name not in defect.what]
    if not unnamed:
        return line
    more = f" and {len(unnamed) - PATHS_SHOWN:,} more (see --json)" if len(unnamed) > PATHS_SHOWN else ""
    return f"{line}: {', '.join(unnamed[:PATHS_SHOWN])}{more}"


def _add_split(commands: Any) -> None:
    split = commands.add_parser(
        "split",
        help="DomainBed's split of every domain",
        description='Prints which images are in the "in" (80 %%) and "out" (20 %%) part of each domain.',
    )
    split.add_argument("source", metavar="DIR", type=Path, help=SOURCE_HELP)
    split.add_argument("--target", required=True, metavar="DOMAIN", help="the domain to hold out")
    split.add_argument(
        "--trial-seed", required=True, type=int, metavar="N", help="DomainBed's trial seed, a whole number"
    )
    split.add_argument("--json", action="store_true", help="print all sample ids as one JSON object")
    split.set_defaults(act=_split)


def _split(arguments: argparse.Namespace) -> int:
    from throughline.domains.folders import read_images
    from throughline.domains.splits import split_domains

    images = read_images(arguments.source)
    images.require_target(arguments.target)
    splits = split_domains(images, arguments.trial_seed)
    domainbed = all(split.domainbed for split in splits.values())
    if not domainbed:
        print("throughline: groups are kept whole: this is no longer DomainBed's split", file=sys.stderr)
    if arguments.json:
        parts = {domain: {"in": split.inside, "out": split.out} for domain, split in splits.items()}
        answer: dict[str, Any] = {"target": arguments.target, "domains": parts}
        print(json.dumps(answer if domainbed else answer | {"domainbed": False}, indent=2))
        return 0
    print(f"{'domain':<24}{'in':>8}{'out':>8}")
    for domain, split in splits.items():
        role = "target" if domain == arguments.target else "source"
        print(f"{domain:<24}{len(split.inside):>8,}{len(split.out):>8,}  {role}")
    return 0


def _add_digits(commands: Any) -> None:
    digits = commands.add_parser(
        "digits",
        help="handwriting scans as RotatedMNIST- or ColoredMNIST-like domains",
        description="Writes scikit-learn's 1,797 handwriting scans, 64 pixels wide, as shifted domains.",
    )
    digits.add_argument("folder", metavar="DIR", type=Path, help="new or empty folder")
    digits.add_argument(
        "--shift",
        required=True,
        choices=("rotation", "colour"),
        help="rotation: 0 to 75 degrees, ten classes; colour: two classes whose colour misleads in one domain",
    )
    digits.add_argument("--seed", type=int, default=0, help="whole number; deals the scans out to the domains")
    digits.set_defaults(act=_digits)


def _digits(arguments: argparse.Namespace) -> int:
    from throughline.domains.digits import write_digits

    count = write_digits(arguments.folder, arguments.shift, arguments.seed)
    print(f"{count:,} images in {arguments.folder}")
    return 0


def _add_fetch(commands: Any) -> None:
    fetch = commands.add_parser(
        "fetch",
        help="where a benchmark is to be had and how its folder must look",
        description="Names a benchmark's source and layout; with --hub, writes it from the Hugging Face hub.",
    )
    fetch.add_argument(
        "name", metavar="NAME", choices=("pacs", "vlcs", "office_home", "terra_incognita"), help="%(choices)s"
    )
    fetch.add_argument("folder", metavar="DIR", type=Path, help="where the images are to lie")
    fetch.add_argument(
        "--hub",
        action="store_true",
        help="download it now and write the folder; a stopped download continues",
    )
    fetch.set_defaults(act=_fetch)


def _fetch(arguments: argparse.Namespace) -> int:
    from throughline.core.files import require_free_folder
    from throughline.domains.benchmarks import BENCHMARKS, write_rows

    benchmark = BENCHMARKS[arguments.name]
    if not arguments.hub:
        print(benchmark.describe(arguments.folder))
        return 0
    if benchmark.hub is None:
        on_hub = ", ".join(name for name, other in BENCHMARKS.items() if other.hub)
        raise ThroughlineError(f"{benchmark.name} is not on the hub", do=f"there are {on_hub}; leave --hub out")
    require_free_folder(arguments.folder)
    rows, label_names, total = _rows_of_hub(benchmark.hub)
    with progress("writing", "images") as report_progress:
        count = write_rows(rows, arguments.folder, label_names, lambda done: report_progress(done, total))
    print(f"{count:,} images in {arguments.folder}; next: throughline data check {arguments.folder}")
    return 0


def _rows_of_hub(name: str) -> tuple[Iterable[Mapping[str, Any]], list[str] | None, int]:
    """All rows of a hub data set with undecoded images, its class names, and the number of rows."""
    import datasets

    try:
        parts = datasets.load_dataset(name)
    except (OSError, datasets.exceptions.DatasetsError) as error:  # no network, no such data set
        raise ThroughlineError(f"cannot download: {error}", name, "check the network and try again") from error
    parts = [parts[key].cast_column("image", datasets.Image(decode=False)) for key in sorted(parts)]
    label_names = getattr(parts[0].features["label"], "names", None)
    return itertools.chain.from_iterable(parts), label_names, sum(len(part) for part in parts)
