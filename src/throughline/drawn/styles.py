"""Paints a scene in a style. Four styles are domains; the auxiliary ones serve pre-training and are never domains.

Every style is local: a part changes only pixels within a known reach of its outline, and all noise is seeded by
the scene alone. `part_box` states that reach, and the counterfactual tests hold every style to it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import binary_dilation

from throughline.core.errors import ThroughlineError
from throughline.core.seeding import generator
from throughline.drawn import auxiliary_styles as auxiliary
from throughline.drawn import domain_styles as domain
from throughline.drawn.canvas import WOBBLE, Pixels, to_image
from throughline.drawn.placement import place_object
from throughline.drawn.scenes import Scene
from throughline.drawn.textures import stroke_reach

DOMAIN_STYLES: tuple[str, ...] = ("cartoon", "painting", "photo", "sketch")
AUXILIARY_STYLES: tuple[str, ...] = ("blueprint", "cutpaper", "mosaic", "neon")
SMALLEST, LARGEST = 64, 1024  # px; below 64 the deciding parts are no longer visible

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Style:
    """`paint` draws a scene. `around` says how many pixels beyond a part's outline it paints on every side; it is given
    `unit`, what a pixel of a 64 px image is in this one. `shadow` is how much further it paints to the right and down,
    in px at 64 px."""

    paint: Callable[[Scene, int], Pixels]
    around: Callable[[float], float] = lambda unit: 0.0
    shadow: tuple[float, float] = (0.0, 0.0)


_STYLES = {
    "blueprint": Style(auxiliary.blueprint, lambda unit: 0.9 * unit),
    "cartoon": Style(domain.cartoon, lambda unit: domain.CARTOON_LINE * unit),
    "cutpaper": Style(auxiliary.cutpaper, shadow=auxiliary.PAPER_SHADOW),
    "mosaic": Style(auxiliary.mosaic),
    "neon": Style(auxiliary.neon, lambda unit: 1.1 * unit + np.ceil(auxiliary.NEON_GLOW * unit)),
    "painting": Style(domain.painting, lambda unit: WOBBLE * unit + stroke_reach(round(unit * 64))),
    # Its own blur, then that of the shadow it throws.
    "photo": Style(
        domain.photo, lambda unit: np.ceil(0.4 * unit) + np.ceil(domain.SHADOW_BLUR * unit), domain.SHADOW_OFFSET
    ),
    "sketch": Style(domain.sketch, lambda unit: (WOBBLE + 1.0) * unit),
}


def check_style(style: str, size: int) -> None:
    """Raises `ThroughlineError` on an unknown style or a size outside 64..1024 px."""
    if style not in _STYLES:
        raise ThroughlineError(f"unknown style {style!r}", "drawn world", f"one of {', '.join(_STYLES)}")
    if not SMALLEST <= size <= LARGEST:
        raise ThroughlineError(f"size is {size} px", "drawn world", f"use {SMALLEST} to {LARGEST} px")


def render(scene: Scene, style: str, size: int = 64) -> Image.Image:
    """The scene as an RGB image of `size` x `size` px; the same arguments give the same bytes.

    Raises `ThroughlineError` on an unknown style or a size outside 64..1024 px.
    """
    check_style(style, size)
    pixels = _STYLES[style].paint(scene, size)
    if scene.noise > 0:
        speckle = generator(scene.seed, "noise").standard_normal(pixels.shape, dtype=np.float32)
        pixels = pixels + np.float32(255 * scene.noise) * speckle
    return to_image(pixels)


def _reach(style: str, size: int) -> tuple[float, float, float, float]:
    """How far beyond a part's outline a style paints, in pixels: left, top, right, bottom."""
    unit, (right, down) = size / 64, _STYLES[style].shadow
    # One pixel more: polygons colour every fine pixel that they touch.
    around = _STYLES[style].around(unit) + 1
    return around, around, around + right * unit, around + down * unit


def part_box(scene: Scene, part: str, style: str, size: int = 64) -> Box:
    """(left, top, right, bottom) in px, right and bottom exclusive: outside it, adding or removing the part changes
    no pixel in this style. The part need not be in the scene; a part of another family is a `ValueError`."""
    check_style(style, size)
    placed = place_object(scene, size, (part,))
    if not placed:
        raise ValueError(f"{scene.cls} can have no {part}")
    points = np.concatenate([item.points for item in placed])
    reach = _reach(style, size)
    low, high = np.floor(points.min(axis=0) - reach[:2]), np.ceil(points.max(axis=0) + reach[2:]) + 1
    if style == "mosaic":
        tile = auxiliary.tile_of(size)
        low, high = np.floor(low / tile) * tile, np.ceil(high / tile) * tile
    left, top, right, bottom = np.clip([*low, *high], 0, size).astype(int).tolist()
    return left, top, right, bottom


def object_mask(scene: Scene, size: int = 64, style: str | None = None) -> NDArray[np.bool_]:
    """Which pixels (size, size) the object covers; with a style, also those that its outlines, blur and shadow touch.

    The occluder is no part of the object.
    """
    mask = Image.new("1", (size, size))
    pen = ImageDraw.Draw(mask)
    for item in place_object(scene, size):
        pen.polygon(item.points.ravel().tolist(), fill=1, outline=1)
    covered = np.asarray(mask, dtype=bool)
    if style is None:
        return covered
    check_style(style, size)
    left, top, right, bottom = (int(np.ceil(value)) for value in _reach(style, size))
    if style == "mosaic":
        left = top = right = bottom = auxiliary.tile_of(size)
    reach = np.ones((top + bottom + 1, left + right + 1), dtype=bool)
    origin = (top - len(reach) // 2, left - reach.shape[1] // 2)
    return np.asarray(binary_dilation(covered, reach, origin=origin), dtype=bool)
