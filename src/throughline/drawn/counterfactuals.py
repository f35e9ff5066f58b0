"""The same scene with the deciding part added or removed, and nothing else: what makes it the contrastive class."""

from dataclasses import replace

from throughline.drawn.concepts import contrast_of, family_of
from throughline.drawn.scenes import Scene


def counterfactual(scene: Scene) -> Scene:
    """The scene's counterpart in the other class of its family; applied twice it gives the scene back.

    In every style, no pixel outside `styles.part_box(scene, family_of(scene.cls).deciding, style)` differs between the
    two.
    """
    parts = tuple(sorted(set(scene.parts) ^ {family_of(scene.cls).deciding}))
    return replace(scene, cls=contrast_of(scene.cls), parts=parts)
