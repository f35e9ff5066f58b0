"""Builds open_styles: gets the archives, draws every picture, writes the set with its card. `data fetch` calls it."""

import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Mapping
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Template

from throughline.core.files import in_threads
from throughline.domains.benchmarks import write_rows
from throughline.domains.fetching.sources import CACHE, Package, files_by_hash, obtain
from throughline.domains.fetching.unpacking import unpack
from throughline.domains.open_styles.drawing import draw
from throughline.domains.open_styles.pictures import RULES, find_pictures

CARD, CREDITS, RECORD = "CARD.md", "ATTRIBUTION.csv", "open_styles.json"
"""What lies beside the domains' folders: for people, for each image, for programs."""
CREDITED = ["image", "group", "archive", "file", "author", "licence", "source", "scene"]

Report = Callable[[int, int], None]
"""Told how many pictures are drawn, of how many."""


def build_open_styles(
    out: Path, report: Report, archives: Path | None = None, more: bool = False, cache: Path = CACHE
) -> dict[str, Any]:
    """Writes the set into the new folder `out` and gives its record, which `open_styles.json` there holds, too.

    `archives` is a folder with archives that the user has; the others are downloaded into `cache`. `more` adds the
    further families of emoji. Raises a ThroughlineError for an archive that cannot be had, and for a place that cannot
    be written.
    """
    import pandas  # slow to load, and no other command about images needs it

    pictures = list[dict[str, Any]]()
    wanted = {name: a for name, a in RULES["archives"].items() if more or name not in RULES["more"].values()}
    given = None if archives is None else files_by_hash(archives)
    with tempfile.TemporaryDirectory() as scratch:
        folders = {name: Path(scratch, name) for name in wanted}
        for name, about in wanted.items():
            archive = obtain(Package(name, about["sha256"], about["bytes"], tuple(about["sources"])), cache, given)
            for file in unpack(archive, folders[name], re.compile(about["files"]).search):
                if file.suffix == ".rcc":
                    unpack(folders[name] / file, folders[name])
        found = list(find_pictures(folders))
    for picture, png in zip(found, in_threads(draw, found), strict=True):
        picture["image"] = "/".join(picture[key] for key in ("domain", "label", "name")) + ".png"
        pictures.append(picture | {"png": png, "sha256": hashlib.sha256(png).hexdigest()})
        report(len(pictures), len(found))
    table = pandas.DataFrame(pictures)
    record = _record(table, wanted)
    card = Template(resources.files(__package__).joinpath("card.md.jinja").read_text("utf-8"), trim_blocks=True)
    texts = {
        CARD: card.render(record, archives=wanted),
        CREDITS: table[CREDITED].to_csv(index=False, lineterminator="\n"),
        RECORD: json.dumps(record, indent=2, sort_keys=True) + "\n",
    }
    rows = (picture | {"image": {"bytes": picture["png"], "path": picture["image"]}} for picture in pictures)
    write_rows(rows, out, beside=texts)
    return record


def _record(table: Any, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Content alone: the same archives and versions give the same record. `table` has a row for each image."""
    shared = table.group.ne("") & table.groupby("group").domain.transform("nunique").gt(1)
    domains = {}
    for domain, own in table.groupby("domain"):
        lines = "".join(f"{image} {sha256}\n" for image, sha256 in sorted(zip(own.image, own.sha256, strict=True)))
        domains[domain] = {
            "classes": own.label.value_counts().to_dict(),
            "shares_concept": int(shared[own.index].sum()),
            "sha256": hashlib.sha256(lines.encode()).hexdigest(),
        }
    return {
        "drawn_with": {name: version(name) for name in ("resvg-py", "pillow")},
        "archives": {name: [about["credit"]["licence"], about["sha256"]] for name, about in wanted.items()},
        "images": len(table),
        "scenes": int(table.scene.sum()),
        "licences": table.licence.value_counts().to_dict(),
        "domains": domains,
    }


def compared(record: Mapping[str, Any]) -> str:
    """In words, whether a build's images are those of the documented one (`built.json`), and if not, what drew them."""
    built = json.loads(resources.files(__package__).joinpath("built.json").read_text("utf-8"))
    other = [name for name, own in record["domains"].items() if own["sha256"] != built["domains"][name]["sha256"]]
    here, there = (", ".join(f"{name} {v}" for name, v in one["drawn_with"].items()) for one in (record, built))
    what = f"other bytes than documented in {', '.join(other)}: drawn with {here}, there with {there}"
    return what if other else "the same bytes as documented"
