"""Reads an archive of labelled images as it lies into rows: camera traps in COCO's form, a CSV of any form, Parquet
with paths or with the images themselves, DrugOOD's molecules, a folder. What becomes no row is counted, by the reason.

`throughline data import` calls this, and `transfer` to write what came out.
"""

import contextlib
import itertools
import json
import posixpath
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PureWindowsPath
from textwrap import shorten
from typing import Any

from throughline.core.errors import ThroughlineError
from throughline.core.nearest import did_you_mean
from throughline.domains.folders import require_unicode, with_slashes
from throughline.domains.listing import is_folder_name, is_parquet, is_there, list_folder
from throughline.domains.molecules import read_molecules
from throughline.domains.tables import COLUMNS, Row, TableRows, fill, labels_of, read_csv, read_parquet, read_text, used

KNOWN = {
    "image": ("image", "filename", "file_name"),
    "domain": ("domain", "location_remapped", "location"),
    "label": ("label", "category", "category_name", "name", "y", "category_id"),
    "group": ("group", "seq_id", "sequence_remapped"),
    "class_name": ("class_name",),
    "labels": ("labels",),
    "report": ("report",),
}
"""Columns that need not be named: the project's own, and those of iWildCam (WILDS' metadata.csv, Kaggle's)."""
FORMS = "COCO Camera Traps JSON, DrugOOD JSON, CSV, Parquet, or a folder <domain>/<class>/<image>"
# So many images are looked for until one is there; the others lie as that one does.
LOOKED_FOR = 1000

Box = tuple[float, float, float, float]
"""Left, top, width and height as shares of the upright image."""


@dataclass(frozen=True)
class Form:
    """How an official archive is read: its main file, and for our columns its columns or templates of them; `lookups`
    replace a value by what a file beside it says: file, its columns for key and value, and what all other keys are;
    `values` replace it by another. `benchmarks` has them as data."""

    source: str
    columns: Mapping[str, str]
    lookups: Mapping[str, Sequence[str]] = field(default_factory=dict)
    values: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    beside: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Further tables, each row of which says more about those of the main file: its column, and what that is there."""
    marked: Sequence[str] = ()
    """Columns whose 1 says that the image is of the class that they are called by: the column `marked` names these."""
    each: str = ""
    """Suffix of answer columns. Every non-empty cell of such a column becomes a row: `column` is the column's name
    without the suffix, `cell` its text."""

    def reshape(self, rows: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
        """The rows of a table with what these say of them; other files lie in `folder`."""
        for file, (key, own) in self.beside.items():
            found = {
                row[key]: row for row in read_csv(folder / file, lambda names: {name: name for name in names}).rows
            }
            blank = dict.fromkeys(next(iter(found.values()), ()), "")
            rows = [{**blank, **row, **found.get(fill(own, row), {})} for row in rows]
        if self.marked:
            marks = ("1", "1.0")
            rows = [row | {"marked": "|".join(name for name in self.marked if row.get(name) in marks)} for row in rows]
        if self.each:
            ends = [name for name in rows[0] if name.endswith(self.each)] if rows else []
            rows = [
                row | {"column": name.removesuffix(self.each), "cell": row[name]}
                for row in rows
                for name in ends
                if row[name]
            ]
        return rows


@dataclass
class Archive:
    """What a source lists: one row for each image, or for each box of `boxes` where they are cut out.

    An image's path begins in `folder`; where the images are in the table itself, it is the number of its row in
    `files`. `left_out` counts images by the reason.
    """

    table: TableRows
    files: Sequence[Path]
    folder: Path
    rows: list[Row]
    left_out: Counter[str] = field(default_factory=Counter)
    boxes: Sequence[Box | None] = ()
    notes: list[str] = field(default_factory=list)
    """How the source was read."""

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Images by domain and class, both in sorted order."""
        tally = Counter((row["domain"], label) for row in self.rows for label in labels_of(row))
        domains, labels = ({names[place] for names in tally} for place in (0, 1))
        return {domain: {label: tally[domain, label] for label in sorted(labels)} for domain in sorted(domains)}

    def require_images(self) -> None:
        """Raises a ThroughlineError that says what was left out when nothing else was there."""
        if not self.rows:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.left_out.items() if count)
            raise ThroughlineError(f"no image is left: {reasons or 'none is listed'}", self.files[0])


def read_archive(
    source: Path,
    columns: Mapping[str, str],
    separator: str | None = None,
    encoding: str | None = None,
    images: Path | None = None,
    without: Sequence[str] = (),
    form: Form | None = None,
) -> Archive:
    """The images of `source`, whose form is told by its content.

    `columns` names a table's columns where they are neither in `form` nor in `KNOWN`; one may be a template such as
    `{image_id}.jpg`, in which `{row}` is the row's number from 0. `images` is where its paths begin; by default its
    own folder, or the first folder in it that holds them. Images of the classes `without` are left out; so is an image
    without domain or label, with several, or whose file is not there. Raises a ThroughlineError for a source in no
    known form, a path that leads out of `images`, a domain or class that can be no folder, and when nothing is left.
    """
    form, given = form or Form("", {}), columns
    columns = {**form.columns, **given}
    choose = partial(_choose_columns, source, columns)
    files, base, left_out = [source], source.parent, Counter[str]()
    if source.is_dir():
        listing = list_folder(source)
        left_out["outside <domain>/<class>"] = len(listing.misplaced)
        files, base = ([] if listing.samples else sorted(source.rglob("*.parquet"))), source
    elif not source.is_file():
        raise ThroughlineError("no such file or folder", source, f"what is read: {FORMS}")
    scenes = [] if files or listing.samples else sorted(source.glob("*_*.json"))
    if given and not files:
        raise ThroughlineError("a folder of images has no columns", source, "leave --columns out")
    if scenes:
        table = _read_scenes(scenes, columns)
    elif not files:
        rows = [{"image": sample.id, "domain": sample.domain, "label": sample.label} for sample in listing.samples]
        table = TableRows("folder <domain>/<class>/<image>", {}, rows)
    elif is_parquet(files[0]):
        table = read_parquet(files, choose)
    elif read_text(source, encoding)[0].lstrip().startswith("{"):
        table = _read_json(source, columns)
    else:
        table = read_csv(source, choose, separator, encoding, lambda rows: form.reshape(rows, base))
        with contextlib.suppress(ThroughlineError):  # iWildCam's classes are numbers
            table = _looked_up(table, "label", base / "categories.csv", table.columns["label"], "name")
    for ours, (file, *how) in form.lookups.items():
        table = _looked_up(table, ours, base / file, *how)
    for ours, values in form.values.items():
        table = replace(table, rows=[{**row, ours: _replaced(row[ours], values)} for row in table.rows])
    archive = _archive_of(table, files or [source], images or base, guess=images is None)
    archive.left_out += left_out
    for name in without:
        known = sorted({label for row in archive.rows for label in labels_of(row)})
        if name not in known:
            raise ThroughlineError(f"no class named {name}", source, did_you_mean(name, known, "the classes"))
        archive.left_out[f"of class {name}"] += sum(name in labels_of(row) for row in archive.rows)
        archive.rows = [row for row in archive.rows if name not in labels_of(row)]
    archive.require_images()
    return archive


def crop_to_boxes(archive: Archive, file: Path, category: str, min_confidence: float) -> None:
    """Puts a row for each of MegaDetector's detections of `category` in the place of its image: all of them show the
    image's one class. Images without a detection that sure are left out. A crop's group is its image's, else the image.

    Raises a ThroughlineError for a file in another form, and where it is about none of the images.
    """
    with _reading("MegaDetector's JSON", file) as results:
        numbers = {name: number for number, name in results["detection_categories"].items()}
        if category not in numbers:
            raise ThroughlineError(f"no category named {category}", file, did_you_mean(category, numbers, "they"))
        boxes: dict[str, list[Box]] = {}
        for image in results["images"]:
            inside = boxes.setdefault(posixpath.normpath(image["file"].replace("\\", "/")), [])
            for detection in image.get("detections") or ():  # none where the detector failed
                left, top, width, height = detection["bbox"]
                shown = min(width, height, left + width, top + height) > 0 and max(left, top) < 1
                if shown and detection["category"] == numbers[category] and detection["conf"] >= min_confidence:
                    inside.append((left, top, width, height))
    _, start = _locate([*boxes], archive.folder, guess=False)
    boxes = {image.removeprefix(start): inside for image, inside in boxes.items()}
    archive.left_out[f"not in {file}"] = sum(row["image"] not in boxes for row in archive.rows)
    archive.left_out["without a detection"] = sum(boxes.get(row["image"]) == [] for row in archive.rows)
    found = [(row, box) for row in archive.rows for box in boxes.get(row["image"], ())]
    archive.rows = [{**row, "group": row.get("group") or row["image"]} for row, _ in found]
    archive.boxes = [box for _, box in found]
    archive.require_images()


# forms --------------------------------------------------------------------------------------------------------------


def _choose_columns(source: Path, given: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    for column in (name for source_column in given.values() for name in used(source_column)):
        if column not in (*names, "row"):
            raise ThroughlineError(f"no column named {column}", source, did_you_mean(column, names, "the columns"))
    known = {ours: next((name for name in theirs if name in names), "") for ours, theirs in KNOWN.items()}
    known["label"] = given.get("labels") or known["label"]
    chosen = {ours: name for ours, name in {**known, **given}.items() if name}
    for ours in COLUMNS:
        if ours not in chosen:
            what = f"nothing says which column is the {ours} (found: {shorten(', '.join(names), 300) or 'none'})"
            raise ThroughlineError(what, source, f"name it with --columns {ours}=COLUMN; what is read: {FORMS}")
    return chosen


@contextlib.contextmanager
def _reading(form: str, path: Path) -> Iterator[Any]:
    """The content of a JSON file. What is not there, or another thing than it should be, is an error that names the
    form.
    """
    try:
        yield json.loads(read_text(path)[0])
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        fault = f"{type(error).__name__}: {error}"
        raise ThroughlineError(f"not {form} ({fault})", path, "give a file in that form") from error


def _read_json(source: Path, given: Mapping[str, str]) -> TableRows:
    """Of camera traps a row for each category of an image; of an image without one, a row without a label. `given`
    columns are keys of an image.
    """
    columns = {"image": "file_name", "domain": "location", "group": "seq_id", **given}
    labels: dict[object, set[str]] = defaultdict(set)
    with _reading("COCO Camera Traps JSON with images, annotations and categories, or DrugOOD's", source) as traps:
        if "split" in traps:
            return read_molecules(traps, given)
        names = {category["id"]: category for category in traps["categories"]}
        for annotation in traps["annotations"]:
            labels[annotation["image_id"]].add(fill("name", names.get(annotation["category_id"], {})))
        rows = [
            {**{ours: fill(theirs, image) for ours, theirs in columns.items()}, "label": label}
            for image in traps["images"]
            for label in labels.get(image["id"], {""})
        ]
    return TableRows("COCO Camera Traps JSON", {**columns, "label": "category"}, rows)


def _read_scenes(files: Sequence[Path], columns: Mapping[str, str]) -> TableRows:
    """Of CODA-LM's folder, which has a file for each image, `test_0001.json` for `test/images/0001.jpg`: the categories
    of the regions that are described are its labels, and the driving suggestion its report."""
    rows = []
    for file in files:
        split, _, number = file.stem.partition("_")
        with _reading("CODA-LM's JSON", file) as scene:
            found = "|".join(sorted({region["category_name"] for region in scene["region_perception"].values()}))
            row = {"image": f"{split}/images/{number}.jpg", "domain": f"coda_{split}", "label": found, "labels": found}
            rows.append(row | {"report": str(scene.get("driving_suggestion") or "")})
    return TableRows("CODA-LM's JSON", columns, rows)


def _looked_up(table: TableRows, ours: str, file: Path, key: str, value: str, *others: str) -> TableRows:
    """The table with a column's values replaced by what another file calls them."""
    names = {row["key"]: row["value"] for row in read_csv(file, lambda _: {"key": key, "value": value}).rows}
    rows = [{**row, ours: names.get(row[ours], *others or [row[ours]])} for row in table.rows]
    return (
        table if rows == table.rows else replace(table, form=f"{table.form}, {ours} names from {file.name}", rows=rows)
    )


def _replaced(text: str, values: Mapping[str, str]) -> str:
    """A cell, or each of several labels in it, replaced where there is something to replace it by."""
    return "|".join(values.get(part, part) for part in text.split("|"))


# rows ---------------------------------------------------------------------------------------------------------------


def _archive_of(table: TableRows, files: Sequence[Path], base: Path, guess: bool) -> Archive:
    def path_of(row: Row, kind: str) -> str:
        return posixpath.normpath(with_slashes(row[kind], base)) if row.get(kind) else ""

    paths = [path_of(row, "image") for row in table.rows]
    inside = table.pictures is not None
    folder, start = (base, "") if inside else _locate(paths, base, guess)
    archive = Archive(table, files, folder, [])
    archive.notes = [f"{table.form}: {', '.join(map('='.join, table.columns.items()))}".removesuffix(": ")]
    archive.notes += [] if inside else [f"images in {folder}" + (f", which is {start} there" if start else "")]
    by_image: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for number, (path, row) in enumerate(zip(paths, table.rows, strict=True), start=1):
        if not row["image"]:
            archive.left_out["without image"] += 1
            continue
        image, earlier = path.removeprefix(start), path_of(row, "previous").removeprefix(start)
        for kind, name in (("image", image), ("previous", earlier)):
            if name.split("/")[0] == ".." or _is_absolute(name):
                what = f"row {number} names {row[kind]}, outside the folder of the images"
                raise ThroughlineError(what, folder, "name the folder that holds them all with --images")
            require_unicode(name, folder)
        # the same two images may be compared in several ways, each a domain
        kept = {**row, "image": image} | ({"previous": earlier} if earlier else {})
        by_image[image, row["domain"] if earlier else ""].append(kept)
    for (image, _), rows in by_image.items():
        lacking = next((kind for kind in ("domain", "label") if not any(row[kind] for row in rows)), None)
        if lacking:
            archive.left_out[f"without {lacking}"] += 1
        elif len({(row["domain"], row["label"]) for row in rows}) > 1:
            archive.left_out["with several labels or domains"] += 1
        elif inside or all(is_there(folder, name) for name in (image, rows[0].get("previous") or image)):
            archive.rows.append(rows[0])
        else:
            archive.left_out[f"not in {folder}"] += 1
    for name in dict.fromkeys(row[kind] for row in archive.rows for kind in ("domain", "label")):
        if not is_folder_name(name):
            raise ThroughlineError(f"{name!r} cannot be the name of a folder", files[0], "rename it there")
    return archive


def _locate(paths: Sequence[str], base: Path, guess: bool) -> tuple[Path, str]:
    """The folder that holds the images, and what stands for it in absolute paths of another machine: as many of their
    first parts as it takes until a file is there. With `guess`, a folder in `base` may be the one.
    """
    folders = [base, *sorted(path for path in base.glob("*") if path.is_dir())] if guess else [base]
    absolute = [path for path in paths if _is_absolute(path)]
    for path in (absolute or paths)[:LOOKED_FOR]:
        parts = path.split("/")
        for folder, dropped in itertools.product(folders, range(1, len(parts)) if absolute else (0,)):
            if is_there(folder, "/".join(parts[dropped:])):
                return folder, "".join(f"{part}/" for part in parts[:dropped])
    return base, ""


def _is_absolute(path: str) -> bool:
    return path.startswith("/") or PureWindowsPath(path).is_absolute()
