"""`throughline chains check|stats|view|export`: what is done with a store once it is there."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from throughline.cli.chains.options import Plan
from throughline.cli.options import add_settings, given_settings
from throughline.cli.progress import progress
from throughline.cli.text import json_text
from throughline.core.errors import ThroughlineError, UsageError

if TYPE_CHECKING:
    from throughline.domains.samples import ImageSet


def add_rule_options(parser: argparse.ArgumentParser) -> None:
    """Which chains count as accepted, as for a build."""
    add_settings(parser, Plan, ["rule", "format"])


def check(arguments: argparse.Namespace) -> int:
    """Prints every fault of a store or an export; 1 when there is one."""
    from throughline.teaching.check import check_chains

    result = check_chains(arguments.store, limit=arguments.limit)
    print(result.model_dump_json(indent=2) if arguments.json else "\n".join(result.lines()))
    return 0 if result.ok else 1


def stats(arguments: argparse.Namespace) -> int:
    """Prints the tables of a store."""
    from throughline.reporting.text import to_terminal
    from throughline.teaching.references import compare_with_references
    from throughline.teaching.statistics import summarise_chains
    from throughline.teaching.statistics_tables import statistics_tables

    statistics, named = summarise_chains(arguments.store, _images(arguments)), arguments.references
    beside = [] if named is None else [compare_with_references(arguments.store, named)]
    if arguments.json:
        references = {
            "references": [dict(zip(table.columns, row, strict=True)) for table in beside for row in table.rows]
        }
        print(json_text({**statistics.as_data(), **(references if beside else {})}))
    else:
        print("".join(to_terminal(table) for table in (*statistics_tables(statistics), *beside)), end="")
    return 0


def view(arguments: argparse.Namespace) -> int:
    """Writes the page of a store, or of a folder of pairs."""
    from throughline.chains.pairs import FILE
    from throughline.reporting.chains_page import write_chains_page

    if (arguments.store / FILE).is_file():
        return _view_pairs(arguments)
    images = _images(arguments)
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


def _view_pairs(arguments: argparse.Namespace) -> int:
    from throughline.domains.folders import read_images
    from throughline.reporting.pairs_page import write_pairs_page

    if arguments.images is None:
        raise UsageError("a page of pairs needs their images", arguments.store, "name their folder with --images")
    shown, pairs = write_pairs_page(arguments.store, arguments.page, read_images(arguments.images), arguments.limit)
    print(f"{shown:,} of {pairs:,} pairs: {arguments.page}")
    return 0


def export(arguments: argparse.Namespace) -> int:
    """Writes the dataset."""
    from throughline.chains.formats import FORMATS
    from throughline.teaching.exports.export import export_chains
    from throughline.teaching.exports.selection import ExportPlan

    images = _images(arguments)
    if images is None:
        raise ThroughlineError("an export needs the images", arguments.store, "name their folder with --images")
    measured = None
    if arguments.run is not None:
        from throughline.reporting.cards import chains_section

        measured = chains_section(arguments.run, images.fingerprint())
    chosen = given_settings(arguments, ("rule", "every_accepted", "with_labels", "licence"))
    plan = ExportPlan(images, FORMATS[arguments.format], measured=measured, **chosen)
    with progress("exporting", "images") as report_progress:
        summary = export_chains(arguments.store, arguments.folder, plan, on_progress=report_progress)
    print("\n".join([*summary.lines(), str(summary.folder)]))
    return 0


def _images(arguments: argparse.Namespace) -> ImageSet | None:
    """The images that the user names, else those that the store names if they are there. ThroughlineError where there
    is no store."""
    from throughline.chains.journal import require_journals
    from throughline.chains.store import read_headers, require_chains_about
    from throughline.domains.folders import read_images

    store: Path = arguments.store
    require_journals(store)
    folder: Path | None = arguments.images
    if folder is None:
        named = (Path(header.images) for header in read_headers(store) if header.images)
        folder = next((path for path in named if path.exists()), None)
    images = None if folder is None else read_images(folder)
    if images is not None and arguments.images is not None:
        require_chains_about(images, store)
    return images
