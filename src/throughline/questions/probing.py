"""Questions about a class that is described in words instead of shown: does a model know what the words mean?"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from throughline.core.files import content_hash
from throughline.domains.samples import Sample
from throughline.questions.prompt import Prompt, PromptMaker, user_prompt
from throughline.runs.unit import DESCRIBED


def class_from_words(words: str, question: str) -> str:
    """The label question about an object that is described instead of shown, e.g. by `a basin and no handle`."""
    return f"An object has {words}. {question}"


def described_samples(descriptions: Mapping[str, Sequence[str]]) -> tuple[Sample, ...]:
    """A sample without an image for each text about a class."""
    return tuple(
        Sample(f"{label}/{number}", Path(), DESCRIBED, (label,), content_hash(text))
        for label, texts in descriptions.items()
        for number, text in enumerate(texts)
    )


def about_words(descriptions: Mapping[str, Sequence[str]], question: str) -> PromptMaker:
    """Makes the prompts about `described_samples`."""

    def prompt(sample: Sample) -> Prompt:
        label, _, number = sample.id.rpartition("/")
        return user_prompt(class_from_words(descriptions[label][int(number)], question))

    return prompt
