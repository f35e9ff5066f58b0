"""Questions about what a model sees and knows besides the class: the parts in an image, the class from words alone."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from throughline.chains.mentions import find_mentions
from throughline.chains.outcomes import Outcome
from throughline.core.files import content_hash
from throughline.domains.samples import Sample
from throughline.questions.prompt import ImageThenText, Prompt, PromptMaker, user_prompt
from throughline.questions.question import Generated, Likelihood, Question, Reading
from throughline.runs.unit import DESCRIBED

PARTS_QUESTION = "Which parts does the object in this photo have?"


def read_parts(parts: tuple[str, ...], text: str, finish_reason: str) -> Reading:
    """The parts that a text says are there, sorted; "no handle" names none. `EMPTY` for a text that says of no part
    whether it is there."""
    mentions = find_mentions(text, parts)
    asserted = tuple(sorted({part for span in mentions.asserted for part in span.classes}))
    return Reading(asserted or None, Outcome.OK if asserted else Outcome.EMPTY)


def parts_question(parts: Sequence[str], max_new_tokens: int = 32) -> Question:
    """Which of these parts the object in an image has, as generated text."""
    return Question(
        "parts", ImageThenText(PARTS_QUESTION), Generated(partial(read_parts, tuple(parts)), max_new_tokens)
    )


def class_from_words(words: str, question: str) -> str:
    """The label question about an object that is described instead of shown, e.g. by `a basin and no handle`."""
    return f"An object has {words}. {question}"


def question_from_words(words: str, question: str, answer: Likelihood) -> Question:
    """The class of an object that nothing is seen of: the prompt has no image, whatever the sample."""

    def prompt(sample: Sample) -> Prompt:
        return user_prompt(class_from_words(words, question))

    return Question("from words", prompt, answer)


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
