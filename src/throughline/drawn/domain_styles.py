"""How the four domain styles paint: cartoon, painting, photo, sketch. Called by `styles.render`; lengths given for a
64 px image grow with it."""

from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from throughline.core.seeding import generator
from throughline.drawn.canvas import OVERSAMPLING, Canvas, Pixels, saturated, shift_of, to_image, wobbled
from throughline.drawn.placement import Colour, Placed, place, shade
from throughline.drawn.scenes import Scene, lightness
from throughline.drawn.textures import STROKE_MAPS, Field, noise, stroke_map

CARTOON_LINE = 2.4  # px at 64 px


def cartoon(scene: Scene, size: int) -> Pixels:
    """Flat, saturated colours within outlines as thick as a marker's."""
    canvas = Canvas(size, (255, 255, 255))
    for item in place(scene, size):
        colour = saturated(item.colour, 1.5 if item.layer == "background" else 1.3)
        canvas.fill(item.points, colour)
        if item.layer != "background":
            canvas.outline(item.points, (18, 14, 22), CARTOON_LINE * canvas.unit)
    return canvas.reduced()


def photo(scene: Scene, size: int) -> Pixels:
    """Shaded bodies and their shadows before an unsharp, textured setting, under one light, with sensor grain."""
    unit = size / 64
    light = generator(scene.seed, "light")
    angle, strength = light.uniform(0, 2 * np.pi), light.uniform(0.16, 0.3)
    canvas = Canvas(size, (0, 0, 0))
    placed = place(scene, size)
    for item in placed:
        if item.layer == "background":
            canvas.fill(item.points, shade(item.colour, 0.86))
    # The setting lies out of focus and has the soft texture of real surfaces.
    far = canvas.reduced(1.5 * unit) * (1 + 0.07 * noise("soft", shift_of(scene, "surface"), size))[:, :, None]
    far *= 1 - 0.38 * _cast_shadow(placed, size)[:, :, None]
    fine = to_image(far).resize((canvas.fine, canvas.fine), Image.Resampling.NEAREST)
    for item in placed:
        if item.layer != "background":
            _paste_shaded(fine, item)
    pixels = np.asarray(fine.reduce(OVERSAMPLING).filter(ImageFilter.BoxBlur(0.4 * unit)), dtype=np.float32)
    down, across = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j].astype(np.float32)
    falloff = 1 + strength * (np.cos(angle) * across + np.sin(angle) * down) - 0.1 * (across**2 + down**2)
    grain = noise("grain", shift_of(scene, "sensor"), size)
    return np.asarray(pixels * falloff[:, :, None] + 5.0 * grain[:, :, None], dtype=np.float32)


SHADOW_OFFSET = (3.0, 3.0)  # px at 64 px, right and down
SHADOW_BLUR = 1.0


def _cast_shadow(placed: list[Placed], size: int) -> Field:
    """How much of the light the object takes from what lies behind it, (size, size), 0..1."""
    unit = size / 64
    mask = Image.new("L", (size, size), 0)
    pen = ImageDraw.Draw(mask)
    for item in placed:
        if item.layer == "object":
            pen.polygon((item.points + np.array(SHADOW_OFFSET) * unit).ravel().tolist(), fill=255)
    blurred = mask.filter(ImageFilter.BoxBlur(SHADOW_BLUR * unit))
    return np.asarray(np.asarray(blurred, dtype=np.float32) / 255, dtype=np.float32)


def _shading_tile() -> Image.Image:
    down, across = np.mgrid[-1:1:48j, -1:1:48j]
    bright = 1.1 - 0.26 * across - 0.3 * down - 0.22 * (across**2 + down**2)
    return Image.fromarray(np.clip(bright * 128, 0, 255).astype(np.uint8), mode="L")


_SHADING = _shading_tile()


def _paste_shaded(fine: Image.Image, item: Placed) -> None:
    """A polygon lit from the upper left, darker towards its lower right edge, as a rounded body would be."""
    points = item.points * OVERSAMPLING
    left, top = np.floor(points.min(axis=0)).astype(int).tolist()
    right, bottom = (np.ceil(points.max(axis=0)).astype(int) + 1).tolist()
    wide, high = right - left, bottom - top
    mask = Image.new("L", (wide, high), 0)
    ImageDraw.Draw(mask).polygon((points - (left, top)).ravel().tolist(), fill=255)
    light = _SHADING.resize((wide, high), Image.Resampling.BILINEAR)
    patch = Image.merge("RGB", [light.point(_brightened(value)) for value in item.colour])
    fine.paste(patch, (left, top), mask)


def _brightened(value: int) -> list[int]:
    return [min(255, 12 + value * step // 128) for step in range(256)]


def painting(scene: Scene, size: int) -> Pixels:
    """Brush strokes of a warped palette on canvas."""
    canvas = Canvas(size, (0, 0, 0))
    for item in place(scene, size):
        canvas.fill(wobbled(item.points, scene, size), _oil(item.colour))
    pixels = canvas.reduced()
    source, light = stroke_map(scene.seed % STROKE_MAPS, size)
    brushed = pixels.reshape(-1, 3)[source]
    pixels = 0.35 * pixels + 0.65 * brushed
    bristle = noise("bristle", shift_of(scene, "bristle"), size)
    pixels = pixels * (1 + 0.2 * light + 0.1 * bristle)[:, :, None]
    weave = 1 + 0.06 * ((np.indices((size, size)).sum(axis=0) % 2) * 2 - 1)  # canvas under the paint
    return np.asarray(pixels * weave[:, :, None], dtype=np.float32)


def _oil(colour: Colour) -> Colour:
    """The painter's palette: everything drawn towards ochre and Prussian blue, and darker."""
    red, green, blue = colour
    warm = lightness(colour) / 255
    mixed = (
        0.62 * red + 0.3 * green + 60 * warm - 12,
        0.1 * red + 0.68 * green + 0.06 * blue + 18 * warm,
        0.08 * red + 0.16 * green + 0.5 * blue + 30 * (1 - warm),
    )
    first, second, third = (min(255, max(0, round(value))) for value in mixed)
    return first, second, third


@lru_cache(maxsize=16)
def _hatch(fine: int, spacing: int) -> Image.Image:
    """Paper with diagonal pencil lines, (fine, fine)."""
    down, across = np.indices((fine, fine))
    grey = np.where((down + across) % spacing < 2, 150, 247).astype(np.uint8)
    return Image.fromarray(grey, mode="L").convert("RGB")


def sketch(scene: Scene, size: int) -> Pixels:
    """Pencil lines and hatching on white paper."""
    canvas = Canvas(size, (247, 247, 247))
    for item in place(scene, size):
        points = wobbled(item.points, scene, size)
        if item.layer == "background":
            canvas.fill(points, (247, 247, 247))
            canvas.outline(points, (205, 205, 205), 0.5 * canvas.unit)
            continue
        level = lightness(item.colour)
        if level < 150:  # dark things are hatched, light ones left white
            spacing = round((5 if level < 90 else 8) * canvas.unit)
            canvas.image.paste(_hatch(canvas.fine, spacing), (0, 0), canvas.mask(points))
        else:
            canvas.fill(points, (247, 247, 247))
        canvas.outline(points, (84, 84, 84), 1.0 * canvas.unit)
    pixels = canvas.reduced()
    graphite = noise("grain", shift_of(scene, "graphite"), size)[:, :, None]
    return np.asarray(pixels + 3.0 * graphite + 10 * graphite * (pixels < 200), dtype=np.float32)
