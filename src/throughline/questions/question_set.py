"""All questions about images of one class list. Their texts share a beginning: the reasoning question is the label
question word for word with an instruction after it, so that image, question and class list are computed once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from throughline.chains.formats import FIVE_STAGE, ChainFormat
from throughline.chains.names import Aliases, matcher_of
from throughline.core.errors import ThroughlineError
from throughline.core.seeding import seed_of
from throughline.core.settings import AnswerSettings, WordingSettings
from throughline.domains.samples import Sample
from throughline.questions.in_context import with_descriptions
from throughline.questions.prompt import ImageThenText, Prompt, PromptMaker
from throughline.questions.question import Generated, Likelihood, Question, read_chain, read_label
from throughline.questions.wording import class_name, label_template, stage_instruction, with_options

LIKELIHOODS: dict[str, Literal["sum", "mean", "contrast", "prior"]] = {
    "likelihood": "sum",
    "mean_likelihood": "mean",
    "contrast": "contrast",
    "prior": "prior",
}
"""What the answer paths by likelihood count."""


@dataclass(frozen=True)
class QuestionSet:
    """The classes offered, the format of chains, and the texts of both questions."""

    classes: tuple[str, ...]
    format: ChainFormat
    label: str
    reasoning: str
    names: Aliases = field(default_factory=dict)
    """Of classes that are not written as their folders: the display name, and synonyms that answers may use."""
    several: bool = False
    """Whether an image may be of several classes."""

    @property
    def texts(self) -> tuple[str, str]:
        """The label question and the reasoning question."""
        return self.label, self.reasoning

    def build(
        self, settings: AnswerSettings, about: Callable[[str], PromptMaker] = ImageThenText, shuffled: int | None = None
    ) -> tuple[Question, ...]:
        """The questions of these settings, in their order: the label path, the reasoning path, and by likelihood of
        every class as the answer to the label question, in four ways of counting it. `about` makes the prompts of a
        question's text; `shuffled` is the seed of the orders of options where each sample has its own."""
        if shuffled is not None:
            about = partial(shuffled_options, self.class_names, about, shuffled)
        about_label, about_reasoning = about(self.label), about(self.reasoning)
        format = self.format if settings.constrained else None
        read_text = partial(read_label, self.classes, self.names, several=self.several)
        label = Generated(read_text, settings.label_tokens)
        read = partial(read_chain, self.classes, self.format, self.names, several=self.several)
        questions = {
            "label": Question("label", about_label, label),
            "reasoning": Question("reasoning", about_reasoning, Generated(read, settings.chain_tokens, format)),
        } | {
            name: Question(name, about_label, Likelihood(self.class_names, self.classes, score))
            for name, score in LIKELIHOODS.items()
        }
        return tuple(questions[name] for name in settings.answers)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes as they are written in prompts and answers."""
        return tuple(class_name(label, self.names) for label in self.classes)


def shuffled_options(
    options: tuple[str, ...], about: Callable[[str], PromptMaker], seed: int, text: str
) -> PromptMaker:
    """Makes each sample's prompt with the options in an order of its own, drawn from `seed` and the sample's id. `text`
    lists them as `with_options` does; `about` makes the prompts of what it becomes."""

    def prompt(sample: Sample) -> Prompt:
        order = sorted(options, key=lambda name: seed_of(seed, "options", sample.id, name))
        return about(text.replace(", ".join(options), ", ".join(order)))(sample)

    return prompt


def make_question_set(
    classes: Sequence[str],
    format: ChainFormat = FIVE_STAGE,
    wording: WordingSettings | None = None,
    names: Aliases | None = None,
    described: bool = False,
    several: bool = False,
) -> QuestionSet:
    """Both questions for a class list, options in the order given; `wording` replaces ours. `names` are display name
    and synonyms of some classes. `described` classes are asked about by their descriptions, which stand in no question.
    With `several`, an image may be of several classes, and an answer names all.

    ThroughlineError for a label question without `{options}`, for an empty class list, for names of no class or of two,
    and for descriptions of other classes.
    """
    wording = wording or WordingSettings()
    if names:
        matcher_of(classes, names)  # raises what they cannot be
    label, told = with_options(wording.label or label_template(several), classes, names), wording.descriptions
    faults = {"no description of": set(classes) - set(told), "no class is called": set(told) - set(classes)}
    if (told or described) and any(faults.values()):
        what = "; ".join(f"{fault} {', '.join(sorted(own))}" for fault, own in faults.items() if own)
        raise ThroughlineError(what, "questions.descriptions", "describe each class by its folder's name")
    if told and not described:
        label = with_descriptions(label, {class_name(name, names): "; ".join(told[name]) for name in classes})
    label = f"{wording.frame}\n{label}" if wording.frame else label
    reasoning = f"{label}\n{wording.instruction or stage_instruction(format, several)}"
    return QuestionSet(tuple(classes), format, label, reasoning, names or {}, several)
