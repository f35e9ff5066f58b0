"""From a scene to coloured polygons in pixels, back to front: the background, the object's parts, the occluder.

Styles differ only in how they paint these polygons. Where a polygon lies never depends on which other parts are
there. Used by `styles` and, through it, by counterfactuals.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from throughline.core.seeding import generator
from throughline.drawn.concepts import family_of
from throughline.drawn.scenes import FAR_COLOURS, NEAR_COLOURS, OBJECT_COLOURS, Scene
from throughline.drawn.shapes import Points, ellipse, outlines, rectangle, variation_of

Colour = tuple[int, int, int]
Layer = Literal["background", "object", "occluder"]

DARK: Colour = (62, 54, 52)  # legs, wheels, masts: the same in every scene

VIEWS = {
    "front": ((1.0, 0.0), (0.0, 1.0)),
    "above": ((1.0, 0.0), (0.0, 0.84)),
    "left": ((0.9, 0.0), (0.14, 1.0)),
    "right": ((0.9, 0.0), (-0.14, 1.0)),
}
"""The matrix of each viewpoint, by rows."""


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
    view = np.array(VIEWS[scene.viewpoint])
    turn = np.deg2rad(scene.pose.angle)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    mirror = np.diag([-1.0 if scene.pose.mirrored else 1.0, 1.0])
    matrix = rotation @ view @ mirror * (scene.pose.scale * size / 2)
    return matrix, np.array([scene.pose.x, scene.pose.y]) * size


def place_object(scene: Scene, size: int, parts: tuple[str, ...] | None = None) -> list[Placed]:
    """The polygons of the scene's parts (or of `parts`, which may be absent from the scene)."""
    wanted = scene.parts if parts is None else parts
    matrix, offset = object_transform(scene, size)
    roles = {role: OBJECT_COLOURS[name] for role, name in vars(scene.colours).items()} | {"dark": DARK}
    return [
        Placed(shape.points @ matrix.T + offset, roles[shape.role], "object", shape.part)
        for shape in outlines(family_of(scene.cls).name, variation_of(scene.seed))
        if shape.part in wanted
    ]


def place_background(scene: Scene, size: int) -> list[Placed]:
    """The setting's polygons; the first two cover the whole image."""
    draw = generator(scene.seed, "background")
    far, near = FAR_COLOURS[scene.background.far], NEAR_COLOURS[scene.background.near]
    horizon = float(draw.uniform(0.5, 0.68))
    spots = draw.uniform(0, 1, (9, 2))
    polygons = [
        (_across(-0.1, horizon), far),
        (_across(horizon, 1.1), near),
        *_details(scene.background.kind, far, near, horizon, spots),
    ]
    return [Placed(points * size, colour, "background") for points, colour in polygons]


def _details(kind: str, far: Colour, near: Colour, horizon: float, spots: Points) -> list[tuple[Points, Colour]]:
    """What a setting has beside its sky or wall and its ground; `spots` (9, 2) are random places, 0..1."""
    first = spots[0, 0]
    if kind == "beach":
        sun = ellipse(first, 0.16, 0.09, 0.09, 16)
        return [(_across(horizon - 0.13, horizon), shade(far, 0.78)), (sun, shade(far, 1.12))]
    if kind == "city":
        lefts = [(number + 0.5 * x) / 6 - 0.05 for number, x in enumerate(spots[:6, 0])]
        tops = horizon - 0.12 - 0.3 * spots[:6, 1]
        houses = [rectangle(left, top, left + 0.14, horizon) for left, top in zip(lefts, tops, strict=True)]
        return [(house, shade(far, 0.8)) for house in houses]
    if kind == "hills":
        hills = [ellipse(x, horizon, 0.42, 0.1 + 0.2 * high, 24) for x, high in spots[:3]]
        return [*((hill, shade(near, 0.86)) for hill in hills), (_across(horizon, 1.1), near)]
    if kind == "meadow":
        outline = np.array([(-0.05, 0), (-0.03, -0.09), (0, 0), (0.04, -0.1), (0.06, 0)])
        feet = [(x, horizon + 0.06 + (1 - horizon) * y) for x, y in spots]
        return [(outline + foot, shade(near, 0.78)) for foot in feet]
    if kind == "room":
        left = 0.06 + 0.6 * first
        frame, pane = rectangle(left, 0.08, left + 0.26, 0.36), rectangle(left + 0.03, 0.11, left + 0.23, 0.33)
        skirting = _across(horizon - 0.03, horizon)
        return [(frame, shade(far, 0.78)), (pane, shade(far, 1.1)), (skirting, shade(far, 0.85))]
    if kind == "table":
        edge = horizon + 0.3
        return [(_across(edge, edge + 0.05), shade(near, 0.72)), (_across(edge + 0.05, 1.1), shade(far, 0.86))]
    raise ValueError(f"no setting is called {kind!r}")


def _across(top: float, bottom: float) -> Points:
    """A strip over the whole width of the image."""
    return rectangle(-0.1, top, 1.1, bottom)


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
