"""Which classes a piece of prose names, and whether it asserts them, denies them or only considers them. The answer
parser and the verdict rules stand on this; nothing here ever guesses.

The rules of denial are small and err towards denying: a wrongly denied class costs an unparsed answer, which is
shown; a wrongly asserted one would be a silent error.
"""

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from throughline.chains.names import ARTICLES, COMMA, NO_GAP, STOP, Prose, Span, matcher_of, read_prose


@dataclass(frozen=True)
class Mentions:
    """The classes a text names, by how it names them; a class can be in several sets."""

    asserted: frozenset[str] = frozenset()
    denied: frozenset[str] = frozenset()
    """Only named to say that it is not them: "not a dog", "rather than a dog", "dog can be ruled out"."""
    considered: frozenset[str] = frozenset()
    """Asked or compared with: "is it a dog?", "a dog would have ears", "easily mistaken for a dog"."""
    words: int = 0
    """How many words the text has."""
    whole: bool = False
    """The text is one name and nothing else, so that there is nothing to interpret."""


def find_mentions(text: str, classes: Sequence[str]) -> Mentions:
    """The classes of `classes` named in `text`; linear in the text. Raises ThroughlineError as `matcher_of` does."""
    matcher, prose = matcher_of(tuple(classes)), read_prose(text)
    words = len(prose.words)
    whole = matcher.whole(prose)
    if whole is not None:
        return Mentions(asserted=whole, words=words, whole=True)
    spans = matcher.spans(prose)
    if not spans:
        return Mentions(words=words)
    considered = _considered_spans(prose, spans)
    denied = _denied_spans(prose, spans) - considered
    asserted = set(range(len(spans))) - considered - denied
    return Mentions(_named(spans, asserted), _named(spans, denied), _named(spans, considered), words)


def _named(spans: Sequence[Span], chosen: set[int]) -> frozenset[str]:
    return frozenset[str]().union(*(spans[index].classes for index in chosen))


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _pairs(text: str) -> frozenset[tuple[str, ...]]:
    return frozenset(tuple(pair.split()) for pair in text.split(","))


_DENYING = _words(
    "not no non never neither nor none nothing without cannot cant couldnt isnt arent aint wasnt werent doesnt dont "
    "didnt wont wouldnt shouldnt hasnt havent unlike except excluding excludes exclude hardly barely "
    "scarcely lacks lacking"
)
_DENYING_PAIRS = _pairs(
    "rather than, instead of, other than, anything but, far from, rule out, rules out, ruled out, ruling out, "
    "decide against, decides against, speak against, speaks against, argue against, argues against, evidence against"
)
_PASSIVE = _words("is was are were be been")
_NOT_DENYING = _pairs(
    "not only, not just, not merely, not simply, no doubt, no question, nothing but, no other, none other"
)

_TURNING = _words("but rather instead however although though yet so therefore thus hence actually yes because")
"""After these a denial no longer holds: "not a dog but a cat"."""

_STARTING = _words(
    "it its this that these those there they he she i we which is are was were looks appears seems shows depicts answer"
)
"""A new statement starts, and a denial ends: "no dog in sight it is a cat"."""

_TRANSPARENT = _words(
    "think believe suppose feel say sure certain clear true possible likely evidence sign indication way chance "
    "reason proof mean imply suggest"
)
"""A denial of these reaches into the statement that follows: "I do not think it is a dog"."""

_REACH_BEFORE, _REACH_AFTER = 8, 3
"""How many words a denial reaches: to the first class it denies, and from one denied class to the next."""


def _denied_spans(prose: Prose, spans: list[Span]) -> set[int]:
    """Which of `spans` (by index) the text says it is not."""
    inside = {position for span in spans for position in range(span.start, span.end)}
    denied: set[int] = set()
    triples = zip(["", *prose.words], prose.words, [*prose.words[1:], ""], strict=False)
    for position, (before, word, following) in enumerate(triples):
        start: int | None = None
        if position in inside:
            continue  # a class called "no_smoking" denies nothing
        if (word, following) in _DENYING_PAIRS:
            # "none other than" asserts; "was ruled out" speaks of what stands before it
            spoken_of = before in _PASSIVE if following == "out" else before in ("no", "none")
            start = None if spoken_of else position + 2
        elif word in _DENYING and (word, following) not in _NOT_DENYING:
            start = _after_aside(prose, position)
        if start is not None:
            transparent = start < len(prose.words) and prose.words[start] in _TRANSPARENT
            denied |= _reached(prose, spans, start, transparent, denied)
    return denied | {index for index, span in enumerate(spans) if _denied_after(prose, span)}


def _after_aside(prose: Prose, cue: int) -> int | None:
    """Where the reach of the denying word at `cue` starts; None for the "No, …" that answers."""
    start = cue + 1
    gap = prose.gaps[start] if start < len(prose.words) else STOP
    if gap == STOP or (gap != NO_GAP and prose.words[cue] == "no"):
        return None
    if gap != COMMA:
        return start
    # "not, however, a dog": go on behind the second comma
    for position in range(start + 1, min(start + 6, len(prose.words))):
        if prose.gaps[position] == COMMA:
            return position
    return start


def _reached(prose: Prose, spans: list[Span], start: int, transparent: bool, known: set[int]) -> set[int]:
    """The spans (by index) that a word reaches whose scope starts at word `start`.

    Ends at the end of a clause, at a turn ("but"), at the next denial, at a new statement unless `transparent`,
    and at a comma before the first class; between classes a comma makes a list, which is reached as a whole.
    `known` holds what earlier words of the same kind have reached: from there on the way is the same, so that a
    long text is walked once.
    """
    words, reached = prose.words, set[int]()
    index = bisect_left(spans, start, key=lambda span: span.start)
    position, left = start, _REACH_BEFORE
    while position < len(words) and left > 0:
        gap, word = (prose.gaps[position] if position > start else NO_GAP), words[position]
        if gap == STOP or (gap == COMMA and not reached):
            break
        if index < len(spans) and spans[index].start <= position:
            if index in known:
                break
            reached.add(index)
            position, left, index = max(spans[index].end, position), _REACH_AFTER, index + 1
            continue
        if word in _TURNING or word in _DENYING or (word in _STARTING and (reached or not transparent)):
            break
        position, left = position + 1, left - (word not in ARTICLES)
    return reached


_COPULA = "(?:is|was|are|were|can|could|may|seems|appears)"
_DENIED_AFTER = re.compile(
    rf"(?:isnt|wasnt|arent|werent|cannot|cant|{_COPULA} not)"
    r"(?:$| (?:the|it|correct|right|possible|plausible|likely|present|visible|shown|here|what|in|among)\b)"
    rf"|(?:{_COPULA}(?: be| been)* )?"
    r"(?:wrong|incorrect|unlikely|improbable|impossible|excluded|ruled|absent|false)\b"
)


def _denied_after(prose: Prose, span: Span) -> bool:
    """Whether the words behind a name deny it: "dog is ruled out", "a dog is not what this is"."""
    behind = range(span.end, min(span.end + 4, len(prose.words)))
    tail = " ".join(prose.words[position] for position in takewhile(lambda p: prose.gaps[p] < COMMA, behind))
    return _DENIED_AFTER.match(tail) is not None


_CONDITIONAL = re.compile(r"would\b(?! be (?:my|the|best)\b)")
_COMPARING = _words("confused mistaken differs distinguish distinguishes distinguished versus")


def _considered_spans(prose: Prose, spans: list[Span]) -> set[int]:
    """Which of `spans` (by index) are only asked about or compared with."""
    compared: set[int] = set()
    for position, word in enumerate(prose.words):
        if word in _COMPARING or (word == "from" and prose.words[max(position - 1, 0)] == "different"):
            compared |= _reached(prose, spans, position + 1, transparent=True, known=compared)
    return compared | {
        index for index, span in enumerate(spans) if prose.asked[span.start] or _conditional(prose, span)
    }


def _conditional(prose: Prose, span: Span) -> bool:
    """ "A dog would have ears" speaks of no dog that is there; "a dog would be my answer" does."""
    return _CONDITIONAL.match(" ".join(prose.words[span.end : span.end + 3])) is not None
