"""Views of images: the same image with its pixels changed, corrupted or partly covered, drawn when it is opened.

`load_sample` opens a sample's image for everything that shows it to a model, to a teacher or a person; checks of files
on disk stay with `images.load_image`. A view is no copy on disk; `transfer.write_view` makes one where it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from throughline.core.errors import ThroughlineError
from throughline.core.files import content_hash, file_sha256
from throughline.core.nearest import did_you_mean
from throughline.core.seeding import generator, seed_of
from throughline.domains.corruptions import CORRUPTIONS, SMALLEST, corrupt
from throughline.domains.distortions import DISTORTIONS, REMOVALS
from throughline.domains.images import ImageError, load_image

if TYPE_CHECKING:
    from throughline.domains.samples import Sample

KINDS = (*CORRUPTIONS, *DISTORTIONS, *REMOVALS)
VERSION = 1
"""Of the code that draws: raised when it draws other pixels, so that no answer about the old ones is taken for one
about the new."""


@dataclass(frozen=True)
class View:
    """How pixels are changed. Raises a ThroughlineError for a kind or a severity that there is not."""

    kind: str
    severity: float
    """1 to 5, whole; of occlusions, `crop` and `diffusion_noise` the share of the image that is taken away, 0 to 1."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ThroughlineError(f"no view named {self.kind}", do=did_you_mean(self.kind, KINDS, "the views"))
        share = self.kind in REMOVALS
        if not (0 <= self.severity <= 1 if share else self.severity in range(1, 6)):
            do = "give a share from 0 to 1" if share else "give 1, 2, 3, 4 or 5"
            raise ThroughlineError(f"{self.kind} has no severity {self.severity:g}", do=do)

    @property
    def name(self) -> str:
        """`fog-3`; without the seed."""
        return f"{self.kind}-{self.severity:g}"


def view_of(sample: Sample, view: View) -> Sample:
    """The sample as seen so. It keeps its id, so that answers about the view pair with those about the image, and is
    told apart by `image_sha256`: a hash of the image's, the view and `VERSION`. Everything random in it is drawn from
    that hash, so an image gets the same pixels in any set, order, thread and process."""
    if sample.view is not None:
        raise ValueError(f"{sample.id} is a view already: {sample.view.name}")
    content = [sample.image_sha256, view.kind, float(view.severity), view.seed, VERSION]
    return replace(sample, parent_id=sample.id, image_sha256=content_hash(content), view=view)


def remade(sample: Sample, folder: Path) -> Sample:
    """The sample as an image of the same path in `folder` shows it, which was made from its own; ThroughlineError where
    there is none."""
    made = replace(sample, root=folder, parent_id=sample.id)
    try:
        return replace(made, image_sha256=file_sha256(made.path))
    except OSError:
        raise ThroughlineError(f"no image was made of {sample.id}", folder, "make one, or ask about others") from None


def load_sample(sample: Sample) -> Image.Image:
    """The sample's image as 8-bit RGB, upright, as its view shows it; a view has the size of the image.

    Raises an ImageError naming the file when it cannot be had whole or is too small for the view, and a
    ThroughlineError when the view needs a package that is missing.
    """
    image, view = load_image(sample.path), sample.view
    if view is None:
        return image
    names = (view.seed, "view", sample.image_sha256)
    if view.kind in REMOVALS:
        return REMOVALS[view.kind](image, view.severity, generator(*names))
    if view.kind in DISTORTIONS:
        return DISTORTIONS[view.kind](image, int(view.severity), generator(*names))
    if min(image.size) < SMALLEST:
        what = f"{view.kind} needs {SMALLEST} pixels a side, the image has {image.width} x {image.height}"
        raise ImageError("too_small", what, sample.path, "take larger images or another kind")
    return corrupt(image, view.kind, int(view.severity), seed_of(*names))


def readable(samples: Iterable[Sample]) -> tuple[list[Sample], dict[str, str]]:
    """The samples whose image can be had whole, and what is wrong with the others by id. Every image is decoded, and
    drawn where it is a view."""
    good, broken = [], {}
    for sample in samples:
        try:
            load_sample(sample)
            good.append(sample)
        except ImageError as error:
            broken[sample.id] = error.what
    return good, broken
