"""`throughline chains check|stats|view|export`: what is done with a store once it is there."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from throughline.chains.formats import FORMATS
from throughline.chains.rules import RULES
from throughline.cli.options import SOURCE_HELP, positive_int
from throughline.cli.progress import progress
from throughline.core.errors import ThroughlineError

if TYPE_CHECKING:
    from throughline.domains.samples import ImageSet

STORE_HELP = "folder of journal-*.jsonl, or one such file"
IMAGES_HELP = f"{SOURCE_HELP} (default: as the store names it)"


def add_check(commands: Any) -> None:
    """`chains check`."""
    check = commands.add_parser(
        "check",
        help="is every line of a store or an export sound?",
        description="Reads every line of a journal, a store or an export; exit code 1 when one cannot be used.",
    )
    check.add_argument("store", metavar="STORE", type=Path, help=f"{STORE_HELP}, or a folder made by `chains export`")
    check.add_argument("--limit", type=positive_int, default=20, metavar="N", help="problems shown of each kind")
    check.add_argument("--json", action="store_true", help="print the result as JSON")
    check.set_defaults(act=_check)


def add_stats(commands: Any) -> None:
    """`chains stats`."""
    stats = commands.add_parser(
        "stats",
        help="acceptance, outcomes, lengths, tokens and cost",
        description="Counts a store: acceptance by domain, class and candidate number, outcomes, lengths, cost.",
    )
    stats.add_argument("store", metavar="STORE", type=Path, help=STORE_HELP)
    stats.add_argument("--images", metavar="DIR", type=Path, help=IMAGES_HELP)
    stats.add_argument("--json", action="store_true", help="print the numbers as JSON")
    stats.set_defaults(act=_stats)


def add_view(commands: Any) -> None:
    """`chains view`."""
    view = commands.add_parser(
        "view",
        help="a page to browse images with their chains",
        description="Writes one self-contained page: browse, filter and search images with candidates and verdicts.",
    )
    view.add_argument("store", metavar="STORE", type=Path, help=STORE_HELP)
    view.add_argument("page", metavar="PAGE.html", type=Path, help="the page to write")
    view.add_argument("--images", metavar="DIR", type=Path, help=IMAGES_HELP)
    view.add_argument("--limit", type=positive_int, default=500, metavar="N", help="images on the page at most")
    view.set_defaults(act=_view)


def add_export(commands: Any) -> None:
    """`chains export`."""
    export = commands.add_parser(
        "export",
        help="a dataset for the Hub and for other trainers",
        description="Writes accepted chains with their images as Parquet with a dataset card, and as the JSONL that "
        "TRL, ms-swift and LLaMA-Factory train on.",
    )
    export.add_argument("store", metavar="STORE", type=Path, help=STORE_HELP)
    export.add_argument("folder", metavar="DIR", type=Path, help="new folder, or an older export to replace")
    export.add_argument("--images", metavar="DIR", type=Path, help=IMAGES_HELP)
    export.add_argument("--rule", choices=tuple(RULES), default="correct", help="what an exported chain must meet")
    export.add_argument("--format", choices=tuple(FORMATS), default="five_stage", help="stages of a chain")
    export.add_argument("--every-accepted", action="store_true", help="all accepted chains, not each image's first")
    export.add_argument("--with-labels", action="store_true", help="the JSONL asks the label question, too")
    export.add_argument("--licence", metavar="ID", help="the Hub's identifier, e.g. cc-by-4.0 (default: none given)")
    export.add_argument(
        "--run",
        type=Path,
        metavar="RUN",
        help="an analysed run on the same images: how foreign the chains are to its base, and how far apart domains "
        "are in them, go into the card (default: none)",
    )
    export.set_defaults(act=_export)


def _check(arguments: argparse.Namespace) -> int:
    from throughline.teaching.check import check_chains

    result = check_chains(arguments.store, limit=arguments.limit)
    if arguments.json:
        print(result.model_dump_json(indent=2))
    else:
        print("\n".join(result.lines()))
    return 0 if result.ok else 1


def _stats(arguments: argparse.Namespace) -> int:
    from throughline.reporting.text import to_terminal
    from throughline.teaching.statistics import summarise_chains
    from throughline.teaching.statistics_tables import statistics_tables

    images = _images(_require_store(arguments.store), arguments.images)
    statistics = summarise_chains(arguments.store, images)
    if arguments.json:
        print(json.dumps(statistics.as_data(), indent=2))
    else:
        print("".join(to_terminal(table) for table in statistics_tables(statistics)), end="")
    return 0


def _view(arguments: argparse.Namespace) -> int:
    from throughline.reporting.chains_page import write_chains_page

    images = _images(_require_store(arguments.store), arguments.images)
    with progress("reading the store", "lines") as report_progress:
        page = write_chains_page(
            arguments.store,
            arguments.page,
            images,
            limit=arguments.limit,
            on_progress=lambda lines: report_progress(lines, None),
        )
    print(f"{page.images:,} of {page.images_in_store:,} images, {page.candidates:,} candidates: {arguments.page}")
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from throughline.teaching.exports.export import export_chains
    from throughline.teaching.exports.selection import ExportPlan

    images = _images(_require_store(arguments.store), arguments.images)
    if images is None:
        raise ThroughlineError("an export needs the images", arguments.store, "name their folder with --images")
    measured = None
    if arguments.run is not None:
        from throughline.reporting.cards import chains_section

        measured = chains_section(arguments.run, images.fingerprint())
    plan = ExportPlan(
        images,
        FORMATS[arguments.format],
        rule=arguments.rule,
        every_accepted=arguments.every_accepted,
        with_labels=arguments.with_labels,
        licence=arguments.licence,
        measured=measured,
    )
    with progress("exporting", "images") as report_progress:
        summary = export_chains(arguments.store, arguments.folder, plan, on_progress=report_progress)
    print("\n".join([*summary.lines(), str(summary.folder)]))
    return 0


def _require_store(path: Path) -> Path:
    """ThroughlineError unless there is a journal at `path`."""
    from throughline.chains.journal import journal_files

    if not path.exists() or not journal_files(path):
        raise ThroughlineError("no chain store here", path, "name a folder of journal-*.jsonl or one such file")
    return path


def _images(store: Path, given: Path | None) -> ImageSet | None:
    """The images that the user names, else those that the store names if they are there."""
    from throughline.chains.store import read_headers
    from throughline.domains.folders import read_images

    if given is not None:
        return read_images(given)
    named = (header.images for header in read_headers(store) if header.images and Path(header.images).exists())
    folder = next(named, None)
    return None if folder is None else read_images(Path(folder))
