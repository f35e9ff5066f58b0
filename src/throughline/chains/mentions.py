"""Which classes a piece of prose names, and whether it asserts them, denies them or only considers them. The answer
parser and the verdict rules stand on this; nothing here ever guesses.

The rules err towards denying: a wrongly denied class costs an unparsed answer, which is shown; a wrongly asserted one
would be a silent error.
"""

import re
import tomllib
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import pairwise, takewhile

from throughline.chains.names import ARTICLES, COMMA, NO_GAP, STOP, Aliases, Prose, Span, matcher_of, read_prose


@dataclass(frozen=True)
class Mentions:
    """The classes a text names, by how it names them; a class can be in several sets."""

    prose: Prose
    asserted: tuple[Span, ...] = ()
    denied: tuple[Span, ...] = ()
    """Only named to say that it is not them: "not a dog", "rather than a dog", "dog can be ruled out"."""
    considered: tuple[Span, ...] = ()
    """Asked, compared with, or part of another thing: "is it a dog?", "larger than a dog", "a dog collar"."""
    whole: bool = False
    """The text is one name and nothing else, so that there is nothing to interpret."""

    def within(self, start: int, end: int) -> "Mentions":
        """Those of the words `start` to `end` (exclusive)."""

        def inside(spans: tuple[Span, ...]) -> tuple[Span, ...]:
            first, last = (bisect_left(spans, place, key=lambda span: span.start) for place in (start, end))
            return spans[first:last]

        return Mentions(self.prose, inside(self.asserted), inside(self.denied), inside(self.considered))

    def without(self, places: set[int]) -> "Mentions":
        """Those that begin at none of these words."""

        def left(spans: tuple[Span, ...]) -> tuple[Span, ...]:
            return tuple(span for span in spans if span.start not in places)

        return Mentions(self.prose, left(self.asserted), left(self.denied), left(self.considered))

    @property
    def named(self) -> bool:
        """Whether any class is named in any way."""
        return bool(self.asserted or self.denied or self.considered)


def find_mentions(text: str, classes: Sequence[str], aliases: Aliases | None = None) -> Mentions:
    """The classes of `classes` named in `text`; linear in the text. Raises ThroughlineError as `matcher_of` does."""
    matcher, prose = matcher_of(classes, aliases), read_prose(text)
    whole = matcher.whole(prose)
    if whole is not None:
        return Mentions(prose, asserted=(Span(0, len(prose.words), whole),), whole=True)
    spans = _heads(prose, [span for span in matcher.spans(prose) if not _function_word(prose, span)])
    if not spans:
        return Mentions(prose)
    starts = {span.start for span in spans}
    considered = _reached_by(prose, spans, _COMPARING) | {
        index for index, span in enumerate(spans) if prose.asked[span.start] or _only_compared(prose, span, starts)
    }
    denied = _reached_by(prose, spans, _DENYING) | {
        index for index, span in enumerate(spans) if _denied_after(prose, span)
    }
    kinds = (set(range(len(spans))) - considered - denied, denied - considered, considered)
    asserted, denied_spans, considered_spans = (tuple(spans[index] for index in sorted(kind)) for kind in kinds)
    return Mentions(prose, asserted, denied_spans, considered_spans)


def classes_of(spans: Sequence[Span]) -> frozenset[str]:
    """The classes that the spans name."""
    return frozenset[str]().union(*(span.classes for span in spans))


_TABLES = tomllib.loads(resources.files(__package__).joinpath("cues.toml").read_text("utf-8"))


def words_in(table: str, key: str) -> frozenset[str]:
    """A list of words of `cues.toml`, which says what they are for."""
    return frozenset(_TABLES[table][key].split())


def _phrases_in(table: str, key: str = "phrases") -> frozenset[tuple[str, ...]]:
    return frozenset(tuple(phrase.split()) for phrase in _TABLES[table].get(key, "").split(","))


# which words are names ----------------------------------------------------------------------------------------------

_FUNCTION_WORDS, _INTRODUCING = words_in("names", "function_words"), words_in("names", "introducing")


def _function_word(prose: Prose, span: Span) -> bool:
    """Whether the span is the article or the pronoun of a sentence, and not the class called "A" or "I"."""
    if span.end > span.start + 1 or prose.words[span.start] not in _FUNCTION_WORDS:
        return False
    ends_clause = span.end == len(prose.words) or prose.gaps[span.end] != NO_GAP
    return not ends_clause and (span.start == 0 or prose.words[span.start - 1] not in _INTRODUCING)


def _heads(prose: Prose, spans: list[Span]) -> list[Span]:
    """Without a name that another name follows at once: a computer mouse is a mouse, a bike helmet a helmet."""

    def compound(left: Span, right: Span) -> bool:
        words = prose.words[left.start : right.end]
        return (
            left.end == right.start
            and prose.gaps[right.start] == NO_GAP
            and left.classes != right.classes
            and all(word.isalpha() and len(word) > 1 for word in words)
        )

    joined = [False, *(compound(left, right) for left, right in pairwise(spans)), False]
    # of three in a row nobody knows what they are: all stay
    modifies = [not joined[at] and joined[at + 1] and joined[at + 2 : at + 3] != [True] for at in range(len(spans))]
    return [span for span, modifier in zip(spans, modifies, strict=True) if not modifier]


# how far a word of denial or comparison reaches -----------------------------------------------------------------------


_Cues = dict[tuple[str, ...], bool]
"""Phrases of at most three words that speak about the names behind them, and whether they reach into a statement that
follows: "I doubt that it is a dog"."""


def _cues(table: str) -> _Cues:
    return dict.fromkeys(_phrases_in(table), False) | dict.fromkeys(_phrases_in(table, "through"), True)


_DENYING, _COMPARING, _NEUTRAL = _cues("denying"), _cues("comparing"), _phrases_in("neutral")
_PASSIVE, _BACKWARDS = words_in("reach", "passive"), words_in("reach", "backwards")
_TURNING, _STARTING = words_in("reach", "turning"), words_in("reach", "starting")
_TRANSPARENT, _RESTARTING = words_in("reach", "transparent"), words_in("reach", "restarting")

_REACH_BEFORE, _REACH_AFTER = 8, 3
"""How many words a denial reaches: to the first class it denies, and from one denied class to the next."""


def _found(prose: Prose, cues: _Cues, inside: set[int]) -> Iterator[tuple[int, int, bool]]:
    """Where each of the phrases starts and ends, and whether it reaches through statements."""
    words, position = prose.words, 0
    while position < len(words):
        phrases = [tuple(words[position : position + length]) for length in (3, 2, 1)]
        neutral = next((phrase for phrase in phrases if phrase in _NEUTRAL), None)
        cue = next((phrase for phrase in phrases if phrase in cues), None)
        # a class called "no_smoking" denies nothing
        if neutral is None and cue is not None and position not in inside:
            yield position, position + len(cue), cues[cue]
        position += len(neutral or cue or " ")


def _reached_by(prose: Prose, spans: list[Span], cues: _Cues) -> set[int]:
    """Which of `spans` (by index) the phrases speak about."""
    words, reached = prose.words, set[int]()
    inside = {position for span in spans for position in range(span.start, span.end)}
    for position, end, through_statements in _found(prose, cues, inside):
        word, before = words[position], words[position - 1] if position else ""
        if before in _PASSIVE and word in _BACKWARDS:
            continue
        start = _after_aside(prose, end)
        if word == "too":  # "too large for a dog", "too large to be a dog"
            start = next((at for at in range(end, min(end + 4, len(words))) if words[at] in ("to", "for")), None)
        if start is not None:
            transparent = through_statements or (start < len(words) and words[start] in _TRANSPARENT)
            reached |= _reached(prose, spans, start, transparent, reached)
    return reached


def _after_aside(prose: Prose, start: int) -> int | None:
    """Where the reach of the cue before word `start` begins; None for the "No, …" that answers."""
    gap = prose.gaps[start] if start < len(prose.words) else STOP
    if gap == STOP or (gap != NO_GAP and prose.words[start - 1] == "no"):
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
        starts = word in _STARTING and (reached or not transparent)
        if starts or word in _TURNING or (word,) in _DENYING or (reached and word in _RESTARTING):
            break
        position, left = position + 1, left - (word not in ARTICLES)
    return reached


# what stands beside a name --------------------------------------------------------------------------------------------


def _behind(prose: Prose, span: Span, count: int, limit: int = COMMA) -> list[str]:
    """At most `count` words behind a name, as far as no gap of `limit` or more stands before one."""
    places = range(span.end, min(span.end + count, len(prose.words)))
    return [prose.words[place] for place in takewhile(lambda place: prose.gaps[place] < limit, places)]


_COPULAS = [[word] for word in ("is", "was", "are", "were", "can", "could", "may", "seems", "appears")]
_COPULA = f"(?:{'|'.join(word for (word,) in _COPULAS)})"
_DENIED_AFTER = re.compile(
    rf"(?:isnt|wasnt|arent|werent|cannot|cant|{_COPULA} not)"
    r"(?:$| (?:the|it|correct|right|possible|plausible|likely|present|visible|shown|here|what|in|among)\b)"
    rf"|(?:{_COPULA}(?: be| been)* )?"
    r"(?:wrong|incorrect|unlikely|improbable|impossible|implausible|doubtful|excluded|eliminated|discarded|rejected|"
    r"dismissed|ruled|absent|false|out of|(?:the )?(?:least|less) likely|not likely)\b"
    r"|(?:does not|doesnt|do not|dont|did not|didnt) (?:fit|match|apply|work)\b"
    r"|(?:で|じ ゃ) は? ?(?:な い|あ り ま せ ん)|(?:이|가) 아"
)


def _denied_after(prose: Prose, span: Span) -> bool:
    """Whether the words behind a name deny it: "dog is ruled out", "the animal, a dog, is not here"."""
    behind = _behind(prose, span, 7)
    if not behind and _behind(prose, span, 1, STOP)[:1] in _COPULAS:
        behind = [prose.words[span.end], *_behind(prose, Span(span.start, span.end + 1, span.classes), 6)]
    return _DENIED_AFTER.match(" ".join(behind)) is not None


_CONDITIONAL = re.compile(r"would\b(?! be (?:my|the|best)\b)")
_ENDINGS, _OTHER_THINGS = words_in("names", "endings"), _phrases_in("names", "other_things")
_FOLLOWING, _NOUNS_LIKE_VERBS = words_in("names", "following"), words_in("names", "nouns_like_verbs")
_VERB = re.compile(r".{2,}ing|.{2,}[^e]ed|.*ly|\d.*|[^a-z].*")


def _inside_another_noun(prose: Prose, span: Span) -> bool:
    """Whether another noun follows a name at once: a bird feeder, a dog collar, a mouse pad are no such things."""
    behind = _behind(prose, span, 1, limit=NO_GAP + 1)
    if span.end in prose.hyphens:
        return not behind[0].isdigit()
    if not behind or behind[0] in _FOLLOWING:
        return False
    # "a dog barks": no noun in the plural follows "a"
    if behind[0].endswith("s") and {"a", "an", "one"} & set(prose.words[max(span.start - 3, 0) : span.start]):
        return False
    return _VERB.fullmatch(behind[0]) is None or behind[0] in _NOUNS_LIKE_VERBS


def _only_compared(prose: Prose, span: Span, starts: set[int]) -> bool:
    """Whether a name says what something would be, looks like, or belongs to: "a dog would have ears", "a dog-like
    animal", "a dog collar"; or what else it is part of: "a hot dog"."""
    behind = " ".join(_behind(prose, span, 3))
    before = prose.words[span.start - 1] if span.start and prose.gaps[span.start] == NO_GAP else ""
    return (
        _CONDITIONAL.match(behind) is not None
        or behind.split(" ")[0] in _ENDINGS
        or (before, prose.words[span.end - 1]) in _OTHER_THINGS
        or _as_as(prose, span)
        or (span.end not in starts and _inside_another_noun(prose, span))
    )


def _as_as(prose: Prose, span: Span) -> bool:
    """ "as large as a dog", "the same size as a dog"."""
    before = [word for word in prose.words[max(span.start - 6, 0) : span.start] if word not in ARTICLES]
    return before[-1:] == ["as"] and bool({"as", "same"} & set(before[-4:-1]))
