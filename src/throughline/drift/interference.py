"""The protocol of `throughline drift robustness`: what is put in a model's way, as levels of a factor of a run.

arXiv 2604.15705 reports robustness to "extreme interference" and does not say what that is; this is ours. Levels only
say how a finished model is asked. Images and chains that they need are made before the run.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from PIL import Image

from throughline.chains.concepts import ConceptGraph
from throughline.chains.formats import ChainFormat, between_tags
from throughline.chains.pairs import Pair
from throughline.chains.parsing import parse_chain
from throughline.core.files import content_hash, write_atomically, write_json_lines
from throughline.domains.images import image_bytes
from throughline.domains.samples import ImageSet
from throughline.domains.views import View
from throughline.drawn.counterfactuals import covered
from throughline.drawn.scenes import Scene
from throughline.drawn.styles import render
from throughline.drift.pairs import DrawnWorld, make_pairs
from throughline.ood.factors import Levels, view_levels
from throughline.questions.tampered import wrong_class
from throughline.questions.wording import class_name

FACTOR = "interference"
SEVEREST = 5
COVERED = View("occlusion_grey", 0.3)
"""Of images that were not drawn, in the place of a part."""
BLANK, ANOTHER, HINT = "blank image", "another image", "hint"
TRUE, SYNONYMS, FALSE_START = "true chain", "true chain in synonyms", "false start"
FORCED = {"thinking": "contradicted chain", "random_answer": "another chain"}
"""What chains of pairs from these sources are called; of others, by the source."""
BESIDE = {SYNONYMS: TRUE}
"""With what a level is compared, where it is not the undisturbed answer."""
Paint = Callable[[Scene, str, int], Image.Image]


@dataclass(frozen=True)
class Subject:
    """What is asked about: a set's images, or those of a `world` if they were drawn; the format of chains, the graph of
    their classes, if there is one, and pairs with other chains about them, where these are not made of the world."""

    images: ImageSet
    format: ChainFormat
    seed: int
    world: DrawnWorld | None = None
    graph: ConceptGraph | None = None
    pairs: Sequence[Pair] = ()

    @cached_property
    def chains(self) -> dict[str, dict[str, str]]:
        """What answers are made to begin with, by level and sample id."""
        names, ids = {n: class_name(n, self.images.names) for n in self.images.classes}, self.images.by_id
        first = self.format.stages[0]
        begun = {s.id: f"<{first}> The answer is {wrong_class(names, s, self.seed)}." for s in self.images.samples}
        levels: dict[str, dict[str, str]] = {FALSE_START: begun}
        for pair in self.pairs or (make_pairs(self.world, tuple(FORCED)) if self.world else ()):
            sample, rejected = pair.chosen.sample, pair.rejected
            texts = {TRUE: pair.chosen.chain}
            if self.graph is not None and self.graph.synonyms:
                texts[SYNONYMS] = in_synonyms(pair.chosen.chain or "", self.graph)
            if rejected.sample == sample:
                texts[FORCED.get(pair.source, f"{pair.source} chain")] = rejected.chain
            for level, text in texts.items():
                unfinished = without_answer(text or "", self.format, self.images.classes)
                if sample.id in ids and unfinished is not None:
                    levels.setdefault(level, {})[sample.id] = unfinished
        return levels


def make_levels(
    subject: Subject,
    folder: Path,
    kinds: Sequence[str],
    styles: Sequence[str],
    reasons: bool,
    report_progress: Callable[[str], None] = lambda line: None,
) -> Levels:
    """The levels, the undisturbed one first; what they show is written below `folder`. `kinds` are corruptions; of
    answers only the reasoning path, if `reasons`, has chains that can be begun. What cannot be done is reported in one
    line."""
    levels = view_levels(kinds, [SEVEREST], subject.seed)
    levels[BLANK] = {"evaluation.view": {"kind": "occlusion_grey", "severity": 1.0}}
    levels |= {ANOTHER: {"evaluation.misled": "another_image"}, HINT: {"evaluation.misled": "hint"}}
    if subject.world is not None:
        paints: dict[str, tuple[Paint, str | None]] = {f"style {style}": (render, style) for style in styles}
        paints["deciding part"] = covered, None
        paints["other part"] = partial(covered, deciding=False), None
        for level, painted in paints.items():
            levels[level] = {
                "evaluation.made": str(_painted(subject.world, folder / level.replace(" ", "_"), *painted))
            }
    else:
        levels[COVERED.name] = {"evaluation.view": {"kind": COVERED.kind, "severity": COVERED.severity}}
        report_progress("no scenes, so no deciding part to cover and no other style: parts are covered at random")
    for level, texts in subject.chains.items() if reasons else ():
        path = folder / f"{level.replace(' ', '_')}.jsonl"
        write_json_lines(path, [{"sample_id": name, "text": text} for name, text in sorted(texts.items())])
        levels[level] = {"evaluation.begun": str(path), "evaluation.answering.answers": ["reasoning"]}
        if lacking := len(subject.images.samples) - len(texts):
            report_progress(f"{level}: {lacking} images have none, and are asked as they are")
    return levels


def _painted(world: DrawnWorld, start: Path, paint: Paint, style: str | None) -> Path:
    """A folder with an image of every sample, in a style or in that of its domain. Its name says what is painted, so
    what is there is right."""
    scenes = {sample: world.scene_of(sample) for sample in world.images.samples}
    content = content_hash([world.size, [[sample.id, scene.to_json()] for sample, scene in scenes.items()]])
    place = start.with_name(f"{start.name}-{content[:8]}")
    for sample, scene in scenes.items():
        if not (place / sample.id).is_file():
            image = paint(scene, style or sample.domain, world.size)
            write_atomically(place / sample.id, image_bytes(image), durable=False)
    return place


def without_answer(text: str, format: ChainFormat, classes: Sequence[str]) -> str | None:
    """A chain up to where it concludes; None for what is no chain."""
    chain = parse_chain(text, format, classes).chain
    if chain is None:
        return None
    answer = format.answer_stage
    stages = {name: text for name, text in zip(format.stages, chain.stages, strict=True) if name != answer}
    return between_tags(format, {**stages, answer: ""} if format.answer_is_tail else stages).rstrip()


def in_synonyms(text: str, graph: ConceptGraph) -> str:
    """The text with each attribute that has synonyms under the first of them."""
    words = sorted(graph.synonyms, key=len, reverse=True)
    pattern = re.compile("|".join(rf"\b{re.escape(word)}\b" for word in words))
    return pattern.sub(lambda found: graph.synonyms[found[0]][0], text)
