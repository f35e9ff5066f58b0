"""The same scene with the deciding part added or removed, and nothing else: what makes it the contrastive class."""

from dataclasses import dataclass, replace
from typing import Literal

from throughline.drawn.concepts import contrast_of, family_of
from throughline.drawn.scenes import Scene


@dataclass(frozen=True)
class Counterfactual:
    """The changed scene, the part that was changed, and how."""

    scene: Scene
    part: str
    kind: Literal["added", "removed"]


def counterfactual(scene: Scene) -> Counterfactual:
    """The scene's counterpart in the other class of its family; applied twice it gives the scene back.

    In every style, no pixel outside `styles.part_box(scene, part, style)` differs between the two.
    """
    part = family_of(scene.cls).deciding
    removed = part in scene.parts
    parts = tuple(sorted(set(scene.parts) ^ {part}))
    changed = replace(scene, cls=contrast_of(scene.cls), parts=parts)
    return Counterfactual(changed, part, "removed" if removed else "added")
