"""Opens one image file as 8-bit RGB, in the one way that training, evaluation and the checks share; a sample is opened
by `views.load_sample`.

In this order: the first frame is taken; EXIF orientation is applied; 16-bit grey is divided by 257 and
rounded (65535 becomes 255, whatever number of bits is in use: `bits_in_use` tells; Pillow itself reads 16-bit
colour as the high byte); transparency (alpha, or a
transparent palette entry) is composited on white; palette, grey, CMYK and YCbCr become RGB as Pillow
converts them, colour profiles are ignored. 32-bit integers beyond 16 bits and floats have no agreed scale
and are refused.
"""

import contextlib
import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from throughline.core.errors import ThroughlineError

# Pillow's own threshold (a quarter of a gigabyte of 24-bit pixels): beyond it a small file can fill the memory.
MAX_PIXELS = 178_956_970
# Pillow warns at the limit that `load_image` turns into an error.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)


class ImageError(ThroughlineError):
    """A file that cannot be used as an image; `kind` is empty, truncated, unreadable, too_many_pixels or, for a view,
    too_small."""

    def __init__(self, kind: str, what: str, where: Path, do: str = "repair or remove it") -> None:
        self.kind = kind
        super().__init__(what, where, do)


def load_image(path: Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The image as 8-bit RGB, upright. Raises an ImageError naming the file when it cannot be had whole."""
    try:
        if path.exists() and not path.is_file():  # opening a named pipe would block for ever
            raise ImageError("unreadable", "not a regular file", path)
        if path.stat().st_size == 0:
            raise ImageError("empty", "the file has zero bytes", path)
        with Image.open(path) as image:
            if image.width * image.height > max_pixels:  # from the header, before any pixel is decoded
                raise _too_many_pixels(path, max_pixels, f"{image.width} x {image.height}")
            return _to_rgb(ImageOps.exif_transpose(image), path)
    except (ThroughlineError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise _too_many_pixels(path, max_pixels) from error
    except UnidentifiedImageError as error:
        raise ImageError("unreadable", "not an image that can be read", path) from error
    except Exception as error:  # decoders raise SyntaxError, ValueError, struct.error and more on broken bytes
        if isinstance(error, EOFError) or "truncated" in str(error).lower():
            raise ImageError("truncated", "the image is truncated", path) from error
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ImageError("unreadable", f"cannot read the image ({reason or type(error).__name__})", path) from error


def image_bytes(image: Image.Image, jpeg_quality: int | None = None) -> bytes:
    """The image as the content of a PNG file, or of a JPEG file of this quality."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG" if jpeg_quality is None else "JPEG", quality=jpeg_quality)
    return buffer.getvalue()


def bits_in_use(path: Path) -> int | None:
    """Bits of the largest value in a 16-bit image, at most 16; None for other images and for what cannot be read."""
    if not path.is_file():  # opening a named pipe would block for ever
        return None
    with contextlib.suppress(Exception), Image.open(path) as image:  # `load_image` says why it cannot be read
        grey = image.mode.startswith("I")
        if grey or ";16" in str(image.tile):
            largest = max(np.ravel(image.getextrema())[1:6:2])  # of each colour; of a colour Pillow keeps the high byte
            return min(16, int(largest).bit_length() + (0 if grey else 8))
    return None


def image_fault(path: Path, max_pixels: int = MAX_PIXELS) -> ImageError | None:
    """Why `load_image` cannot have the image; None where it can."""
    try:
        load_image(path, max_pixels)
    except ImageError as error:
        return error
    return None


def _too_many_pixels(path: Path, max_pixels: int, size: str = "the image") -> ImageError:
    return ImageError("too_many_pixels", f"{size} has more than {max_pixels:,} pixels", path, "make it smaller")


def _to_rgb(image: Image.Image, path: Path) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ImageError("unreadable", "32-bit values have no agreed scale", path, "save it with 8 or 16 bits")
        image = Image.fromarray(np.rint(values / 257).astype(np.uint8))
    elif image.mode == "F":
        raise ImageError("unreadable", "float values have no agreed scale", path, "save it with 8 or 16 bits")
    elif image.has_transparency_data:
        colour = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", colour.size, "white"), colour)
    return image.convert("RGB")
