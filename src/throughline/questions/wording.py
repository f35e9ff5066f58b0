"""The texts of the label question and of the reasoning question. Training, evaluation and teachers take them from here.

The label question is the paper's (q_cls of arXiv 2602.23777). The text of the paper's q_reason is not known: the
instruction that names the stages is **ours**. `core.settings.WordingSettings` replaces either.
"""

from collections.abc import Sequence
from pathlib import Path

from throughline.chains.formats import ChainFormat
from throughline.chains.names import Aliases, matcher_of
from throughline.core.errors import ThroughlineError
from throughline.domains.samples import in_words

OPTIONS_PLACE = "{options}"

LABEL_QUESTION = "What type of object is in this photo?"
LABEL_TEMPLATE = f"{LABEL_QUESTION} Choose from the following options: {OPTIONS_PLACE}"
"""q_cls of arXiv 2602.23777. No full stop after the last option: for many tokenizers it would melt into the
line break that follows in the reasoning question, and the two questions would share one token less."""


def label_template(several: bool = False) -> str:
    """The label question of ours, where an image may have `several` labels and where it has one."""
    all_of_them = f"What is in this photo? Name all that apply of the following options: {OPTIONS_PLACE}"
    return all_of_them if several else LABEL_TEMPLATE


def class_name(label: str, names: Aliases | None = None) -> str:
    """How a class is written in prompts and chains: the first of its `names`, or its folder name without them, with
    blanks for underscores."""
    return in_words((names or {}).get(label, [label])[0])


def stage_instruction(format: ChainFormat, several: bool = False) -> str:
    """Our instruction for a format: names the tags in order and says what the answer stage holds, where an image may
    have `several` labels all of them."""
    option = "options that apply" if several else "option"
    tags = ", ".join(f"<{name}>" for name in format.tagged_stages)
    if format.answer_is_tail:
        return f"Reason inside {tags} first, then answer with one sentence that names only the {option}."
    return f"Answer in tagged stages: {tags}. {format.answer_stage} holds only the {option}."


def with_options(template: str, classes: Sequence[str], names: Aliases | None = None) -> str:
    """The template with the classes' names, comma separated in the order given, in its place for options.

    ThroughlineError for a template without such a place, for an empty class list, and for one whose names no answer
    could be told by.
    """
    require_options_place(template)
    if not classes:
        raise ThroughlineError("a prompt needs at least one class")
    matcher_of(classes, names)  # raises now, not at the first answer, which a teacher is paid for
    return template.strip().replace(OPTIONS_PLACE, ", ".join(class_name(label, names) for label in classes))


def require_options_place(template: str, path: Path | None = None) -> None:
    """ThroughlineError, naming the file it came from, for a template that has no place for the classes."""
    if OPTIONS_PLACE not in template:
        raise ThroughlineError(
            f"the prompt template has no {OPTIONS_PLACE}", path, f"write {OPTIONS_PLACE} where the classes belong"
        )


def read_template(path: Path) -> str:
    """A question's template from a UTF-8 text file. ThroughlineError when it cannot be read or has no `{options}`."""
    try:
        template = path.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ThroughlineError(f"cannot read the prompt template ({error})", path, "name a UTF-8 text file") from error
    require_options_place(template, path)
    return template
