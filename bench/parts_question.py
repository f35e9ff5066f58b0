"""What a model sees besides the class: a question about the parts in an image. The pocket learns to answer it, and its
certificate asks."""

from collections.abc import Sequence
from functools import partial

from throughline.chains.mentions import find_mentions
from throughline.chains.outcomes import Outcome
from throughline.questions.prompt import ImageThenText
from throughline.questions.question import Generated, Question, Reading

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
