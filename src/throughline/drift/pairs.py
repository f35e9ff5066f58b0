"""Preference pairs about drawn images, whose content is known: a counterfactual changes the part that decides between
two classes, and nothing else. Called by `throughline drift pairs`.

Beside the two sources of arXiv 2604.15705 stand those that it compares with, of `rivals`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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

    @cached_property
    def chains(self) -> dict[str, tuple[str, int]]:
        """Of every image that the describer names rightly its first right chain, and the number of the attempt."""
        found: dict[str, tuple[str, int]] = {}
        for sample, number in ((s, n) for s in self.images.samples for n in range(CANDIDATES)):
            if sample.id not in self.scenes:
                raise ThroughlineError("the describer knows drawn images only", sample.id, "take it out of the folder")
            if sample.id not in found:
                text = self.chain(self.scenes[sample.id], sample, number)
                if parse_chain(text, self.format, CLASSES).label == sample.label:
                    found[sample.id] = text, number
        return found

    def chain(self, scene: Scene, sample: Sample, number: int) -> str:
        """What the describer writes of a scene in that attempt at an image; of its counterfactual in the same words."""
        return describe(scene, seed=self.seed, sample_id=sample.id, candidate=number, format=self.format)


def make_pairs(
    world: DrawnWorld, sources: Sequence[str], report_progress: Callable[[int], None] = lambda done: None
) -> Iterator[Pair]:
    """A pair of every source, of `SOURCES` and `RIVALS`, about each image that the describer names rightly; the same
    arguments give the same pairs."""
    samples = world.images.by_id
    sides = {id: Side(samples[id], samples[id].label, text) for id, (text, _) in world.chains.items()}
    for number, sample in enumerate(world.images.samples, start=1):
        for source in sources if sample.id in sides else ():
            chosen = sides[sample.id]
            if source in SOURCES:
                rejected, changed = SOURCES[source](world, chosen)
                yield Pair(source, chosen, rejected, changed, len(changed), "scene")
            elif other := RIVALS[source](sides, chosen, world.seed):
                yield Pair(source, chosen, other)
        report_progress(number)


def _thinking(world: DrawnWorld, chosen: Side) -> tuple[Side, tuple[str, ...]]:
    """The chain about the scene in which the deciding part is the other way round, of the image as it is."""
    chain, changed = _counterfactual_chain(world, chosen)
    return Side(chosen.sample, contrast_of(chosen.label), chain), changed


def _perception(world: DrawnWorld, chosen: Side) -> tuple[Side, tuple[str, ...]]:
    """The image of that scene, in the same style, with the chain that is true of it."""
    chain, changed = _counterfactual_chain(world, chosen)
    sample, label = chosen.sample, contrast_of(chosen.label)
    image = render(counterfactual(world.scenes[sample.id]), sample.domain, world.size)
    return Side(_made(world, sample, IMAGES, label, image), label, chain), changed


def _deciding_mask(world: DrawnWorld, chosen: Side) -> tuple[Side, tuple[str, ...]]:
    """The image with grey over the place of the deciding part, whether it is there or not."""
    sample, label = chosen.sample, chosen.label
    image = covered(world.scenes[sample.id], sample.domain, world.size)
    return Side(_made(world, sample, MASKED, label, image), label, None), (family_of(label).deciding,)


def _made(world: DrawnWorld, sample: Sample, below: str, label: str, image: Image) -> Sample:
    name = f"{below}/{sample.id}"
    path = world.folder / name
    write_atomically(path, image_bytes(image), durable=False)
    return Sample(name, world.folder, sample.domain, (label,), file_sha256(path), parent_id=sample.id)


def _counterfactual_chain(world: DrawnWorld, chosen: Side) -> tuple[str, tuple[str, ...]]:
    """The chain, and the attributes of which it says something else."""
    sample, number = chosen.sample, world.chains[chosen.sample.id][1]
    chain = world.chain(counterfactual(world.scenes[sample.id]), sample, number)
    before, after = (stated_attributes(text, GRAPH) for text in (chosen.chain or "", chain))
    return chain, tuple(sorted(name for name in before | after if before.get(name) != after.get(name)))


SOURCES: dict[str, Callable[[DrawnWorld, Side], tuple[Side, tuple[str, ...]]]] = {
    "thinking": _thinking,
    "perception": _perception,
    "deciding_mask": _deciding_mask,
}
"""By name, what makes the rejected side of a pair of these sources, and the attributes in which the sides differ."""
