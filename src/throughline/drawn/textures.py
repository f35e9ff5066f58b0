"""Fields of noise, grain and brush strokes that styles paint with. All are made once per process and size from
fixed seeds and then shifted by the scene's seed, since drawing fresh noise would cost more than drawing the scene.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from throughline.core.seeding import generator

Field = NDArray[np.float32]

BANK = 512  # side of the noise bank in pixels; shifts by the scene's seed make 262,144 different fields of it
STROKE_MAPS = 6


@lru_cache(maxsize=8)
def _bank(name: str) -> Field:
    white = generator(0, "texture", name).standard_normal((BANK, BANK)).astype(np.float32)
    if name == "grain":
        return white
    # Soft fields are white noise filtered in Fourier space (periodic, so that shifting needs no seam).
    down, across = np.meshgrid(np.fft.fftfreq(BANK), np.fft.fftfreq(BANK), indexing="ij")
    if name == "soft":
        weight = 1 / (np.hypot(down, across) + 0.008) ** 1.4
    elif name == "bristle":  # long across, short down
        weight = np.exp(-((across / 0.02) ** 2) - (down / 0.18) ** 2)
    else:
        raise ValueError(name)
    weight[0, 0] = 0
    field = np.fft.ifft2(np.fft.fft2(white) * weight).real
    return np.asarray(field / field.std(), dtype=np.float32)


def noise(name: str, shift: tuple[int, int], size: int) -> Field:
    """A (size, size) piece, mean about 0 and deviation 1, of the "grain", "soft" or "bristle" bank."""
    rows, columns = (np.arange(start, start + size) % BANK for start in shift)
    return np.asarray(_bank(name)[np.ix_(rows, columns)], dtype=np.float32)


def stroke_reach(size: int) -> int:
    """How far, in pixels, a brush stroke carries colour: its half-diagonal, rounded up."""
    return int(np.ceil(np.hypot(*_stroke_half(size)))) + 1


def _stroke_half(size: int) -> tuple[float, float]:
    # 64 px: strokes of 4.4 x 1.8 px keep a clock's hands readable and still show as strokes.
    return 2.2 * size / 64, 0.9 * size / 64


@lru_cache(maxsize=64)
def stroke_map(number: int, size: int) -> tuple[NDArray[np.intp], Field]:
    """Where each pixel's stroke takes its colour, as a flat index (size, size), and the stroke's own lightness
    (size, size), about -1..1."""
    draw = generator(0, "strokes", number)
    long, short = _stroke_half(size)
    count = 5200
    centres = draw.uniform(0, size, (count, 2))
    turns = draw.normal(-0.6, 0.35, count)
    canvas = Image.fromarray(np.full((size, size), -1, dtype=np.int32), mode="I")
    pen = ImageDraw.Draw(canvas)
    for stroke, ((x, y), turn) in enumerate(zip(centres, turns, strict=True)):
        along = np.array([np.cos(turn), np.sin(turn)]) * long
        aside = np.array([-np.sin(turn), np.cos(turn)]) * short
        corners = np.stack([along + aside, aside - along, -along - aside, along - aside]) + np.array([x, y])
        pen.polygon(corners.ravel().tolist(), fill=stroke)
    owner = np.asarray(canvas)
    columns, rows = np.clip(centres.astype(int), 0, size - 1).T
    source = np.where(owner >= 0, (rows * size + columns)[owner], np.arange(size * size).reshape(size, size))
    light = np.where(owner >= 0, draw.uniform(-1, 1, count)[owner], 0)
    return source.astype(np.intp), light.astype(np.float32)
