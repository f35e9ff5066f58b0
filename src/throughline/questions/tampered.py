"""Prompts that mislead, as tests of what an answer hangs on: with a hint at a wrong class, with the image of another
class, with an answer that is begun for the model.

Each wraps what makes the prompts of an ordinary question. The wording is ours.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from throughline.core.seeding import generator
from throughline.domains.samples import Sample
from throughline.questions.prompt import Prompt, PromptMaker

About = Callable[[str], PromptMaker]
"""What makes the prompts of a question's text."""


def with_hint(names: Mapping[str, str], about: About, seed: int, text: str) -> PromptMaker:
    """Each sample's prompt behind a hint at a class that it is not of, drawn from `seed` and its id; `names` are the
    classes as they are written in prompts."""

    def prompt(sample: Sample) -> Prompt:
        return about(f"Hint: this is a {wrong_class(names, sample, seed)}.\n{text}")(sample)

    return prompt


def wrong_class(names: Mapping[str, str], sample: Sample, seed: int) -> str:
    """The name of a class that a sample is not of."""
    wrong = [name for label, name in names.items() if label not in sample.labels]
    return wrong[int(generator(seed, "wrong class", sample.id).integers(len(wrong)))]


def with_other_image(samples: Sequence[Sample], about: About, seed: int, text: str) -> PromptMaker:
    """The prompt about another one of the samples, of other classes, in the place of each sample's own: of the same
    domain where there is one, and about itself where all are of its class."""

    def prompt(sample: Sample) -> Prompt:
        others = [other for other in samples if not set(other.labels) & set(sample.labels)]
        near = [other for other in others if other.domain == sample.domain] or others or [sample]
        return about(text)(near[int(generator(seed, "another image", sample.id).integers(len(near)))])

    return prompt


def begun_for(texts: Mapping[str, str], make: PromptMaker) -> PromptMaker:
    """Each sample's prompt with the beginning of the answer that `texts` has for its id."""
    return lambda sample: replace(make(sample), begun=texts.get(sample.id, ""))
