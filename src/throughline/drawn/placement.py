"""From a scene to coloured polygons in pixels, back to front: the background, the object's parts, the occluder.

Styles differ only in how they paint these polygons. Where a polygon lies never depends on which other parts are
there. Used by `styles` and, through it, by counterfactuals.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from throughline.core.seeding import generator
from throughline.drawn.concepts import family_of
from throughline.drawn.scenes import FAR_COLOURS, NEAR_COLOURS, OBJECT_COLOURS, Scene
from throughline.drawn.shapes import Points, Shape, ellipse, outlines, polygon, rectangle, variation_of

Colour = tuple[int, int, int]
Layer = Literal["background", "object", "occluder"]

DARK: Colour = (62, 54, 52)  # legs, wheels, masts: the same in every scene


@dataclass(frozen=True)
class Placed:
    """One polygon `points` (points, 2) in pixels of the image, its colour in daylight, and whose it is."""

    points: Points
    colour: Colour
    layer: Layer
    part: str | None = None


def shade(colour: Colour, factor: float) -> Colour:
    """A colour made darker (below 1) or lighter (above 1)."""
    red, green, blue = (min(255, max(0, round(value * factor))) for value in colour)
    return red, green, blue


def object_transform(scene: Scene, size: int) -> tuple[Points, Points]:
    """The matrix (2, 2) and offset (2,) that take the object's frame to pixels of a `size` px image."""
    view = {
        "front": np.array([[1.0, 0.0], [0.0, 1.0]]),
        "above": np.array([[1.0, 0.0], [0.0, 0.84]]),
        "left": np.array([[0.9, 0.0], [0.14, 1.0]]),
        "right": np.array([[0.9, 0.0], [-0.14, 1.0]]),
    }[scene.viewpoint]
    turn = np.deg2rad(scene.pose.angle)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    mirror = np.diag([-1.0 if scene.pose.mirrored else 1.0, 1.0])
    matrix = rotation @ view @ mirror * (scene.pose.scale * size / 2)
    return matrix, np.array([scene.pose.x, scene.pose.y]) * size


def place_object(scene: Scene, size: int, parts: tuple[str, ...] | None = None) -> list[Placed]:
    """The polygons of the scene's parts (or of `parts`, which may be absent from the scene)."""
    wanted = scene.parts if parts is None else parts
    matrix, offset = object_transform(scene, size)
    roles = {
        "main": OBJECT_COLOURS[scene.colours.main],
        "second": OBJECT_COLOURS[scene.colours.second],
        "accent": OBJECT_COLOURS[scene.colours.accent],
        "dark": DARK,
    }

    def put(shape: Shape) -> Placed:
        return Placed(shape.points @ matrix.T + offset, roles[shape.role], "object", shape.part)

    shapes = outlines(family_of(scene.cls).name, variation_of(scene.seed))
    return [put(shape) for shape in shapes if shape.part in wanted]


def place_background(scene: Scene, size: int) -> list[Placed]:
    """The setting's polygons; the first two cover the whole image."""
    draw = generator(scene.seed, "background")
    far, near = FAR_COLOURS[scene.background.far], NEAR_COLOURS[scene.background.near]
    horizon = float(draw.uniform(0.5, 0.68))
    spots = draw.uniform(0, 1, (9, 2))
    polygons: list[tuple[Points, Colour]] = [
        (rectangle(-0.1, -0.1, 1.1, horizon), far),
        (rectangle(-0.1, horizon, 1.1, 1.1), near),
    ]
    match scene.background.kind:
        case "beach":
            polygons.append((rectangle(-0.1, horizon - 0.13, 1.1, horizon), shade(far, 0.78)))
            polygons.append((ellipse(spots[0, 0], 0.16, 0.09, 0.09, 16), shade(far, 1.12)))
        case "city":
            for number, (x, high) in enumerate(spots[:6]):
                left = (number + 0.5 * x) / 6 - 0.05
                polygons.append((rectangle(left, horizon - 0.12 - 0.3 * high, left + 0.14, horizon), shade(far, 0.8)))
        case "hills":
            for x, high in spots[:3]:
                polygons.append((ellipse(x, horizon, 0.42, 0.1 + 0.2 * high, 24), shade(near, 0.86)))
            polygons.append((rectangle(-0.1, horizon, 1.1, 1.1), near))
        case "meadow":
            for x, y in spots:
                foot = horizon + 0.06 + (1 - horizon) * y
                tuft = polygon(
                    (x - 0.05, foot), (x - 0.03, foot - 0.09), (x, foot), (x + 0.04, foot - 0.1), (x + 0.06, foot)
                )
                polygons.append((tuft, shade(near, 0.78)))
        case "room":
            left = 0.06 + 0.6 * spots[0, 0]
            polygons.append((rectangle(left, 0.08, left + 0.26, 0.36), shade(far, 0.78)))
            polygons.append((rectangle(left + 0.03, 0.11, left + 0.23, 0.33), shade(far, 1.1)))
            polygons.append((rectangle(-0.1, horizon - 0.03, 1.1, horizon), shade(far, 0.85)))
        case "table":
            edge = horizon + 0.3
            polygons.append((rectangle(-0.1, edge, 1.1, edge + 0.05), shade(near, 0.72)))
            polygons.append((rectangle(-0.1, edge + 0.05, 1.1, 1.1), shade(far, 0.86)))
        case other:
            raise ValueError(f"no setting is called {other!r}")
    return [Placed(points * size, colour, "background") for points, colour in polygons]


def place_occluder(scene: Scene, size: int) -> list[Placed]:
    """A board over `scene.occlusion` of the object's frame, from one side; empty without occlusion.

    It knows the frame, not the parts, so that it hides the deciding part as often as anything else.
    """
    if scene.occlusion <= 0:
        return []
    covered, side = 2 * scene.occlusion, int(generator(scene.seed, "occluder").integers(4))
    frame = (
        rectangle(-1.05, -1.05, -1 + covered, 1.05),
        rectangle(1 - covered, -1.05, 1.05, 1.05),
        rectangle(-1.05, -1.05, 1.05, -1 + covered),
        rectangle(-1.05, 1 - covered, 1.05, 1.05),
    )[side]
    matrix, offset = object_transform(scene, size)
    return [Placed(frame @ matrix.T + offset, shade(NEAR_COLOURS[scene.background.near], 0.9), "occluder")]


def place(scene: Scene, size: int) -> list[Placed]:
    """Everything in the scene, from back to front."""
    return [*place_background(scene, size), *place_object(scene, size), *place_occluder(scene, size)]
