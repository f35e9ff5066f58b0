"""A scene is everything there is to know about a drawn image but its style: class, parts, pose, colours,
background, viewpoint. The renderer turns scenes into pixels, the describer into words, the world writes both.

Everything but the parts is drawn independently of the class, so that only parts tell classes apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from throughline.core.errors import ThroughlineError
from throughline.core.files import read_json_lines
from throughline.core.seeding import generator, seed_of
from throughline.drawn import SCENES, is_drawn
from throughline.drawn.concepts import CLASSES, CONCEPTS, family_of, read_data

Palette = dict[str, tuple[int, int, int]]
OBJECT_COLOURS, FAR_COLOURS, NEAR_COLOURS = (
    TypeAdapter(Palette).validate_python(read_data("world.yaml")[name])
    for name in ("object_colours", "far_colours", "near_colours")
)
MAIN_COLOURS: tuple[str, ...] = tuple(name for name in OBJECT_COLOURS if name != "white")
SETTINGS: tuple[str, ...] = ("beach", "city", "hills", "meadow", "room", "table")
VIEWPOINTS: tuple[str, ...] = ("above", "front", "left", "right")

FREE_PART_RATE = 0.35  # share of scenes in which a free part is there
# Between an object's main and second colour, in lightness (of 255) and in RGB distance: hands must show on a disc in
# grey pencil and in coloured tiles alike.
LIGHTNESS_GAP, COLOUR_GAP = 48.0, 130.0


@dataclass(frozen=True)
class Pose:
    """Centre (x, y) as shares of the image, `scale` as the object frame's side over the image's, angle in degrees."""

    x: float
    y: float
    scale: float
    angle: float
    mirrored: bool


@dataclass(frozen=True)
class Colours:
    """Names in `OBJECT_COLOURS`: body, details, free parts."""

    main: str
    second: str
    accent: str


@dataclass(frozen=True)
class Background:
    """A setting and the names of its far colour (sky, wall) and near colour (ground, floor)."""

    kind: str
    far: str
    near: str


@dataclass(frozen=True)
class Scene:
    """One drawn scene. `occlusion` is the covered share of the object's frame, `noise` a pixel deviation in 0..1."""

    cls: str
    parts: tuple[str, ...]
    pose: Pose
    colours: Colours
    background: Background
    viewpoint: str
    seed: int
    occlusion: float = 0.0
    noise: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain values; `from_json` gives the scene back."""
        return asdict(self) | {"parts": list(self.parts)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Scene:
        """The scene whose `to_json` this was."""
        return TypeAdapter(cls).validate_python(value)


@dataclass(frozen=True)
class WorldSettings:
    """Departures from the plain world, each of them a known cause of failure.

    class_weights: images of a class over `per_class` (label shift); a class not named has weight 1.
    spurious: probability that a scene stands before the background tied to its class, 0..1.
    occlusion: covered share of the object's frame, 0..0.9.  noise: pixel deviation, 0..1.
    """

    class_weights: tuple[tuple[str, float], ...] = ()
    spurious: float = 0.0
    occlusion: float = 0.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        for cls, weight in self.class_weights:
            if cls not in CONCEPTS:
                raise ThroughlineError(f"unknown class {cls!r}", "class_weights", f"one of {', '.join(CLASSES)}")
            if not weight >= 0:
                raise ThroughlineError(f"weight {weight} of {cls!r} is negative", "class_weights", "use 0 or more")
        for name, highest in (("spurious", 1.0), ("occlusion", 0.9), ("noise", 1.0)):
            value = getattr(self, name)
            if not 0 <= value <= highest:
                raise ThroughlineError(f"{name} is {value}", "drawn world", f"use a number from 0 to {highest:g}")

    def images_of(self, cls: str, per_class: int) -> int:
        """How many images this class gets in every domain."""
        return round(per_class * dict(self.class_weights).get(cls, 1.0))


def tied_background(cls: str) -> Background:
    """The background that belongs to a class under spurious correlation: no two classes share one."""
    place = CLASSES.index(cls)
    far, near = tuple(FAR_COLOURS), tuple(NEAR_COLOURS)
    return Background(
        kind=SETTINGS[place % len(SETTINGS)],
        far=far[(place + place // len(SETTINGS)) % len(far)],
        near=near[(2 * place + place // len(SETTINGS)) % len(near)],
    )


def lightness(colour: tuple[int, int, int]) -> float:
    """Rec. 601 luma of a colour, 0..255."""
    red, green, blue = colour
    return 0.299 * red + 0.587 * green + 0.114 * blue


def pick(draw: np.random.Generator, names: Sequence[str]) -> str:
    """One of the names, each with the same probability."""
    return names[int(draw.integers(len(names)))]


def _distinct(first: str, second: str) -> bool:
    a, b = OBJECT_COLOURS[first], OBJECT_COLOURS[second]
    return abs(lightness(a) - lightness(b)) >= LIGHTNESS_GAP and math.dist(a, b) >= COLOUR_GAP


def _sample_colours(draw: np.random.Generator) -> Colours:
    main = pick(draw, MAIN_COLOURS)
    second = pick(draw, tuple(name for name in OBJECT_COLOURS if _distinct(name, main)))
    accent = pick(draw, tuple(name for name in OBJECT_COLOURS if name not in (main, second)))
    return Colours(main, second, accent)


def _sample_pose(draw: np.random.Generator) -> Pose:
    scale = float(draw.uniform(0.66, 0.86))
    room = (1 - scale) / 2 * 0.8  # the frame's upright corners stay inside the image
    return Pose(
        x=round(0.5 + float(draw.uniform(-room, room)), 4),
        y=round(0.5 + float(draw.uniform(-room, room)), 4),
        scale=round(scale, 4),
        angle=round(float(draw.uniform(-12, 12)), 2),
        mirrored=bool(draw.random() < 0.5),
    )


def sample_scene(
    seed: int,
    domain: str,
    cls: str,
    index: int,
    background_of: str | None = None,
    occlusion: float = 0.0,
    noise: float = 0.0,
) -> Scene:
    """The `index`-th scene of a class in a domain; the same arguments give the same scene.

    background_of: a class whose tied background is used instead of a drawn one (spurious correlation). It
    changes nothing else of the scene.
    """
    name = f"{domain}/{cls}/{index}"
    draw = generator(seed, "scene", name)
    family = family_of(cls)
    free = tuple(part for part in family.free if draw.random() < FREE_PART_RATE)
    deciding = (family.deciding,) if CONCEPTS[cls][family.deciding] == 1 else ()
    pose, colours = _sample_pose(draw), _sample_colours(draw)
    background = Background(pick(draw, SETTINGS), pick(draw, tuple(FAR_COLOURS)), pick(draw, tuple(NEAR_COLOURS)))
    return Scene(
        cls=cls,
        parts=tuple(sorted((*family.required, *deciding, *free))),
        pose=pose,
        colours=colours,
        background=background if background_of is None else tied_background(background_of),
        viewpoint=pick(draw, VIEWPOINTS),
        seed=seed_of(seed, "scene pixels", name),
        occlusion=occlusion,
        noise=noise,
    )


def combination_of(scene: Scene) -> str:
    """Class and free parts, e.g. `cup, steam, stripe`: what some combinations of can be held out."""
    free = family_of(scene.cls).free
    return ", ".join([scene.cls, *(part for part in scene.parts if part in free)])


def read_scenes(root: Path) -> dict[str, Scene]:
    """Sample id -> scene, for a world that was written whole. Raises `ThroughlineError` when there is none."""
    path = root / SCENES
    if not is_drawn(root):
        raise ThroughlineError(
            "no drawn world is here, or it is unfinished", path, "draw it with `throughline data draw`"
        )
    return {row["sample_id"]: Scene.from_json(row["scene"]) for row in read_json_lines(path)}
