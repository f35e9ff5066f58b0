"""Does the answer follow from the chain, and the chain from the image? The class read behind chains and images that
were tampered with.

    p(y | image, chain so far) is proportional to p(name of y and what follows | image, question, chain up to the name)

over the classes offered. Chains are a model's own, about held-out images. Stages are taken out or come from a chain
about another class; a whole chain comes from such an image; the image is blanked, or is such an image. The variants
of an image's chain share a token tree. The definitions are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from PIL import Image

from throughline.analysis.estimates import over_images
from throughline.analysis.records import State, Variant
from throughline.chains.formats import ChainFormat
from throughline.chains.parsing import parse_chain
from throughline.core.seeding import generator
from throughline.domains.samples import Sample
from throughline.mllm.chat import EncodedImage, user_turn
from throughline.mllm.forward import measure_trees
from throughline.mllm.images import ImageReader
from throughline.mllm.load import Mllm
from throughline.mllm.tree import Leaf, Tree, merge_paths
from throughline.questions.question_set import QuestionSet
from throughline.questions.wording import class_name

VERSION = 1
"""Raised when the same weights, images and chains would give other numbers."""

AT_ONCE = 8192
"""Tokens behind an image in one pass: who sees whom is a square of them."""

TOLD_EVERY = 16
"""Images."""

WHOLE = "whole chain"
BLANK = 128
"""Grey, in each channel: what is left of an image that is blanked."""

About = Literal["stage removed", "stage swapped", "chain", "image", "whole"]
Stages = Mapping[str, str]
Variants = list[tuple[str, About, Stages]]
"""Name, what was changed, and the stages before the answer."""


@dataclass(frozen=True)
class Chained:
    """A held-out image and the stages of what the model wrote about it."""

    sample: Sample
    stages: Stages


@dataclass(frozen=True)
class Read:
    """What was read of one image in one variant: the probability of its class, and whether it is the most likely."""

    sample_id: str
    variant: str
    about: About
    probability: float
    correct: bool


@dataclass(frozen=True)
class ConclusionReader:
    """A model with its questions, and the chains that images lend each other."""

    mllm: Mllm
    reader: ImageReader
    prompts: QuestionSet
    form: ChainFormat
    classes: tuple[str, ...]

    def read(
        self, chained: Sequence[Chained], seed: int, told: Callable[[int, int], None] = lambda done, total: None
    ) -> Iterator[Read]:
        """Every variant of every image that has another class's chain to borrow."""
        for number, one in enumerate(chained):
            others = [other for other in chained if not set(other.sample.labels) & set(one.sample.labels)]
            if others:
                other = others[int(generator(seed, "another image", one.sample.id).integers(len(others)))]
                yield from self._read(one, other)
            if (number + 1) % TOLD_EVERY == 0 or number + 1 == len(chained):
                told(number + 1, len(chained))

    def _read(self, one: Chained, other: Chained) -> list[Read]:
        own, theirs = self.reader.encode(one.sample), self.reader.encode(other.sample)
        whole: Variants = [(WHOLE, "whole", one.stages)]
        passes: list[list[tuple[EncodedImage, Variants]]] = [
            [(own, some)] for some in self._in_turns(whole + self._tampered(one, other))
        ]
        passes[-1].append((self._blank(one.sample), [("image blanked", "image", one.stages)]))
        passes[-1].append((theirs, [("another image", "image", one.stages)]))
        place, found = self.classes.index(one.sample.label), []
        with self.mllm.asked():
            for trees in passes:
                batch = self.mllm.collate([[self._tree(image, some)] for image, some in trees])
                scores, _ = measure_trees(self.mllm.model, batch.to(self.mllm.device))
                sums = iter(-nll.double().sum() for _, _, nll in scores.per_branch())
                for name, about, _ in (variant for _, some in trees for variant in some):
                    p = torch.softmax(torch.stack([next(sums) for _ in self.classes]), dim=0)
                    found.append(Read(one.sample.id, name, about, float(p[place]), int(p.argmax()) == place))
        return found

    def _in_turns(self, variants: Variants) -> list[Variants]:
        """As many at a time as are about `AT_ONCE` tokens: a chain is some 150, each class behind it some 8."""
        size = max(1, AT_ONCE // (150 + 8 * len(self.classes)))
        return [variants[start : start + size] for start in range(0, len(variants), size)]

    def _tampered(self, one: Chained, other: Chained) -> Variants:
        """Variants of a chain about its own image; an answer is never lent, since it names the other class."""
        before = [name for name in self.form.stages if name != self.form.answer_stage]
        found: Variants = []
        for name in before:
            found.append((f"without {name}", "stage removed", {n: t for n, t in one.stages.items() if n != name}))
        for name in before:
            found.append((f"{name} of another", "stage swapped", {**one.stages, name: other.stages[name]}))
        found.append(("no stage", "chain", {}))
        found.append(("another image's chain", "chain", {name: other.stages[name] for name in before}))
        return found

    def _tree(self, image: EncodedImage, variants: Variants) -> Tree:
        chat, question = self.mllm.chat, user_turn(self.prompts.reasoning)
        leaves = [
            Leaf(chat.answered(question, [image], self._chain(stages, label)), f"{name}: {label}", 0.0, "sum")
            for name, _, stages in variants
            for label in self.classes
        ]
        return merge_paths(leaves, chat.image_token_id)

    def _chain(self, stages: Stages, label: str) -> str:
        """The chain with a class as its answer; stages that are not there leave no tag either."""
        texts = {**stages, self.form.answer_stage: class_name(label)}
        tagged = self.form.tagged_stages
        return "\n".join(
            f"<{name}> {texts[name]} </{name}>" if name in tagged else texts[name]
            for name in self.form.stages
            if name in texts
        )

    def _blank(self, sample: Sample) -> EncodedImage:
        """An even grey in the size of the image."""
        from throughline.domains.images import load_image

        picture = Image.new("RGB", load_image(sample.path).size, (BLANK, BLANK, BLANK))
        return self.mllm.chat.encode_image(picture, f"blank {sample.image_sha256}")


def chained(
    samples: Sequence[Sample], texts: Mapping[str, str], form: ChainFormat, classes: Sequence[str]
) -> list[Chained]:
    """The samples whose text, by id, is a well-formed chain that names one class, right or wrong."""
    found = []
    for one in samples:
        parsed = parse_chain(texts.get(one.id, ""), form, classes)
        if parsed.chain is not None and parsed.label is not None:
            found.append(Chained(one, dict(zip(form.stages, parsed.chain.stages, strict=True))))
    return found


def variants(reads: Sequence[Read], state: State) -> tuple[Variant, ...]:
    """A line for each variant, in the order in which they were read."""
    whole = {one.sample_id: float(one.correct) for one in reads if one.variant == WHOLE}
    found = []
    for name in dict.fromkeys(one.variant for one in reads):
        rows = [one for one in reads if one.variant == name]
        ids = [one.sample_id for one in rows]
        lost = [whole[one.sample_id] - float(one.correct) for one in rows]
        found.append(
            Variant(
                state=state,
                name=name,
                about=rows[0].about,
                images=len(rows),
                accuracy=over_images([float(one.correct) for one in rows], ids),
                probability=over_images([one.probability for one in rows], ids),
                lost=None if name == WHOLE else over_images(lost, ids, scale=100),
            )
        )
    return tuple(found)
