"""open_styles as documented: the record of its build, what the splits let through, a contact sheet. Called by
`evidence.py open-styles`; its tables by `documents.py`.

The sheet shows only pictures in the public domain or under licences that ask for attribution at most, so that it can
be passed on with this repository.
"""

import csv
import io
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from certificate_block import NOT_MEASURED
from records import Record, read_record
from throughline.core.files import write_atomically
from throughline.core.table import Table
from throughline.domains.benchmarks import TABLE
from throughline.domains.folders import read_images
from throughline.domains.open_styles.building import CREDITS, RECORD
from throughline.domains.open_styles.pictures import RULES
from throughline.domains.splits import SplitRule, count_shared
from throughline.reporting.text import to_markdown

BUILT = Path("src/throughline/domains/open_styles/built.json")
FREE = re.compile(r"public domain|CC0-1\.0|CC-BY-[\d.]+|MIT|Apache-2\.0")
RULE_NAMES: tuple[SplitRule, ...] = ("domainbed", "concepts")
CELL, GAP, MARGIN, HEADER = 72, 4, 76, 16


class TargetSplit(Record):
    """Images of a target domain that are asked about, and of those the ones of a concept that is trained on."""

    target: str
    domainbed: int
    domainbed_shared: int
    concepts: int
    concepts_shared: int


class OpenStyles(Record):
    """The splits of the main set with trial seed 0, and whose pictures the contact sheet shows."""

    command: str
    rows: list[TargetSplit]
    shown: list[str]


def document_build(root: Path, with_more: Path, main_set: Path) -> OpenStyles:
    """Keeps what the documents show of a build with `--more`, and measures one without."""
    shutil.copyfile(with_more / RECORD, root / BUILT)
    credits = list(csv.DictReader(io.StringIO((main_set / CREDITS).read_text("utf-8"))))
    shown = _draw_sheet(root / "docs" / "images" / "open-styles.png", main_set, credits)
    images, rows = read_images(main_set / TABLE), []
    for target in images.domains:
        plain, apart = (count_shared(images, (target,), 0, rule) for rule in RULE_NAMES)
        named = {"domainbed": plain[1], "domainbed_shared": plain[0], "concepts": apart[1], "concepts_shared": apart[0]}
        rows.append(TargetSplit(target=target, **named))
    command = "throughline data split open_styles/images.csv --target DOMAIN --rule RULE"
    return OpenStyles(command=command, rows=rows, shown=shown)


def _draw_sheet(path: Path, folder: Path, credits: Sequence[Mapping[str, str]]) -> list[str]:
    """Two pictures of each class (rows) in each domain (columns), where there are free ones; gives whose these are."""
    free = {row["image"]: f"{row['author']} ({row['licence']})" for row in credits if FREE.fullmatch(row["licence"])}
    domains, labels = (sorted({image.split("/")[place] for image in free}) for place in (0, 1))
    shown: list[str] = []
    sheet = Image.new("RGB", (MARGIN + len(domains) * 2 * (CELL + GAP), HEADER + len(labels) * (CELL + GAP)), "white")
    pen = ImageDraw.Draw(sheet)
    for column, domain in enumerate(domains):
        pen.text((MARGIN + column * 2 * (CELL + GAP), 2), domain, fill="black")
        for row, label in enumerate(labels):
            top = HEADER + row * (CELL + GAP)
            pen.text((2, top + CELL // 2 - 6), label, fill="black")
            own = [image for image in free if image.startswith(f"{domain}/{label}/")]
            for place, image in enumerate(own[:: max(1, len(own) // 2)][:2]):
                shown.append(free[image])
                picture = Image.open(folder / image).resize((CELL, CELL), Image.Resampling.LANCZOS)
                sheet.paste(picture, (MARGIN + (2 * column + place) * (CELL + GAP), top))
    buffer = io.BytesIO()
    sheet.quantize(128).save(buffer, "PNG", optimize=True)
    write_atomically(path, buffer.getvalue())
    return sorted(set(shown))


# the tables -----------------------------------------------------------------------------------------------------------


ROOT = Path(__file__).resolve().parent.parent


def read_built() -> dict[str, Any]:
    """The record that the package carries."""
    built: dict[str, Any] = json.loads((ROOT / BUILT).read_text("utf-8"))
    return built


def counts(_: Path) -> str:
    """Images by domain and class; domains that only --more builds say so."""
    domains = read_built()["domains"]
    labels = sorted({label for domain in domains.values() for label in domain["classes"]})
    rows = tuple(
        (
            name + (" (with --more)" if name in RULES["more"] else ""),
            *(f"{domain['classes'].get(label, 0)}" for label in labels),
            f"{sum(domain['classes'].values()):,}",
            domain["sha256"][:12],
        )
        for name, domain in sorted(domains.items(), key=lambda item: (item[0] in RULES["more"], item[0]))
    )
    versions = ", ".join(f"{name} {version}" for name, version in read_built()["drawn_with"].items())
    notes = (f"SHA-256 of a domain's images, names and bytes, as drawn with {versions}.",)
    return to_markdown(Table("counts", ("domain", *labels, "all", "SHA-256"), rows, notes), with_title=False)


def archives(_: Path) -> str:
    """Sources and licences."""
    rows = tuple(
        (
            about["sources"][0].partition(":")[2],
            {"npm": "npm", "apt": "Debian"}[about["sources"][0].partition(":")[0]],
            f"{about['bytes'] / 1e6:.1f}",
            about["credit"]["author"],
            about["credit"]["licence"],
            about["credit"]["source"],
        )
        for about in RULES["archives"].values()
    )
    licences = read_built()["licences"]
    listed = ", ".join(f"{licence} {count}" for licence, count in sorted(licences.items(), key=lambda item: -item[1]))
    columns = ("package", "from", "MB", "pictures by", "licence", "origin")
    return to_markdown(Table("archives", columns, rows, (f"Images by licence: {listed}.",)), with_title=False)


def splits(evidence: Path) -> str:
    """What a split lets the model see of the target's concepts."""
    found = read_record(evidence / "open_styles.json", OpenStyles)
    if found is None:
        return NOT_MEASURED
    rows = tuple(
        (
            row.target,
            f"{row.domainbed:,}",
            f"{row.domainbed_shared:,}",
            f"{row.concepts:,}",
            f"{row.concepts_shared:,}",
        )
        for row in found.rows
    )
    columns = (
        "target",
        "`domainbed`: asked",
        "of a concept trained on",
        "`concepts`: asked",
        "of a concept trained on",
    )
    return to_markdown(Table("splits", columns, rows, (f"Images; trial seed 0, `{found.command}`.",)), with_title=False)


def sheet(evidence: Path) -> str:
    """Whose pictures the contact sheet shows."""
    found = read_record(evidence / "open_styles.json", OpenStyles)
    return NOT_MEASURED if found is None else f"Pictures by {'; '.join(found.shown)}."


BLOCKS = {
    "open-styles-archives": archives,
    "open-styles-counts": counts,
    "open-styles-sheet": sheet,
    "open-styles-splits": splits,
}
