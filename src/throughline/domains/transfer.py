"""Writes an archive's images as a folder `<domain>/<class>/<image>`, or as a table of images that stay where they are;
and a view of an image set as such a folder.

Bytes stay as they are where no pixel changes. What is cut out of a JPEG is saved as a JPEG of quality 95, everything
else that changes as PNG, without loss. `throughline data import` and `data corrupt` call this.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image, ImageFile, ImageOps

from throughline.core.errors import ThroughlineError
from throughline.core.files import in_threads, write_atomically
from throughline.domains.archives import Archive, Box
from throughline.domains.benchmarks import write_rows
from throughline.domains.images import ImageError, bits_in_use, image_bytes, image_fault, load_image
from throughline.domains.manifests import manifest_rows
from throughline.domains.samples import ImageSet, on_disk
from throughline.domains.tables import beside, image_table
from throughline.domains.views import View, load_sample, view_of

Report = Callable[[int, int | None], None]
JPEG_QUALITY = 95


def write_table(archive: Archive, out: Path) -> None:
    """Lists the images in the CSV file `out`, with paths relative to its folder.

    Raises a ThroughlineError where it is there already, and where images do not lie below its folder.
    """
    if archive.table.pictures is not None:
        raise ThroughlineError("the images are inside the source, a table cannot name them", out, "name a folder")
    if any(row.get("previous") for row in archive.rows):
        raise ThroughlineError("two images become one picture, a table cannot name that", out, "name a folder")
    write_atomically(out, image_table(beside(out, archive.folder, archive.rows)))


def find_truncated(archive: Archive, fill: bool, report_progress: Report) -> set[Path]:
    """Decodes every image; gives the truncated ones. Raises a ThroughlineError for one that cannot be read, and, unless
    they are to be filled, for a truncated one. Images inside a table are not looked at.
    """
    rows = () if archive.table.pictures is not None else archive.rows
    images = dict.fromkeys(row[kind] for row in rows for kind in ("image", "previous") if row.get(kind))
    truncated, paths = [], [on_disk(archive.folder, image) for image in images]
    for number, (path, fault) in enumerate(zip(paths, in_threads(image_fault, paths), strict=True), start=1):
        if fault is not None:
            if fault.kind != "truncated":
                raise fault
            truncated.append(path)
        report_progress(number, len(paths))
    if truncated and not fill:
        remedy = "`--truncated fill` reads what is there, as DomainBed does"
        raise ThroughlineError(f"truncated images: {len(truncated):,}, this one first", truncated[0], remedy)
    return set(truncated)


def write_folder(
    archive: Archive, out: Path, truncated: Collection[Path], margin: float, scale: bool, report_progress: Report
) -> None:
    """Writes the images into the new folder `out`; a run that was stopped continues.

    The missing part of a `truncated` image is filled as Pillow fills it. A crop is larger than its box by `margin`, a
    share of width and height, on each side. With `scale`, 16-bit grey is multiplied so that the bits in use in its
    domain become 16: sites differ in their cameras.
    """
    pictures: Iterable[Mapping[str, Any]]
    if archive.table.pictures is not None:
        numbered = enumerate(archive.table.pictures)
        rows = {int(row["image"]): row for row in archive.rows}
        pictures = ({**rows[number], "image": image} for number, image in numbered if number in rows)
    else:
        pictures = _pictures(archive, truncated, _bits(archive) if scale else {}, margin)
    write_rows(pictures, out, on_image=lambda done: report_progress(done, len(archive.rows)))


def write_view(images: ImageSet, view: View, out: Path, report_progress: Report) -> int:
    """Writes every image as the view shows it into the new folder `out`, as PNG, and returns their count; a run that
    was stopped continues. `out/images.csv` says by `parent_id` which image each was made from.
    """
    rows = (
        {
            **row,
            "image": {
                "bytes": image_bytes(load_sample(view_of(sample, view))),
                "path": f"{PurePosixPath(sample.id).stem}.png",
            },
            "parent_id": sample.id,
            "image_sha256": "",
        }
        for sample, row in zip(images.samples, manifest_rows(images, images.samples), strict=True)
    )
    return write_rows(rows, out, on_image=lambda done: report_progress(done, len(images.samples)))


def _pictures(
    archive: Archive, truncated: Collection[Path], bits: Mapping[Path, int], margin: float
) -> Iterator[Mapping[str, Any]]:
    @lru_cache(maxsize=1)  # the crops of an image follow each other
    def pixels(path: Path) -> Image.Image:
        before = ImageFile.LOAD_TRUNCATED_IMAGES  # of all threads: no other one may be reading now
        ImageFile.LOAD_TRUNCATED_IMAGES = before or path in truncated
        try:
            return _scaled(path, bits[path]) if path in bits else load_image(path)
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = before

    for row, box in zip(archive.rows, archive.boxes or [None] * len(archive.rows), strict=True):
        path, name = on_disk(archive.folder, row["image"]), PurePosixPath(row["image"])
        if row.get("previous"):
            both = pixels(on_disk(archive.folder, row["previous"])), pixels(path)
            data, name = image_bytes(_beside(*both)), name.with_suffix(".png")
        elif box is None and path not in truncated and path not in bits:
            data = path.read_bytes()
        else:
            lossy = box is not None and name.suffix.lower() in (".jpg", ".jpeg")
            image = pixels(path) if box is None else _cut(pixels(path), box, margin)
            data = image_bytes(image, JPEG_QUALITY if lossy else None)
            name = name if lossy else name.with_suffix(".png")
        yield {**row, "image": {"bytes": data, "path": name.name}}


def _beside(left: Image.Image, right: Image.Image) -> Image.Image:
    """Both in one picture of the right one's height."""
    left = left.resize((max(1, round(left.width * right.height / left.height)), right.height), Image.Resampling.LANCZOS)
    picture = Image.new("RGB", (left.width + right.width, right.height))
    picture.paste(left, (0, 0))
    picture.paste(right, (left.width, 0))
    return picture


def _bits(archive: Archive) -> dict[Path, int]:
    """For each 16-bit image the bits that those of its domain use together, where these are not all 16."""
    domains = {on_disk(archive.folder, row["image"]): row["domain"] for row in archive.rows}
    most: dict[str, int] = {}
    deep = []
    for path, bits in zip(domains, in_threads(bits_in_use, domains), strict=True):
        if bits is not None:
            deep.append(path)
            most[domains[path]] = max(bits, most.get(domains[path], 0))
    return {path: most[domains[path]] for path in deep if 0 < most[domains[path]] < 16}


def _scaled(path: Path, bits: int) -> Image.Image:
    with Image.open(path) as image:
        if not image.mode.startswith("I"):
            what = "only the high byte of 16-bit colour can be read, so it cannot be scaled"
            raise ImageError("unreadable", what, path, "save it with 8 bits")
        values = np.asarray(ImageOps.exif_transpose(image)).astype(float)
    return Image.fromarray(np.rint(values * 65535 / (2**bits - 1)).astype(np.uint16))


def _cut(image: Image.Image, box: Box, margin: float) -> Image.Image:
    """The box with its margin, in whole pixels, as far as it lies inside the image."""
    (left, top, width, height), (columns, rows) = box, image.size
    corners = (
        max(0, math.floor((left - margin * width) * columns)),
        max(0, math.floor((top - margin * height) * rows)),
        min(columns, math.ceil((left + (1 + margin) * width) * columns)),
        min(rows, math.ceil((top + (1 + margin) * height) * rows)),
    )
    return image.crop(corners)
