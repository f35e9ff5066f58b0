"""Prompts that bring knowledge with them: labelled examples, and descriptions of the classes in words.

Both stand before an ordinary question, so whatever asks that question can ask it in context. The wording is ours.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from throughline.domains.samples import Sample
from throughline.questions.prompt import Prompt, PromptMaker, user_prompt

EXAMPLE_QUESTION = "What type of object is in this photo?"
"""What is asked about an example. The class list stands only in the question about the sample itself."""


def example_turns(labels: Sequence[str], pictures: bool = True) -> list[dict[str, Any]]:
    """Two messages an example: the user shows an image and asks, the assistant answers with its label. Each image has a
    turn of its own, because some chat templates (LLaVA) put the images of a turn before all of its text."""
    turns = []
    asked = [*([{"type": "image"}] if pictures else []), {"type": "text", "text": EXAMPLE_QUESTION}]
    for label in labels:
        turns.append({"role": "user", "content": list(asked)})
        turns.append({"role": "assistant", "content": [{"type": "text", "text": label}]})
    return turns


@dataclass(frozen=True)
class WithExamples:
    """Makes the prompt about one sample: the examples with their labels, then the sample's image and the question
    `text`. Prompts about several samples share the examples, which go through the model once. Without `pictures`,
    examples are questions and labels only."""

    examples: tuple[tuple[Sample, str], ...]
    text: str
    pictures: bool = True

    def __call__(self, sample: Sample) -> Prompt:
        """The sample's prompt."""
        asked = user_prompt(sample, self.text)
        turns = example_turns([label for _, label in self.examples], pictures=self.pictures)
        shown = (example for example, _ in self.examples if self.pictures)
        return Prompt((*turns, *asked.messages), (*shown, sample))


@dataclass(frozen=True)
class InOneTurn:
    """As `WithExamples` with everything in one turn: the images, that of the sample last, then `Image 1 is: cup.`
    for each example, then the question. The ordinal layout of arXiv 2402.06599 in our words."""

    examples: tuple[tuple[Sample, str], ...]
    text: str
    pictures: bool = True

    def __call__(self, sample: Sample) -> Prompt:
        """The sample's prompt."""
        shown = [example for example, _ in self.examples if self.pictures]
        told = [f"Image {number} is: {label}." for number, (_, label) in enumerate(self.examples, start=1)]
        last = f"This is about image {len(self.examples) + 1}." if shown else ""
        return user_prompt(*shown, sample, "\n".join([*told, *([last] if last else []), self.text]))


@dataclass(frozen=True, eq=False)
class EachItsOwn:
    """Makes each sample's prompt with examples of its own, by its id; `prompt` is `WithExamples` or `InOneTurn`."""

    examples: Mapping[str, tuple[tuple[Sample, str], ...]]
    text: str
    prompt: Callable[[tuple[tuple[Sample, str], ...], str], PromptMaker]

    def __call__(self, sample: Sample) -> Prompt:
        """The sample's prompt."""
        return self.prompt(self.examples[sample.id], self.text)(sample)


def with_descriptions(text: str, descriptions: Mapping[str, str]) -> str:
    """The question `text` behind a line for each class, e.g. `cup: basin, handle`, in the order given."""
    return "\n".join([*(f"{name}: {words}" for name, words in descriptions.items()), text])
