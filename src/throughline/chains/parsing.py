"""Reads a reasoning chain from a model's text, strictly: a chain of its format, or one named fault. Self-labelling,
evaluation and dataset building all accept chains through here; parsing what `render_chain` wrote gives it back.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from throughline.chains.answers import is_refusal, parse_answer
from throughline.chains.formats import Chain, ChainFormat, tag_pattern
from throughline.chains.names import Aliases
from throughline.chains.outcomes import Outcome
from throughline.core.untrusted import one_line


@dataclass(frozen=True)
class ParsedChain:
    """What a text is.

    `chain` is None exactly when the *form* is at fault. With a chain, `outcome` is that of its answer stage, and
    `label` the class concluded, None unless `outcome` is ok. `detail` says in words what is at fault and where.
    """

    chain: Chain | None
    outcome: Outcome
    detail: str
    label: str | None


def parse_chain(
    text: str,
    format: ChainFormat,
    classes: Sequence[str],
    finish_reason: str | None = None,
    aliases: Aliases | None = None,
) -> ParsedChain:
    """The chain of `format` in `text`, or the one fault that keeps it from being one.

    Tags count in any case and with blanks inside the brackets. `finish_reason` is the generator's or the
    provider's: "length" is truncated, "content_filter" refusal, "error" error, whatever the text looks like.
    Of several faults of form the first of this order is named: empty, refusal, truncated, repeated_stage,
    missing_stage, wrong_order, empty_stage, trailing_text. Never raises on any text; linear time.
    """
    fault = _fault_of_generation(text, format, finish_reason)
    if fault is None:
        texts, fault = _read_stages(text, format)
    if fault is not None:
        return ParsedChain(None, fault[0], fault[1], None)
    chain = Chain(format, tuple(texts[name] for name in format.stages))
    answer = parse_answer(chain.answer, classes, aliases)
    detail = "" if answer.label is not None else f"{format.answer_stage}: {one_line(chain.answer, _SHOWN)}"
    return ParsedChain(chain, answer.outcome, detail, answer.label)


_SHOWN = 80
"""Characters of a text that a detail repeats."""
_Fault = tuple[Outcome, str]

_BY_FINISH_REASON: dict[str, _Fault] = {
    "length": (Outcome.TRUNCATED, "the generation stopped at its length limit"),
    "content_filter": (Outcome.REFUSAL, "the provider filtered the answer"),
    "error": (Outcome.ERROR, "the generation failed"),
}


def _fault_of_generation(text: str, format: ChainFormat, finish_reason: str | None) -> _Fault | None:
    if finish_reason in _BY_FINISH_REASON:
        return _BY_FINISH_REASON[finish_reason]
    if not text.strip():
        return Outcome.EMPTY, "no text"
    if tag_pattern(format).search(text) is None and is_refusal(text):
        return Outcome.REFUSAL, one_line(text, _SHOWN)
    return None


@dataclass
class _Tags:
    """What the tags of a text say, gathered from left to right."""

    texts: dict[str, str] = field(default_factory=dict)
    """The text between the tags of each stage."""
    order: list[str] = field(default_factory=list)
    opened: str | None = None
    """The stage that is open at the end of the text."""
    tail: str = ""
    """What follows the last tag."""
    faults: dict[Outcome, str] = field(default_factory=dict)
    """The first fault of each kind, in words."""


_FAULTS_OF_FORM = (
    Outcome.TRUNCATED,
    Outcome.REPEATED_STAGE,
    Outcome.MISSING_STAGE,
    Outcome.WRONG_ORDER,
    Outcome.EMPTY_STAGE,
    Outcome.TRAILING_TEXT,
)
"""Of several the first of these is named."""


def _scan(text: str, format: ChainFormat) -> _Tags:
    spelled = {name.casefold(): name for name in format.tagged_stages}
    tags = _Tags()
    note, end = tags.faults.setdefault, 0
    for tag in tag_pattern(format).finditer(text):
        name, between = spelled[tag["stage"].casefold()], text[end : tag.start()].strip()
        end = tag.end()
        if tags.opened == name and tag["closing"]:
            tags.texts[name], tags.opened = between, None
            continue
        if name in tags.texts or (name == tags.opened):
            note(Outcome.REPEATED_STAGE, name)
        if tag["closing"]:
            note(Outcome.MISSING_STAGE, f"{name} is closed but not open")
            continue
        if tags.opened is not None:
            note(Outcome.MISSING_STAGE, f"{tags.opened} is not closed before {name}")
        elif between:
            note(Outcome.TRAILING_TEXT, f"before {name}: {one_line(between, _SHOWN)}")
        tags.opened = name
        tags.order.append(name)
    tags.tail = text[end:].strip()
    return tags


def _read_stages(text: str, format: ChainFormat) -> tuple[dict[str, str], _Fault | None]:
    """The text of every stage, and the fault of form if there is one."""
    tags = _scan(text, format)
    texts, note = tags.texts, tags.faults.setdefault
    if format.answer_is_tail and tags.tail:
        texts[format.answer_stage], tags.tail = tags.tail, ""
    if _starts_a_tag(tags.tail, format):
        note(Outcome.TRUNCATED, f"the text ends inside a tag: {tags.tail}")
    elif tags.opened is not None:
        note(Outcome.TRUNCATED, f"the text ends inside {tags.opened}")
    if missing := [name for name in format.stages if name not in texts]:
        note(Outcome.MISSING_STAGE, ", ".join(missing))
    if tuple(tags.order) != format.tagged_stages:
        note(Outcome.WRONG_ORDER, ", ".join(tags.order))
    if empty := [name for name, stage in texts.items() if not stage]:
        note(Outcome.EMPTY_STAGE, ", ".join(empty))
    if tags.tail:
        note(Outcome.TRAILING_TEXT, f"after the last stage: {one_line(tags.tail, _SHOWN)}")
    return texts, next(((kind, tags.faults[kind]) for kind in _FAULTS_OF_FORM if kind in tags.faults), None)


def _starts_a_tag(tail: str, format: ChainFormat) -> bool:
    """Whether `tail` is the beginning of one of the format's opening tags, cut off."""
    return tail.startswith("<") and any(f"<{name}>".casefold().startswith(tail.casefold()) for name in format.stages)
