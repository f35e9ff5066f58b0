"""The two questions of an image: the label question and the reasoning question. The reasoning question is the
label question word for word with an instruction after it, so that image, question and class list are shared
in the token tree. Training, evaluation and teachers all take their wording from here.

The label question is the paper's (q_cls of arXiv 2602.23777). The text of the paper's q_reason is not known:
the instruction that names the stages is **ours**.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from throughline.chains.formats import FIVE_STAGE, ChainFormat
from throughline.core.errors import ThroughlineError

OPTIONS_PLACE = "{options}"

LABEL_TEMPLATE = f"What type of object is in this photo? Choose from the following options: {OPTIONS_PLACE}"
"""q_cls of arXiv 2602.23777. No full stop after the last option: for many tokenizers it would melt into the
line break that follows in the reasoning question, and the two questions would share one token less."""


@dataclass(frozen=True)
class Prompts:
    """The two questions for one class list; `reasoning` starts with `label`, word for word."""

    label: str
    reasoning: str


def class_name(label: str) -> str:
    """How a class is written in prompts and chains: its folder name with blanks for underscores."""
    return " ".join(label.replace("_", " ").split())


def stage_instruction(format: ChainFormat) -> str:
    """Our instruction for a format: names the tags in order and says what the answer stage holds."""
    tags = ", ".join(f"<{name}>" for name in format.tagged_stages)
    if format.answer_is_tail:
        return f"Reason inside {tags} first, then answer with one sentence that names only the option."
    return f"Answer in tagged stages: {tags}. {format.answer_stage} holds only the option."


def make_prompts(
    classes: Sequence[str],
    format: ChainFormat = FIVE_STAGE,
    template: str = LABEL_TEMPLATE,
    instruction: str | None = None,
) -> Prompts:
    """Both questions for a class list, options comma separated in the order given.

    `template` is the wording of the label question with `{options}` in it (ThroughlineError when it is
    missing); `instruction` replaces our stage instruction.
    """
    if OPTIONS_PLACE not in template:
        raise ThroughlineError(
            f"the prompt template has no {OPTIONS_PLACE}",
            None,
            f"write {OPTIONS_PLACE} where the classes belong",
        )
    if not classes:
        raise ThroughlineError("a prompt needs at least one class")
    label = template.strip().replace(OPTIONS_PLACE, ", ".join(class_name(name) for name in classes))
    return Prompts(label, f"{label}\n{instruction or stage_instruction(format)}")


def read_template(path: Path) -> str:
    """The label question's wording from a UTF-8 text file.

    ThroughlineError when it cannot be read or has no `{options}`.
    """
    try:
        template = path.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ThroughlineError(f"cannot read the prompt template ({error})", path, "name a UTF-8 text file") from error
    if OPTIONS_PLACE not in template:
        raise ThroughlineError(
            f"the prompt template has no {OPTIONS_PLACE}",
            path,
            f"write {OPTIONS_PLACE} where the classes belong",
        )
    return template


def prompt_sha256(prompt: str) -> str:
    """SHA-256 (hex) of one question's UTF-8 text, as candidate lines carry it."""
    return hashlib.sha256(prompt.encode()).hexdigest()
