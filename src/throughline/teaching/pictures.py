"""Images on their way to an endpoint: scaled and encoded once for all candidates of an image, the media type right.

An ordinary file that is small enough and upright goes as it is; anything else becomes a JPEG as `domains.images` reads
it. No name travels with it, and no comment, caption or EXIF inside it: they may tell the label.
"""

import base64
import io
from functools import lru_cache
from pathlib import Path

from PIL import Image

from throughline.domains.images import load_image

MEDIA_TYPES = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
"""What every endpoint takes; by Pillow's name of the format, which read from the bytes, not the file's name."""
_SILENT = {"jfif", "jfif_version", "jfif_unit", "jfif_density", "dpi", "gamma", "srgb", "chromaticity"}
_SILENT |= {"progressive", "progression", "adobe", "adobe_transform", "loop", "background", "timestamp", "duration"}
"""What Pillow finds in a file beside its pixels and that holds no words."""
_MOST_BYTES = 1_000_000
_JPEG_QUALITY = 92


class PictureBook:
    """`data_url(path)` for images no side of which is over `side` pixels; keeps the last `kept` of them."""

    def __init__(self, side: int, kept: int) -> None:
        self.side = side
        self.data_url = lru_cache(maxsize=kept)(self._data_url)

    def _data_url(self, path: Path) -> str:
        """Raises an ImageError, naming the file, when the image cannot be read whole."""
        picture = load_image(path)  # also where the file goes as it is: a broken image must not be paid for
        data, media_type = self._as_it_is(path) or self._encoded(picture)
        return f"data:{media_type};base64,{base64.b64encode(data).decode()}"

    def _as_it_is(self, path: Path) -> tuple[bytes, str] | None:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            plain = image.mode in {"RGB", "L"} and not image.has_transparency_data and set(image.info) <= _SILENT
            still = getattr(image, "n_frames", 1) == 1 and not image.getexif()
            small = max(image.size) <= self.side and len(data) <= _MOST_BYTES
            if image.format in MEDIA_TYPES and plain and still and small:
                return data, MEDIA_TYPES[image.format]
        return None

    def _encoded(self, picture: Image.Image) -> tuple[bytes, str]:
        picture.thumbnail((self.side, self.side), Image.Resampling.LANCZOS)
        picture.info = {}  # Pillow would write a comment again
        buffer = io.BytesIO()
        picture.save(buffer, format="JPEG", quality=_JPEG_QUALITY)
        return buffer.getvalue(), MEDIA_TYPES["JPEG"]
