"""The predicted class when the chain before it, or the image, is tampered with. `faithfulness` counts it.

    p(y | image, chain so far) is proportional to p(name of y and what follows | image, question, chain up to the name)

over the classes offered. Chains are a model's own, about held-out images. Stages are taken out or come from a chain
about another class; a whole chain comes from such an image; the image is blanked, or is such an image. The variants
of an image's chain share a token tree. The definitions are ours.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from PIL import Image

from throughline.analysis.faithfulness import WHOLE, About, Read
from throughline.chains.formats import between_tags
from throughline.chains.parsing import parse_chain
from throughline.core.seeding import generator
from throughline.domains.images import load_image
from throughline.domains.samples import Sample
from throughline.mllm.chat import Chat, EncodedImage, EncodedPrompt, user_turn
from throughline.mllm.forward import measure_trees
from throughline.mllm.images import ImageReader
from throughline.mllm.likelihood import label_trie
from throughline.mllm.load import Mllm
from throughline.mllm.tree import Tree
from throughline.questions.question_set import QuestionSet

VERSION = 1
"""Raised when the same weights, images and chains would give other numbers."""

AT_ONCE = 8192
"""Tokens behind an image in one pass: who sees whom is a square of them."""

REPORTED_EVERY = 16
"""Images."""

BLANK = 128
"""Grey, in each channel: what is left of an image that is blanked."""

Stages = Mapping[str, str]
"""Texts of a chain's stages, by the names of their tags."""

Variants = list[tuple[str, Stages, About]]
"""Name, the stages that are left, and what was changed."""


@dataclass(frozen=True)
class Chained:
    """A held-out image and the stages of what the model wrote about it."""

    sample: Sample
    stages: Stages


@dataclass(frozen=True)
class ConclusionReader:
    """A model with its questions, and the chains that images lend each other."""

    mllm: Mllm
    reader: ImageReader
    questions: QuestionSet

    def read(
        self,
        chained: Sequence[Chained],
        seed: int,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Iterator[Read]:
        """Every variant of every image that has another class's chain to borrow."""
        for number, own in enumerate(chained):
            others = [other for other in chained if not set(other.sample.labels) & set(own.sample.labels)]
            if others:
                other = others[int(generator(seed, "another image", own.sample.id).integers(len(others)))]
                yield from self._read(own, other)
            if (number + 1) % REPORTED_EVERY == 0 or number + 1 == len(chained):
                on_progress(number + 1, len(chained))

    def _read(self, own: Chained, other: Chained) -> list[Read]:
        image, another = self.reader.encode(own.sample), self.reader.encode(other.sample)
        passes: list[list[tuple[EncodedImage, Variants]]] = [
            [(image, some)] for some in self._in_turns(self._variants(own, other))
        ]
        blank = blank_image(self.mllm.chat, own.sample)
        passes[-1].append((blank, [("image blanked", own.stages, "image")]))
        passes[-1].append((another, [("another image", own.stages, "image")]))
        classes = self.questions.classes
        place, reads = classes.index(own.sample.label), []
        with self.mllm.evaluating():
            for images in passes:
                batch = self.mllm.collate([[self._tree(image, some)] for image, some in images])
                scores, _ = measure_trees(self.mllm.model, batch.to(self.mllm.device))
                sums = iter(-nll.double().sum() for _, _, nll in scores.per_branch())
                for name, _, about in (variant for _, some in images for variant in some):
                    p = torch.softmax(torch.stack([next(sums) for _ in classes]), dim=0)
                    reads.append(Read(own.sample.id, name, about, float(p[place]), int(p.argmax()) == place))
        return reads

    def _in_turns(self, variants: Variants) -> list[Variants]:
        """As many at a time as are about `AT_ONCE` tokens: a chain is some 150, each class behind it some 8."""
        size = max(1, AT_ONCE // (150 + 8 * len(self.questions.classes)))
        return [variants[start : start + size] for start in range(0, len(variants), size)]

    def _variants(self, own: Chained, other: Chained) -> Variants:
        """Variants of a chain about its own image, untouched first. An answer is never lent, since it names the other
        class."""
        stages, form = own.stages, self.questions.format
        theirs = {name: text for name, text in other.stages.items() if name != form.answer_stage}
        removed = {left_out: {name: stages[name] for name in stages if name != left_out} for left_out in theirs}
        return [
            (WHOLE, stages, "whole"),
            *((f"without {name}", left, "stage removed") for name, left in removed.items()),
            *((f"{name} of another", {**stages, name: text}, "stage swapped") for name, text in theirs.items()),
            ("no stage", {}, "chain"),
            ("another image's chain", theirs, "chain"),
        ]

    def _tree(self, image: EncodedImage, variants: Variants) -> Tree:
        """All answers to the reasoning question about this image."""
        prompt = EncodedPrompt(user_turn(self.questions.reasoning), [image])
        answers = [answer for _, stages, _ in variants for answer in tampered_answers(self.questions, stages)]
        return label_trie(self.mllm, prompt, answers)


def blank_image(chat: Chat, sample: Sample) -> EncodedImage:
    """An even grey in the size of the image, which a view has, too."""
    picture = Image.new("RGB", load_image(sample.path).size, (BLANK, BLANK, BLANK))
    return chat.encode_image(picture, f"blank {sample.image_sha256}")


def tampered_answers(questions: QuestionSet, stages: Stages) -> list[str]:
    """Answers to the reasoning question: these stages with each class as the answer stage behind them."""
    form = questions.format
    return [between_tags(form, {**stages, form.answer_stage: class_name}) for class_name in questions.class_names]


def chained(samples: Sequence[Sample], texts: Mapping[str, str], questions: QuestionSet) -> list[Chained]:
    """The samples whose text, by id, is a well-formed chain that names one class, right or wrong."""
    chained, form = [], questions.format
    for sample in samples:
        parsed = parse_chain(texts.get(sample.id, ""), form, questions.classes, aliases=questions.names)
        if parsed.chain is not None and parsed.label is not None:
            chained.append(Chained(sample, dict(zip(form.stages, parsed.chain.stages, strict=True))))
    return chained
