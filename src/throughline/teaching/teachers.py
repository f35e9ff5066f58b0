"""Who writes chains: one protocol, and the drawn world's describer behind it. A teacher never sees a label."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from throughline.chains.formats import ChainFormat
from throughline.domains.samples import Sample
from throughline.drawn.describer import describe
from throughline.drawn.scenes import Scene
from throughline.drawn.world import read_scenes
from throughline.errors import ThroughlineError


@dataclass(frozen=True)
class Written:
    """What a teacher gave back for one image: its words, and why it stopped."""

    text: str
    finish_reason: str | None = None


class Teacher(Protocol):
    """Writes the `candidate`-th chain for an image; the same arguments give an independent attempt of the same kind."""

    source: str
    model: str

    def write(self, sample: Sample, candidate: int) -> Written:
        """One chain; ThroughlineError when the teacher cannot know this image."""
        ...


class Describer:
    """The drawn world's own teacher: it gets parts, colours and setting from `scenes.jsonl`, never the class."""

    source = "describer"
    model = "describer"

    def __init__(self, root: Path, format: ChainFormat, seed: int) -> None:
        self.root, self.format, self.seed = root, format, seed
        self.scenes: Mapping[str, Scene] = read_scenes(root)

    def write(self, sample: Sample, candidate: int) -> Written:
        """The description of the scene behind the image."""
        scene = self.scenes.get(sample.id)
        if scene is None:
            raise ThroughlineError("the describer knows drawn images only", sample.id, "give a teacher that can see")
        text = describe(scene, seed=self.seed, sample_id=sample.id, candidate=candidate, format=self.format)
        return Written(text, "stop")
