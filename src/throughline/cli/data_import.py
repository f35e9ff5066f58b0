"""`throughline data import`: an archive of labelled images as it lies becomes a folder or a table of images."""

from __future__ import annotations

import argparse
import shlex
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from throughline.cli.options import Shown, read_settings
from throughline.cli.progress import progress
from throughline.cli.text import count_table, counted, json_text
from throughline.core.errors import ThroughlineError, UsageError
from throughline.core.settings import Settings

if TYPE_CHECKING:
    from throughline.domains.archives import Archive

ColumnName = Annotated[str, Field(pattern="^(image|domain|label|labels|group|class_name)=.+$")]


class Import(Settings):
    """Convert labelled images (a camera-trap archive, a table, a Parquet data set of the Hugging Face Hub or a folder)
    into a folder or table that every other command reads."""

    source: Annotated[Path, Shown("SOURCE", positional=True)]
    """What is read: a COCO Camera Traps JSON file, whose locations become domains; a CSV file; a Parquet file or a
    folder of them; or a folder <domain>/<class>/<image>."""
    out: Annotated[Path, Shown("OUT", positional=True)]
    """What is written: a new folder <domain>/<class>/<image> with copies of the images; or NAME.csv, a table of images
    that stay where they are."""
    columns: Annotated[tuple[ColumnName, ...], Shown("image=A,domain=B,label=C")] = ()
    """Which columns of a table have image path, domain and label, or templates of columns such as `{image_id}.jpg`;
    also group (images that stay in one part of a split), class_name, and labels: all labels of an image, with `|`
    between them (default: guessed from the column names and printed)."""
    separator: Annotated[Literal[",", ";", "|", "tab"] | None, Shown("SIGN")] = None
    """Separator of a CSV file: `,` `;` `|` or tab (default: the one that its first line has most of)."""
    encoding: str | None = None
    """Encoding of a CSV file, such as cp1252 (default: UTF-8, UTF-16 if the file is marked so, else cp1252)."""
    form: Annotated[str | None, Shown("NAME")] = None
    """Read SOURCE as the official file of a benchmark, such as camelyon17 or ham10000 (`throughline data fetch` lists
    them); --columns go before."""
    images: Annotated[Path | None, Shown("DIR")] = None
    """Folder in which the image paths of SOURCE begin (default: SOURCE's folder, or the first folder in it that has the
    images)."""
    without: tuple[str, ...] = ()
    """Classes whose images are left out, such as empty,human."""
    boxes: Annotated[Path | None, Shown("FILE")] = None
    """Output of MegaDetector, a JSON file: every detection of --category becomes an image of its own."""
    margin: float = Field(default=0.1, ge=0, le=1)
    """With --boxes: share of a box's width and height that is added on each side."""
    min_confidence: float = Field(default=0.2, ge=0, le=1)
    """With --boxes: lowest confidence of a detection, 0 to 1."""
    category: str = "animal"
    """With --boxes: the category of the detector whose detections are taken."""
    truncated: Literal["refuse", "fill"] = "refuse"
    """What to do with truncated image files: `refuse` stops with an error, `fill` lets Pillow fill in the missing part,
    as DomainBed does."""
    scale_16bit: Literal["full", "used"] = "full"
    """Which value is white in 16-bit grey images: 65535 (`full`), or the highest value of the bits that the images of
    the domain use (`used`)."""


def import_images(arguments: argparse.Namespace) -> int:
    """Reads, crops, writes, and prints what came out."""
    from throughline.core.files import require_free_folder
    from throughline.domains.archives import crop_to_boxes, read_archive
    from throughline.domains.benchmarks import TABLE, benchmark_of
    from throughline.domains.transfer import find_truncated, write_folder, write_table

    settings = read_settings(arguments, Import)
    source, out, as_table = settings.source, settings.out, settings.out.suffix.lower() == ".csv"
    fill, scale = settings.truncated == "fill", settings.scale_16bit == "used"
    changes = fill or scale or settings.boxes is not None
    if as_table and changes:
        raise UsageError("a table copies no image and changes none", out, "name a folder for the changed images")
    if not as_table:
        require_free_folder(out)
    columns = dict(pair.split("=", 1) for pair in settings.columns)
    form = benchmark_of(settings.form).form if settings.form else None
    reading = (settings.separator, settings.encoding, settings.images, settings.without, form)
    archive = read_archive(source, columns, *reading)
    if archive.table.pictures is not None and changes:
        remedy = "import it as it is, then import the folder with these options"
        raise ThroughlineError("images inside a table cannot be changed", source, remedy)
    if settings.boxes is not None:
        crop_to_boxes(archive, settings.boxes, settings.category, settings.min_confidence)
    if as_table:
        write_table(archive, out)
    else:
        with progress("checking", "images") as report_progress:
            truncated = find_truncated(archive, fill, report_progress)
        with progress("writing", "images") as report_progress:
            write_folder(archive, out, truncated, settings.margin, scale, report_progress)
        if truncated:
            archive.notes.append(f"filled, since truncated: {counted(len(truncated), 'image')}")
    _print(archive, source, out, out / TABLE if (out / TABLE).is_file() else out, arguments.json)
    return 0


def _print(archive: Archive, source: Path, out: Path, listed: Path, as_json: bool) -> None:
    from throughline.reporting.text import to_terminal

    left_out = {reason: count for reason, count in archive.left_out.items() if count}
    total, following = len(archive.rows), f"throughline data check {shlex.quote(str(listed))}"
    if as_json:
        answer = {"source": str(source), "out": str(out), "images": total, "counts": archive.counts}
        print(json_text({**answer, "notes": archive.notes, "left_out": left_out, "next": following}))
        return
    print("\n".join(archive.notes))
    print(to_terminal(count_table(out, archive.counts, Counter(row["domain"] for row in archive.rows))))
    for reason, count in left_out.items():
        print(f"left out: {counted(count, 'image')} {reason}")
    if listed != out:
        print(f"groups, several labels and names of classes are in {listed}: name that file, and they count")
    print(f"{counted(total, 'image')} in {out}; next: {following}")
