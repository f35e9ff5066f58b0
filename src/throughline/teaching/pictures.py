"""Images on their way to an endpoint: scaled and encoded once for all candidates of an image, the media type right.

An ordinary file that is small enough and upright goes as it is; anything else, a view too, becomes a JPEG as
`domains.views` opens it. No name travels with it, and no comment, caption or EXIF inside it: they may tell the label.
"""

import base64
from pathlib import Path

from PIL import Image

from throughline.domains.images import image_bytes
from throughline.domains.samples import Sample
from throughline.domains.views import load_sample

MEDIA_TYPES = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
"""What every endpoint takes; by Pillow's name of the format, which read from the bytes, not the file's name."""
_SILENT = {"jfif", "jfif_version", "jfif_unit", "jfif_density", "dpi", "gamma", "srgb", "chromaticity"}
_SILENT |= {"progressive", "progression", "adobe", "adobe_transform", "loop", "background", "timestamp", "duration"}
"""What Pillow finds in a file beside its pixels and that holds no words."""
_MOST_BYTES = 1_000_000
_JPEG_QUALITY = 92


def data_url(sample: Sample, side: int) -> str:
    """The image as a data URL, no side of it over `side` pixels.

    Raises an ImageError, naming the file, when the image cannot be read whole.
    """
    picture = load_sample(sample)  # also where the file goes as it is: a broken image must not be paid for
    data, media_type = sample.path.read_bytes(), None if sample.view else _media_type_as_it_is(sample.path, side)
    if media_type is None:
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
        picture.info = {}  # Pillow would write a comment again
        data, media_type = image_bytes(picture, _JPEG_QUALITY), MEDIA_TYPES["JPEG"]
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def _media_type_as_it_is(path: Path, side: int) -> str | None:
    """The media type of a file that can go as it is; None for one that has to be encoded anew."""
    with Image.open(path) as image:
        plain = image.mode in {"RGB", "L"} and not image.has_transparency_data and set(image.info) <= _SILENT
        still = getattr(image, "n_frames", 1) == 1 and not image.getexif()
        small = max(image.size) <= side and path.stat().st_size <= _MOST_BYTES
        return MEDIA_TYPES.get(image.format or "") if plain and still and small else None
