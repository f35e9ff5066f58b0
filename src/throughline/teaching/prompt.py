"""The question that a teacher is asked. It is a text file with two places, `{options}` for the class list and
`{stages}` for the stages of the chain format, and the user can give another one.

The wording in `prompt.txt` is **ours**: what the RD-MLDG paper asked GPT-4o is not known.
"""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from throughline.chains.formats import ChainFormat, between_tags
from throughline.chains.names import Aliases
from throughline.questions.wording import read_template, with_options

STAGES_PLACE = "{stages}"

STAGE_DESCRIPTIONS = {
    "SUMMARY": "how you go about the question, in a sentence or two",
    "CAPTION": "what the photo shows, as far as it matters for the question",
    "REASONING": "step by step, which visible features speak for and against the options that come near",
    "REFLECTION": "check the reasoning against the photo once more, and correct it where it went wrong",
    "CONCLUSION": "the one option, and nothing else",
    "answer": "then, without tags, one sentence that names the one option",
    "think": "step by step, which visible features speak for and against the options that come near",
}


def teacher_prompt(
    classes: Sequence[str], format: ChainFormat, file: Path | None = None, names: Aliases | None = None
) -> str:
    """The whole question for a class list, from `file` or from our own wording; `names` as of a `QuestionSet`.

    `{stages}` may be missing in the file: then it says by itself how to answer. ThroughlineError when the file cannot
    be read, or has no `{options}`.
    """
    template = read_template(file) if file else resources.files(__package__).joinpath("prompt.txt").read_text("utf-8")
    return with_options(template.replace(STAGES_PLACE, between_tags(format, STAGE_DESCRIPTIONS)), classes, names)
