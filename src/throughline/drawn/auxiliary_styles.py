"""How the auxiliary styles paint: blueprint, cut paper, mosaic, neon. They serve pre-training and are never domains.
Called by `styles.render`."""

import numpy as np

from throughline.drawn.canvas import Canvas, Pixels, saturated, shift_of
from throughline.drawn.placement import Colour, place, shade
from throughline.drawn.scenes import Scene, lightness
from throughline.drawn.textures import noise


def blueprint(scene: Scene, size: int) -> Pixels:
    """White lines on blue squared paper."""
    canvas = Canvas(size, (26, 58, 122))
    for mark in np.arange(0, size, 8 * canvas.unit):
        for line in ([(mark, 0), (mark, size)], [(0, mark), (size, mark)]):
            canvas.outline(np.array(line, dtype=float), (44, 80, 148), 0.34 * canvas.unit)
    for item in place(scene, size):
        if item.layer == "background":
            canvas.outline(item.points, (62, 100, 168), 0.34 * canvas.unit)
        else:
            canvas.fill(item.points, (30, 66, 134) if lightness(item.colour) > 150 else (22, 48, 106))
            canvas.outline(item.points, (226, 236, 250), 0.9 * canvas.unit)
    return canvas.reduced()


PAPER_SHADOW = (1.2, 1.4)  # px at 64 px, right and down


def cutpaper(scene: Scene, size: int) -> Pixels:
    """Sheets of coloured paper, each with a hard shadow."""
    canvas = Canvas(size, (240, 232, 214))
    drop = np.array(PAPER_SHADOW) * canvas.unit
    for item in place(scene, size):
        if item.layer != "background":
            canvas.fill(item.points + drop, (92, 84, 80))
        canvas.fill(item.points, _paper(item.colour))
    grain = noise("grain", shift_of(scene, "paper"), size) + noise("soft", shift_of(scene, "fibre"), size)
    return np.asarray(canvas.reduced() * (1 + 0.022 * grain)[:, :, None], dtype=np.float32)


def _paper(colour: Colour) -> Colour:
    red, green, blue = (round(40 + 0.8 * value) // 24 * 24 for value in colour)
    return red, green, blue


MOSAIC_TILE = 3  # px at 64 px


def mosaic(scene: Scene, size: int) -> Pixels:
    """Square tiles of one colour each."""
    canvas = Canvas(size, (0, 0, 0))
    for item in place(scene, size):
        canvas.fill(item.points, saturated(item.colour, 1.15))
    tile = tile_of(size)
    count = -(-size // tile)
    padded = np.pad(canvas.reduced(), ((0, count * tile - size), (0, count * tile - size), (0, 0)), mode="edge")
    means = padded.reshape(count, tile, count, tile, 3).mean(axis=(1, 3))
    lustre = 1 + 0.06 * noise("grain", shift_of(scene, "tiles"), count)
    tiles = np.repeat(np.repeat(means * lustre[:, :, None], tile, axis=0), tile, axis=1)[:size, :size]
    grout = np.arange(size) % tile == 0
    return np.asarray(np.where((grout[:, None] | grout)[:, :, None], tiles * 0.72, tiles), dtype=np.float32)


def tile_of(size: int) -> int:
    """The side of a tile in px."""
    return max(2, round(MOSAIC_TILE * size / 64))


NEON_GLOW = 1.5  # px at 64 px


def neon(scene: Scene, size: int) -> Pixels:
    """Glowing tubes in the dark."""
    canvas = Canvas(size, (14, 10, 24))
    for item in place(scene, size):
        if item.layer == "background":
            canvas.outline(item.points, (44, 34, 66), 0.5 * canvas.unit)
        else:
            canvas.fill(item.points, (14, 10, 24))
            canvas.outline(item.points, _glowing(item.colour), 1.1 * canvas.unit)
    return np.asarray(canvas.reduced() + 0.7 * canvas.reduced(NEON_GLOW * canvas.unit), dtype=np.float32)


def _glowing(colour: Colour) -> Colour:
    vivid = saturated(colour, 1.6)
    return shade(vivid, 255 / max(1, *vivid))
