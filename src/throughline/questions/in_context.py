"""Prompts that bring knowledge with them: labelled examples, and descriptions of the classes in words.

Both stand before an ordinary question, so whatever asks that question can ask it in context. The wording is ours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from throughline.domains.samples import Sample
from throughline.questions.prompt import Prompt, user_prompt

EXAMPLE_QUESTION = "What type of object is in this photo?"
"""What is asked about an example. The class list stands only in the question about the sample itself."""


def example_turns(labels: Sequence[str], question: str = EXAMPLE_QUESTION) -> list[dict[str, Any]]:
    """Two messages an example: the user shows an image and asks, the assistant answers with its label. Each image has a
    turn of its own, because some chat templates (LLaVA) put the images of a turn before all of its text."""
    turns = []
    for label in labels:
        turns.append({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]})
        turns.append({"role": "assistant", "content": [{"type": "text", "text": label}]})
    return turns


@dataclass(frozen=True)
class WithExamples:
    """Makes the prompt about one sample: the examples with their labels, then the sample's image and the question
    `text`. Prompts about several samples share the examples, which go through the model once."""

    examples: tuple[tuple[Sample, str], ...]
    text: str

    def __call__(self, sample: Sample) -> Prompt:
        """The sample's prompt."""
        asked = user_prompt(sample, self.text)
        turns = example_turns([label for _, label in self.examples])
        return Prompt((*turns, *asked.messages), (*(example for example, _ in self.examples), sample))


def with_descriptions(text: str, descriptions: Mapping[str, str]) -> str:
    """The question `text` behind a line for each class, e.g. `cup: basin, handle`, in the order given."""
    return "\n".join([*(f"{name}: {words}" for name, words in descriptions.items()), text])
