"""A question about a sample: its prompt, how it is answered, and what is read from the answer.

An answer is generated text, which a reader turns into classes, or the likelihood of each of a list of continuations.
`evaluation.answers` asks; `question_set` builds the questions of a class list.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from throughline.chains.answers import parse_answer
from throughline.chains.formats import ChainFormat
from throughline.chains.names import Aliases
from throughline.chains.outcomes import Outcome
from throughline.chains.parsing import parse_chain
from throughline.questions.prompt import PromptMaker


@dataclass(frozen=True)
class Reading:
    """What an answer says. `predicted` is None where no class could be read, a tuple where several classes may be."""

    predicted: str | tuple[str, ...] | None
    outcome: Outcome
    probabilities: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Generated:
    """Answered with the most likely text of at most `max_new_tokens`, which keeps to `format` where one is given.

    `read` gets the text and its finish reason, `stop` or `length`.
    """

    read: Callable[[str, str], Reading]
    max_new_tokens: int
    format: ChainFormat | None = None


@dataclass(frozen=True)
class Likelihood:
    """Answered with the most likely of these continuations, each of which stands for the class at the same place.

    What counts is the logarithm of a continuation's probability: the `sum` over its tokens, their `mean`, its `prior`,
    which is the sum behind the same words without the image, or its `contrast`, the sum less the prior (arXiv
    2405.18415).
    """

    continuations: tuple[str, ...]
    classes: tuple[str, ...]
    score: Literal["sum", "mean", "contrast", "prior"] = "sum"

    def read(self, probabilities: Sequence[float]) -> Reading:
        """`probabilities` are those of the continuations among themselves. They are kept to six digits, not six places:
        calibration needs the logarithm of the small ones."""
        best = max(range(len(probabilities)), key=probabilities.__getitem__)
        return Reading(self.classes[best], Outcome.OK, tuple(float(f"{p:.6g}") for p in probabilities))


@dataclass(frozen=True)
class Question:
    """`name` is what predictions and results lines call the answer path."""

    name: str
    prompt: PromptMaker
    answer: Generated | Likelihood


def read_label(
    classes: tuple[str, ...], names: Aliases, text: str, finish_reason: str, several: bool = False
) -> Reading:
    """The one class that a text names, or all that it names, where an image may be of `several`; `names` are further
    ones of the classes."""
    answer = parse_answer(text, classes, names, several)
    return Reading((answer.labels or None) if several else answer.label, answer.outcome)


def read_chain(
    classes: tuple[str, ...], format: ChainFormat, names: Aliases, text: str, finish_reason: str, several: bool = False
) -> Reading:
    """The class that a chain concludes in, or all. A chain that is not well formed gives no class: a name somewhere in
    it is not its conclusion."""
    parsed = parse_chain(text, format, classes, finish_reason, names)
    if several and parsed.chain is not None:
        return read_label(classes, names, parsed.chain.answer, finish_reason, several)
    return Reading(parsed.label, parsed.outcome)
