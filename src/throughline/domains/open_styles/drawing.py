"""Draws a picture as a square: an object cropped to what is opaque, on white with a margin; a scene in its frame."""

import io

from PIL import Image

from throughline.core.errors import ThroughlineError, extra
from throughline.domains.images import image_bytes
from throughline.domains.open_styles.pictures import Picture

SIDE = 224  # pixels: what most image backbones see
MARGIN = 0.06  # of the side, on each side
DRAWN = 512  # pixels across at which an SVG is drawn; what is small on its page is drawn again, larger
OPAQUE = 8  # of 255: what is fainter is shadow or noise at the edge


def draw(picture: Picture) -> bytes:
    """The square, as a PNG."""
    content, scene = picture["content"], picture["scene"]
    vector = content.lstrip().startswith(b"<")
    image = _crop(_draw_svg(content, DRAWN) if vector else content, scene)
    if vector and max(image.size) < DRAWN / 2:
        image = _crop(_draw_svg(content, min(8 * DRAWN, DRAWN * DRAWN // max(image.size))), scene)
    scale = (SIDE if scene else round(SIDE * (1 - 2 * MARGIN))) / max(image.size)
    wide, high = (max(1, round(side * scale)) for side in image.size)
    canvas = Image.new("RGBA", (SIDE, SIDE), "white")
    resized = image.resize((wide, high), Image.Resampling.LANCZOS)
    canvas.alpha_composite(resized, ((SIDE - wide) // 2, (SIDE - high) // 2))
    return image_bytes(canvas.convert("RGB"))


def _crop(content: bytes, scene: bool) -> Image.Image:
    image = Image.open(io.BytesIO(content)).convert("RGBA")
    box = None if scene else image.getchannel("A").point(lambda value: 255 * (value > OPAQUE)).getbbox()
    return image.crop(box) if box else image


def _draw_svg(content: bytes, width: int) -> bytes:
    """A PNG, without the fonts of this machine, so that every machine draws the same: text in a picture is left out."""
    try:
        from resvg_py import svg_to_bytes
    except ImportError as error:
        raise ThroughlineError("drawing SVG needs resvg-py", do=extra("styles")) from error
    text = content.decode("utf-8", "replace")
    # by the standard a CSS pixel is a 96th of an inch; without, lengths in points have no size
    return bytes(svg_to_bytes(svg_string=text, width=width, dpi=96.0, skip_system_fonts=True))
