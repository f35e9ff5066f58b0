"""What is changed in a scene or its image on purpose: the deciding part is added or removed, and nothing else, which
makes it the contrastive class; or a part is covered."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from throughline.drawn.concepts import contrast_of, family_of
from throughline.drawn.scenes import Scene
from throughline.drawn.styles import object_mask, part_box, render

GREY = 127
Mask = NDArray[np.bool_]


def counterfactual(scene: Scene) -> Scene:
    """The scene's counterpart in the other class of its family; applied twice it gives the scene back.

    In every style, no pixel outside `styles.part_box(scene, family_of(scene.cls).deciding, style)` differs between the
    two.
    """
    parts = tuple(sorted(set(scene.parts) ^ {family_of(scene.cls).deciding}))
    return replace(scene, cls=contrast_of(scene.cls), parts=parts)


def covered(scene: Scene, style: str, size: int = 64, deciding: bool = True) -> Image.Image:
    """The scene in a style with grey over the place of the deciding part, whether that is there or not; else over as
    many pixels around the middle of the object's rest, with this place left free."""
    left, top, right, bottom = part_box(scene, family_of(scene.cls).deciding, style, size)
    box = np.zeros((size, size), bool)
    box[top:bottom, left:right] = True
    pixels = np.array(render(scene, style, size))
    pixels[box if deciding else _elsewhere(object_mask(scene, size, style), box)] = GREY
    return Image.fromarray(pixels)


def _elsewhere(body: Mask, box: Mask) -> Mask:
    """A square around the middle of the body outside the box, as many pixels as the box or all others, without it."""
    middle = np.argwhere(body & ~box if (body & ~box).any() else ~box).mean(axis=0)
    distance = np.abs(np.moveaxis(np.indices(box.shape), 0, 2) - middle).max(axis=2)
    nearest = np.argsort(np.where(box, np.inf, distance), axis=None, kind="stable")
    mask = np.zeros_like(box)
    mask.flat[nearest[: min(box.sum(), (~box).sum())]] = True
    return mask
