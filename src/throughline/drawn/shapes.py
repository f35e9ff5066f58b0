"""The outlines of parts: every part of a family as a few closed polygons in the object's own frame.

The frame is the square from -1 to 1 with y pointing down. Outlines depend on the family and on the scene's
variation, never on which other parts are there: that is what makes counterfactuals exact. Used by `placement`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from throughline.core.seeding import generator

Points = NDArray[np.float64]  # (points, 2)
Role = Literal["main", "second", "accent", "dark"]
SIDES = (-1, 1)  # left and right


@dataclass(frozen=True)
class Shape:
    """One closed polygon `points` (points, 2) of a part, with the colour role it is filled with."""

    part: str
    role: Role
    points: Points


@dataclass(frozen=True)
class Variation:
    """What makes two objects of a class differ in outline: proportions -1..1, two angles in radians."""

    width: float
    height: float
    detail: float
    first_angle: float
    second_angle: float


def variation_of(seed: int) -> Variation:
    """The variation that belongs to a scene's seed."""
    draw = generator(seed, "variation")
    width, height, detail = (float(value) for value in draw.uniform(-1, 1, 3))
    first = float(draw.uniform(0, 2 * np.pi))
    # The hands of a clock stand at least 50 degrees apart, or they look like one.
    return Variation(width, height, detail, first, first + float(draw.uniform(0.9, 2 * np.pi - 0.9)))


def ellipse(x: float, y: float, wide: float, high: float, corners: int = 28) -> Points:
    """An ellipse around (x, y) with half-axes `wide` and `high`."""
    turn = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    return np.stack([x + wide * np.cos(turn), y + high * np.sin(turn)], axis=1)


def rectangle(left: float, top: float, right: float, bottom: float) -> Points:
    """An upright rectangle."""
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], dtype=float)


def bar(start: tuple[float, float], end: tuple[float, float], wide: float) -> Points:
    """A straight bar from `start` to `end`."""
    first, last = np.array(start), np.array(end)
    along = (last - first) / np.hypot(*(last - first))
    aside = np.array([-along[1], along[0]]) * wide / 2
    return np.stack([first + aside, last + aside, last - aside, first - aside])


def band(centre: Points, wide: float) -> Points:
    """A ribbon of one width along a curve of points."""
    along = np.gradient(centre, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    aside = np.stack([-along[:, 1], along[:, 0]], axis=1) * wide / 2
    return np.concatenate([centre + aside, (centre - aside)[::-1]])


def arc(x: float, y: float, radii: tuple[float, float], turns: tuple[float, float]) -> Points:
    """An open piece of an ellipse around (x, y) between two angles in radians."""
    (wide, high), turn = radii, np.linspace(*turns, 18)
    return np.stack([x + wide * np.cos(turn), y + high * np.sin(turn)], axis=1)


def polygon(*corners: tuple[float, float]) -> Points:
    """The polygon with these corners."""
    return np.array(corners, dtype=float)


def mirrored(right: Points) -> Points:
    """The polygon between a curve, from top to bottom, and its mirror image at the vertical axis."""
    return np.concatenate([right, (right * (-1, 1))[::-1]])


def trapezium(top: float, wide_above: float, bottom: float, wide_below: float) -> Points:
    """An upright trapezium in the middle; widths are those of one half."""
    return polygon((-wide_above, top), (wide_above, top), (wide_below, bottom), (-wide_below, bottom))


def _flag(x: float, foot: float) -> list[Shape]:
    top = foot - 0.5
    return [
        Shape("flag", "dark", bar((x, foot), (x, top), 0.06)),
        Shape("flag", "accent", polygon((x, top), (x + 0.32, top + 0.11), (x, top + 0.24))),
    ]


def _vessel(vary: Variation) -> list[Shape]:
    top, side, foot = -0.42 + 0.06 * vary.height, 0.62 + 0.05 * vary.width, 0.36 + 0.1 * vary.detail
    wall, wave = np.linspace(0, 1, 8), np.linspace(0, 1, 10)
    edge = np.stack([foot + (side - foot) * (1 - wall**2.2), top + (0.66 - top) * wall], axis=1)
    steam = [np.stack([x + 0.07 * np.sin(6 * wave), top - 0.12 - 0.4 * wave], axis=1) for x in (-0.22, 0.18)]
    return [
        Shape("saucer", "accent", ellipse(0, 0.7, 0.86, 0.15)),
        Shape("handle", "main", band(arc(side - 0.1, 0.04, (0.42, 0.36), (-1.75, 1.6)), 0.19)),
        Shape("basin", "main", mirrored(edge)),
        Shape("stripe", "accent", mirrored(edge[(wall > 0.25) & (wall < 0.6)])),
        Shape("basin", "second", ellipse(0, top, side, 0.15)),
        *(Shape("steam", "dark", band(curve, 0.06)) for curve in steam),
    ]


def _craft(vary: Variation) -> list[Shape]:
    deck, keel = 0.2, 0.68 + 0.05 * vary.height
    bow, foot = 0.9 + 0.04 * vary.width, 0.62 + 0.08 * vary.detail
    return [
        Shape("sail", "dark", bar((0, deck + 0.02), (0, -0.96), 0.09)),
        Shape("sail", "second", polygon((0.07, -0.9), (0.78 + 0.06 * vary.width, 0.06), (0.07, 0.06))),
        Shape("sail", "second", polygon((-0.07, -0.7), (-0.07, 0.06), (-0.55, 0.06))),
        *_flag(-0.72, deck + 0.02),
        Shape("hull", "main", trapezium(deck, bow, keel, foot)),
        Shape("hull", "second", rectangle(-bow, deck - 0.03, bow, deck + 0.07)),
        Shape("stripe", "accent", rectangle(-foot, 0.38, foot, 0.52)),
        Shape("oar", "dark", bar((0.2, 0.0), (0.72, 0.86), 0.08)),
        Shape("oar", "accent", ellipse(0.74, 0.86, 0.13, 0.13, 12)),
    ]


def _round(vary: Variation) -> list[Shape]:
    wide, high = 0.68 + 0.04 * vary.width, 0.68 + 0.04 * vary.height

    def hand(angle: float, long: float, thick: float) -> Points:
        start = (-0.12 * np.cos(angle), -0.12 * np.sin(angle))
        return bar(start, (long * np.cos(angle), long * np.sin(angle)), thick)

    dots = ellipse(0, 0, 0.8 * wide, 0.8 * high, 8)
    return [
        *(Shape("feet", "dark", bar((side * 0.4, 0.4), (side * 0.62, 0.92), 0.18)) for side in SIDES),
        Shape("rim", "accent", ellipse(0, 0, wide + 0.15, high + 0.15, 36)),
        Shape("disc", "main", ellipse(0, 0, wide, high, 36)),
        *(Shape("dots", "accent", ellipse(x, y, 0.07, 0.07, 8)) for x, y in dots),
        Shape("hands", "second", hand(vary.first_angle, 0.56, 0.16)),
        Shape("hands", "second", hand(vary.second_angle, 0.42, 0.2)),
        Shape("hands", "second", ellipse(0, 0, 0.14, 0.14, 12)),
    ]


def _furniture(vary: Variation) -> list[Shape]:
    wide, seat, splay = 0.6 + 0.05 * vary.width, 0.08 + 0.04 * vary.height, 0.08 + 0.06 * vary.detail
    post, leg, foot, edge = wide - 0.08, wide - 0.1, wide + splay - 0.1, wide + 0.1
    return [
        *(Shape("backrest", "main", bar((side * post, seat + 0.02), (side * post, -0.95), 0.15)) for side in SIDES),
        Shape("backrest", "main", rectangle(-wide, -0.95, wide, -0.55)),
        Shape("backrest", "second", rectangle(-wide + 0.04, -0.4, wide - 0.04, -0.22)),
        *(Shape("legs", "dark", bar((side * 0.3, seat), (side * 0.3, 0.78), 0.12)) for side in SIDES),
        *(Shape("legs", "main", bar((side * leg, seat), (side * foot, 0.94), 0.17)) for side in SIDES),
        Shape("rung", "accent", rectangle(-wide - 0.02, 0.56, wide + 0.02, 0.68)),
        Shape("seat", "main", trapezium(seat - 0.08, wide, seat + 0.2, edge)),
        Shape("seat", "second", rectangle(-edge, seat + 0.18, edge, seat + 0.28)),
        Shape("cushion", "accent", ellipse(0, seat + 0.02, 0.44, 0.13)),
    ]


def _plant(vary: Variation) -> list[Shape]:
    y, size = -0.26, 0.4 + 0.03 * vary.width
    turns = np.linspace(0, 2 * np.pi, 7, endpoint=False) + vary.first_angle
    ring, bend = size + 0.11, np.linspace(0, 1, 8)
    stem = np.stack([0.1 * vary.detail * np.sin(np.pi * bend), y + (0.96 - y) * bend], axis=1)
    petals = [ellipse(ring * np.cos(turn), y + ring * np.sin(turn), 0.23, 0.23, 18) for turn in turns]
    bow = ((-0.3, 0.26), (0, 0.38), (0.3, 0.26), (0.3, 0.52), (0, 0.4), (-0.3, 0.52))
    return [
        Shape("stem", "dark", band(stem, 0.14)),
        Shape("leaf", "accent", ellipse(0.26, 0.56, 0.26, 0.12, 16)),
        *(Shape("petals", "second", petal) for petal in petals),
        Shape("head", "main", ellipse(0, y, size, size)),
        Shape("ribbon", "accent", polygon(*bow)),
    ]


def _vehicle(vary: Variation) -> list[Shape]:
    floor, end, sill, roof = 0.5, 0.92, -0.06, -0.58 + 0.06 * vary.height
    front, rear, lintel = 0.34 + 0.05 * vary.detail, -0.4 + 0.06 * vary.width, roof + 0.13
    cabin = ((rear - 0.2, 0.04), (rear, roof), (front, roof), (front + 0.28, 0.04))
    rear_window = ((rear - 0.04, sill), (rear + 0.08, lintel), (-0.07, lintel), (-0.07, sill))
    front_window = ((0.07, sill), (0.07, lintel), (front - 0.05, lintel), (front + 0.12, sill))
    bed = ((-end, 0.0), (end - 0.06, 0.0), (end, 0.16), (end, floor), (-end, floor))
    tyre_and_hub: tuple[tuple[Role, float, int], ...] = (("dark", 0.27, 22), ("second", 0.12, 12))
    return [
        *_flag(-0.78, 0.02),
        Shape("cabin", "main", polygon(*cabin)),
        Shape("cabin", "second", polygon(*rear_window)),
        Shape("cabin", "second", polygon(*front_window)),
        Shape("bed", "main", polygon(*bed)),
        Shape("bed", "second", rectangle(-end, -0.03, end - 0.06, 0.06)),
        Shape("stripe", "accent", rectangle(-end, 0.18, end, 0.32)),
        *(
            Shape("wheels", role, ellipse(side * 0.52, 0.54, radius, radius, corners))
            for side in SIDES
            for role, radius, corners in tyre_and_hub
        ),
        Shape("lamp", "accent", ellipse(end - 0.06, 0.2, 0.13, 0.13, 14)),
    ]


_OUTLINES: dict[str, Callable[[Variation], list[Shape]]] = {
    "vessel": _vessel,
    "craft": _craft,
    "round": _round,
    "furniture": _furniture,
    "plant": _plant,
    "vehicle": _vehicle,
}


def outlines(family: str, variation: Variation) -> list[Shape]:
    """All shapes of all parts a family can have, from back to front."""
    return _OUTLINES[family](variation)
