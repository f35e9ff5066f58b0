"""Preference pairs about drawn images, whose content is known: a counterfactual changes the part that decides between
two classes, and nothing else. Called by `throughline drift pairs`.

Beside the two sources of arXiv 2604.15705 stand those that it compares with, of `rivals`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from PIL.Image import Image

from throughline.chains.concepts import stated_attributes
from throughline.chains.formats import ChainFormat
from throughline.chains.pairs import Pair, Side
from throughline.chains.parsing import parse_chain
from throughline.core.errors import ThroughlineError
from throughline.core.files import file_sha256, write_atomically
from throughline.domains.images import image_bytes
from throughline.domains.samples import ImageSet, Sample
from throughline.drawn.concepts import CLASSES, GRAPH, contrast_of, family_of
from throughline.drawn.counterfactuals import counterfactual, covered
from throughline.drawn.describer import describe
from throughline.drawn.scenes import Scene
from throughline.drawn.styles import render
from throughline.drift.rivals import RIVALS

CANDIDATES = 4
"""How often the describer is asked about a scene, until it concludes in the class."""
IMAGES, MASKED = "images", "masked"
"""Below the folder of pairs: the images that were made for them."""


@dataclass(frozen=True)
class DrawnWorld:
    """Images with their scenes, and how the describer writes about them; images are made below `folder`, `size` pixels
    wide. ThroughlineError for an image that was not drawn."""

    images: ImageSet
    scenes: Mapping[str, Scene]
    folder: Path
    format: ChainFormat
    seed: int
    size: int

    def scene_of(self, sample: Sample) -> Scene:
        """ThroughlineError for an image among drawn ones that was not drawn."""
        if sample.id not in self.scenes:
            raise ThroughlineError("this image was not drawn", sample.id, "take it out of the folder")
        return self.scenes[sample.id]

    @cached_property
    def thinking(self) -> dict[str, Pair]:
        """Of every image that the describer names rightly the pair of its first right chain and, in the same words, the
        chain about the scene in which the deciding part is the other way round."""
        pairs: dict[str, Pair] = {}
        for sample, number in ((s, n) for s in self.images.samples for n in range(CANDIDATES)):
            if sample.id not in pairs:
                scene = self.scene_of(sample)
                own, other = (self._describe(shown, sample, number) for shown in (scene, counterfactual(scene)))
                if parse_chain(own, self.format, CLASSES).label == sample.label:
                    said, otherwise = (stated_attributes(text, GRAPH) for text in (own, other))
                    changed = tuple(sorted(n for n in said | otherwise if said.get(n) != otherwise.get(n)))
                    sides = Side(sample, sample.label, own), Side(sample, contrast_of(sample.label), other)
                    pairs[sample.id] = Pair("thinking", *sides, changed, len(changed), "scene")
        return pairs

    def _describe(self, scene: Scene, sample: Sample, number: int) -> str:
        """What the describer writes of a scene in that attempt at an image."""
        return describe(scene, seed=self.seed, sample_id=sample.id, candidate=number, format=self.format)

    def made(self, sample: Sample, below: str, label: str, image: Image) -> Sample:
        """An image that was made from a sample's and is written below the folder."""
        name = f"{below}/{sample.id}"
        write_atomically(self.folder / name, image_bytes(image), durable=False)
        sha256 = file_sha256(self.folder / name)
        return Sample(name, self.folder, sample.domain, (label,), sha256, parent_id=sample.id)


def make_pairs(
    world: DrawnWorld, sources: Sequence[str], report_progress: Callable[[int], None] = lambda done: None
) -> Iterator[Pair]:
    """A pair of every source, of `SOURCES` and `RIVALS`, about each image that the describer names rightly; the same
    arguments give the same pairs."""
    sides = {id: pair.chosen for id, pair in world.thinking.items()}
    for number, id in enumerate(world.images.by_id, start=1):
        for source in sources if id in sides else ():
            if source in SOURCES:
                yield SOURCES[source](world, world.thinking[id])
            elif other := RIVALS[source](sides, sides[id], world.seed):
                yield Pair(source, sides[id], other)
        report_progress(number)


def _perception(world: DrawnWorld, thinking: Pair) -> Pair:
    """The image of the other scene, in the same style, with the chain that is true of it."""
    own, other = thinking.chosen.sample, thinking.rejected
    image = render(counterfactual(world.scene_of(own)), own.domain, world.size)
    rejected = replace(other, sample=world.made(own, IMAGES, other.label, image))
    return replace(thinking, source="perception", rejected=rejected)


def _deciding_mask(world: DrawnWorld, thinking: Pair) -> Pair:
    """The image with grey over the place of the deciding part, whether it is there or not."""
    own, label = thinking.chosen.sample, thinking.chosen.label
    image = covered(world.scene_of(own), own.domain, world.size)
    masked = Side(world.made(own, MASKED, label, image), label, None)
    return Pair("deciding_mask", thinking.chosen, masked, (family_of(label).deciding,), 1, "scene")


SOURCES: dict[str, Callable[[DrawnWorld, Pair], Pair]] = {
    "thinking": lambda world, thinking: thinking,
    "perception": _perception,
    "deciding_mask": _deciding_mask,
}
"""By name, what makes a pair of these sources of the thinking pair about the same image."""
