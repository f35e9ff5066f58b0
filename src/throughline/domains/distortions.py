"""Changes of an image that are drawn here: four distortions of LAION-C, and those that take a share of the image away:
by rectangles that cover it, by a crop, or by the noise of a diffusion model.

LAION-C (arXiv 2506.16950) has six. Mosaic and stickers paste pieces of other pictures and are left out. The four are
written anew: what a severity changes, and by how much, is as in FanfeiLi/LAION-C, `distortions/apply_distortions.py`;
the draws are ours, so pixels differ. There, images are cropped to 224 x 224 pixels; here they keep their size, and
lengths grow with it. `glitched` there is the package glitch-this at these levels, with one seed for all images.
`views` draws with these.
"""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
from PIL import Image, ImageDraw

Distortion = Callable[[Image.Image, int, np.random.Generator], Image.Image]
"""The RGB image at a severity of 1 to 5, in its own size."""
Removal = Callable[[Image.Image, float, np.random.Generator], Image.Image]
"""The RGB image with a share of it, 0 to 1, taken away, in its own size."""

_SHAPES = ((24, 0.5, 0.5), (4, 0.71, 0.71), (3, 0.6, 0.6), (10, 0.83, 0.42))
"""Circle, square, triangle, star: corners, and how far these are from the middle, by turns, where the size is 1."""
_GREY = 127


def _pixel(image: Image.Image) -> float:
    """A length of one pixel at 224 x 224, in pixels of this image."""
    return math.sqrt(image.width * image.height) / 224


def _whole(length: float) -> int:
    return max(1, round(length))


def glitched(image: Image.Image, severity: int, draws: np.random.Generator) -> Image.Image:
    """Bands of rows slip sideways, one colour slips off the others, every second line is black."""
    level = (2, 4, 5, 8, 10)[severity - 1]
    before = np.array(image)
    after, (height, width, _) = before.copy(), before.shape
    farthest, aside = int(level**2 / 100 * width), round(2 * level * _pixel(image))
    for _ in range(2 * level):
        top = draws.integers(height)
        band = slice(top, top + draws.integers(1, height // 4, endpoint=True) if height > 4 else top + 1)
        after[band] = np.roll(before[band], draws.integers(-farthest, farthest, endpoint=True), axis=1)
    colour = draws.integers(3)
    after[..., colour] = np.roll(after[..., colour], draws.integers(-aside, aside, 2, endpoint=True), axis=(0, 1))
    after[np.arange(height) // _whole(_pixel(image)) % 2 == 0] = 0
    return Image.fromarray(after)


def vertical_lines(image: Image.Image, severity: int, draws: np.random.Generator) -> Image.Image:
    """The image as vertical lines on black that bend to the left where it is dark. Nothing in it is random."""
    lines, step = ((224, 1), (178, 2), (112, 4), (84, 6), (60, 8))[severity - 1]
    unit, (width, height) = _pixel(image), image.size
    cells = image.resize((lines, _whole(height / (step * unit))), Image.Resampling.BOX)
    colours, light = np.asarray(cells).tolist(), np.asarray(cells.convert("L")) / 255
    canvas = Image.new("RGB", image.size)
    pen = ImageDraw.Draw(canvas)
    places = np.arange(lines) / lines * width - 40 * unit * (1 - light)
    for line in range(lines):
        last = (line / lines * width, 0.0)
        for row, x in enumerate(places[:, line].tolist()):
            here = (x, (row + 1) * height / cells.height)
            pen.line((*last, *here), tuple(colours[row][line]), _whole(unit))
            last = here
    return canvas


def geometric_shapes(image: Image.Image, severity: int, draws: np.random.Generator) -> Image.Image:
    """Many small circles, squares, triangles and stars in any colour lie on the image."""
    canvas = image.copy()
    pen = ImageDraw.Draw(canvas)
    for _ in range((150, 300, 600, 800, 1000)[severity - 1]):
        corners, outer, inner = _SHAPES[draws.integers(len(_SHAPES))]
        size = draws.integers(6, 16) * _pixel(image)
        number = np.arange(corners)
        angles = draws.uniform(0, 2 * np.pi) + 2 * np.pi * number / corners
        radii = size * np.where(number % 2, inner, outer)
        points = draws.uniform(0, image.size) + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
        pen.polygon([(x, y) for x, y in points.tolist()], fill=tuple(draws.integers(0, 256, 3).tolist()))
    return canvas


def luminance_checkerboard(image: Image.Image, severity: int, draws: np.random.Generator) -> Image.Image:
    """The fields of a chessboard become brighter and darker by turns, each by an amount of its own."""
    least, most = ((0, 50), (50, 100), (100, 125), (125, 150), (150, 255))[severity - 1]
    field = _whole(14 * _pixel(image))
    rows, columns = (math.ceil(side / field) for side in (image.height, image.width))
    sign = 1 - 2 * (np.add.outer(np.arange(rows), np.arange(columns)) % 2)
    change = (sign * draws.uniform(least, most, (rows, columns))).repeat(field, 0).repeat(field, 1)
    pixels = np.asarray(image) + change[: image.height, : image.width, None]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _occluded(image: Image.Image, share: float, draws: np.random.Generator, noise: bool) -> Image.Image:
    """Rectangles, a tenth to a third of the sides, until exactly this share is covered; the last one only in part."""
    pixels = np.array(image)
    height, width, _ = pixels.shape
    covered, wanted = np.zeros((height, width), bool), round(share * height * width)
    while wanted > 0:
        high, wide = (_whole(side * draws.uniform(0.1, 1 / 3)) for side in (height, width))
        top, left = draws.integers(1 - high, height), draws.integers(1 - wide, width)  # a corner is covered as often
        box = (slice(max(0, top), top + high), slice(max(0, left), left + wide))
        free = np.flatnonzero(~covered[box])[:wanted]
        wanted -= len(free)
        inside = covered[box].copy()
        inside.flat[free] = True
        covered[box] = inside
    pixels[covered] = draws.integers(0, 256, (covered.sum(), 3), np.uint8) if noise else _GREY
    return Image.fromarray(pixels)


def _cropped(image: Image.Image, share: float, draws: np.random.Generator) -> Image.Image:
    """A rectangle of the image's form, with a share of its pixels left out, enlarged to the whole (mDPO, arXiv
    2406.11839, keeps 1 to 20 %)."""
    width, height = (max(1, round(side * math.sqrt(1 - share))) for side in image.size)
    left, top = draws.integers(image.width - width + 1), draws.integers(image.height - height + 1)
    box = (int(left), int(top), int(left) + width, int(top) + height)
    return image.resize(image.size, Image.Resampling.BICUBIC, box)


def _diffused(image: Image.Image, share: float, draws: np.random.Generator) -> Image.Image:
    """The image after this share of a thousand steps of DDPM's forward process (arXiv 2006.11239, beta from 1e-4 to
    0.02); POVID and CHiP take half of them."""
    kept = np.prod(1 - np.linspace(1e-4, 0.02, 1000)[: round(1000 * share)])
    pixels = np.asarray(image) / 127.5 - 1
    noisy = math.sqrt(kept) * pixels + math.sqrt(1 - kept) * draws.standard_normal(pixels.shape)
    return Image.fromarray(np.clip(np.rint((noisy + 1) * 127.5), 0, 255).astype(np.uint8))


DISTORTIONS: dict[str, Distortion] = {
    "glitched": glitched,
    "vertical_lines": vertical_lines,
    "geometric_shapes": geometric_shapes,
    "luminance_checkerboard": luminance_checkerboard,
}
REMOVALS: dict[str, Removal] = {
    "occlusion_grey": partial(_occluded, noise=False),
    "occlusion_noise": partial(_occluded, noise=True),
    "crop": _cropped,
    "diffusion_noise": _diffused,
}
