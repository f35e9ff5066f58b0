"""Chains that were tampered with: which class is the likeliest answer behind the stages that are left?"""

from collections.abc import Mapping

from throughline.questions.question_set import QuestionSet

Stages = Mapping[str, str]
"""Texts of a chain's stages, by the names of their tags."""


def tampered_answers(questions: QuestionSet, stages: Stages) -> list[str]:
    """Answers to the reasoning question: these stages with each class as the answer stage behind them."""
    return [_chain(questions, stages, class_name) for class_name in questions.class_names]


def without_stage(questions: QuestionSet, stages: Stages) -> dict[str, Stages]:
    """The chain without each of its stages before the answer, by the stage's name."""
    return {name: {n: text for n, text in stages.items() if n != name} for name in stages_before_answer(questions)}


def with_lent_stage(questions: QuestionSet, stages: Stages, other: Stages) -> dict[str, Stages]:
    """The chain with each of its stages before the answer taken from another chain, by the stage's name. An answer is
    never lent, since it names the other class."""
    return {name: {**stages, name: other[name]} for name in stages_before_answer(questions)}


def stages_before_answer(questions: QuestionSet) -> tuple[str, ...]:
    """All stages of the format but the one that names the class."""
    return tuple(name for name in questions.format.stages if name != questions.format.answer_stage)


def _chain(questions: QuestionSet, stages: Stages, answer: str) -> str:
    """As `render_chain` writes it; stages that are not there leave no tag either."""
    format = questions.format
    texts = {**stages, format.answer_stage: answer}
    return "\n".join(
        f"<{name}> {texts[name]} </{name}>" if name in format.tagged_stages else texts[name]
        for name in format.stages
        if name in texts
    )
