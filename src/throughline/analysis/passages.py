"""What is scored of an image: its class as the whole answer, and chains; and what each token of an answer is.

Kinds of token: `class` where the class stands as the answer (all of the answer where no class is spelled as the list
has it), `mention` where a class is named elsewhere, `tag` in a stage's tags, `end` for what closes the turn, `text` for
the rest. Definitions are ours: the paper's are not known to us.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from throughline.analysis.records import Source
from throughline.chains.formats import ChainFormat, tag_pattern
from throughline.domains.samples import Sample
from throughline.questions.wording import class_name

CLASS, MENTION, TAG, END, TEXT = "class", "mention", "tag", "end", "text"

Span = tuple[int, int]


@dataclass(frozen=True)
class Passages:
    """An image with the texts whose tokens are scored: its class as `label`, chains as `teacher` and `self`."""

    sample: Sample
    texts: Mapping[Source, str]


@dataclass(frozen=True)
class Word:
    """What one token of an answer is: its characters, the stage it lies in (empty outside), its kind."""

    text: str
    stage: str
    kind: str


def label_words(answer: str, spans: Sequence[Span]) -> list[Word]:
    """Every token of a class as the whole answer is a class token; what closes the turn is not."""
    return [
        Word(text, "", END if begin == end == len(answer) else CLASS)
        for text, (begin, end) in zip(_pieces(answer, spans), spans, strict=True)
    ]


def chain_words(chain: str, spans: Sequence[Span], form: ChainFormat, classes: tuple[str, ...]) -> list[Word]:
    """What the tokens of a chain are; one belongs to a name or a tag as soon as it shares a character with it."""
    tags = list(tag_pattern(form).finditer(chain))
    names = [found.span() for found in _names_of(classes).finditer(chain)]
    stages = _stage_spans(chain, form)
    answer = stages.get(form.answer_stage)
    words = []
    for text, (begin, end) in zip(_pieces(chain, spans), spans, strict=True):
        within = next((name for name, (start, stop) in stages.items() if _touches((begin, end), (start, stop))), "")
        if begin == end == len(chain):
            kind, within = END, ""
        elif any(_touches((begin, end), name) for name in names):
            kind = CLASS if answer is not None and _touches((begin, end), answer) else MENTION
        elif any(_touches((begin, end), tag.span()) for tag in tags):
            kind, within = TAG, ""
        else:
            kind = TEXT
        words.append(Word(text, within, kind))
    if not any(word.kind == CLASS for word in words):  # the parser takes other spellings than the literal one, too
        words = [replace(w, kind=CLASS) if w.kind == TEXT and w.stage == form.answer_stage else w for w in words]
    return words


def _pieces(answer: str, spans: Sequence[Span]) -> list[str]:
    """The answer in pieces, one for each token, blanks between two tokens before the second."""
    pieces, at = [], 0
    for _, end in spans:
        pieces.append(answer[at : max(at, end)])
        at = max(at, end)
    return pieces


def _stage_spans(chain: str, form: ChainFormat) -> dict[str, Span]:
    """From where to where each stage's text runs, tags not included."""
    spelled = {name.casefold(): name for name in form.tagged_stages}
    opened: dict[str, int] = {}
    found: dict[str, Span] = {}
    end = 0
    for tag in tag_pattern(form).finditer(chain):
        name, end = spelled[tag["stage"].casefold()], tag.end()
        if not tag["closing"]:
            opened[name] = end
        elif name in opened:
            found[name] = (opened[name], tag.start())
    if form.answer_is_tail:
        found[form.answer_stage] = (end, len(chain))
    return found


def _touches(one: Span, other: Span) -> bool:
    return max(one[0], other[0]) < min(one[1], other[1])


@lru_cache(maxsize=32)
def _names_of(classes: tuple[str, ...]) -> re.Pattern[str]:
    """Longest first, so that `hot dog` is not found as `dog`."""
    names = sorted({class_name(label) for label in classes}, key=len, reverse=True)
    return re.compile("|".join(rf"(?<!\w){re.escape(name)}(?!\w)" for name in names), re.IGNORECASE)
