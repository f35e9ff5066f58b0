"""Rejected sides that others use, which need no knowledge of what is in an image: another image, another answer, part
of the image taken away. Shared by the pairs about drawn images and those by a concept graph."""

from collections.abc import Callable, Mapping
from functools import partial

from throughline.chains.pairs import Side
from throughline.core.seeding import generator
from throughline.domains.views import View, view_of

VIEWS = {"mask": ("occlusion_grey", 0.3), "crop": ("crop", 0.9), "noise": ("diffusion_noise", 0.5)}
"""What is left of an image in a pair of these sources: 70 % beside a mask (OPA-DPO), a tenth (mDPO), what half of the
steps of a diffusion model leave (POVID, CHiP)."""

Rival = Callable[[Mapping[str, Side], Side, int], Side | None]
"""Of the true side of every image, that of one of them and a seed the rejected side; None where there is none."""


def _random_image(sides: Mapping[str, Side], chosen: Side, seed: int) -> Side | None:
    """An image of another class in the same domain."""
    own = chosen.sample
    others = [side for side in sides.values() if side.sample.domain == own.domain and side.label != chosen.label]
    return others[int(generator(seed, "random side", own.id).integers(len(others)))] if others else None


def _random_answer(sides: Mapping[str, Side], chosen: Side, seed: int) -> Side | None:
    """The chain about such an image, of the image as it is."""
    other = _random_image(sides, chosen, seed)
    return Side(chosen.sample, other.label, other.chain) if other else None


def _view(source: str, sides: Mapping[str, Side], chosen: Side, seed: int) -> Side:
    """The image with a part of it taken away."""
    return Side(view_of(chosen.sample, View(*VIEWS[source], seed)), chosen.label, None)


RIVALS: dict[str, Rival] = {
    "random_image": _random_image,
    "random_answer": _random_answer,
    **{source: partial(_view, source) for source in VIEWS},
}
"""By the name of their source."""
