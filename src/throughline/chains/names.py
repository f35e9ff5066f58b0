"""Prose as words, and the names of a class list in it. A name is found where consecutive words, run together, spell
it: "hot dog", "hot-dog", "HotDog" and "hotdog" are one name, and a name never starts or ends inside a word. Called
by `mentions`, which knows what the words around a name make of it.
"""

import re
import string
import unicodedata
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, reduce
from itertools import chain, groupby, islice

from throughline.core.errors import ThroughlineError

Aliases = Mapping[str, Sequence[str]]
"""Class → other names of it."""


def words_of(text: str) -> list[str]:
    """The words of a text in the parser's normal form: compatibility characters resolved, case folded, apostrophes
    dropped."""
    return _WORD.findall(_fold(text))


NO_GAP, MARK, COMMA, STOP = range(4)
"""What stands before a word: a blank, a hyphen or nothing; another mark or a new line; a comma; a clause's end."""

_DROPPED = re.compile("['’ʼ`\u00ad\u200b\u200c\u200d\u2060\ufeff]")
"""Apostrophes ("isn't" is one word) and characters without width."""

_HAN, _HIRAGANA, _KATAKANA, _HANGUL = "\\u3400-\\u9fff\\uf900-\\ufaff々", "ぁ-ゟ", "゠-ヿ", "가-힣"
_KOREAN_ENDING = "입니다|이에요|예요|이다|이|가|은|는|을|를|와|과|의|도|으로|로|인|처럼"
_LETTERS = (
    rf"[{_HAN}{_HIRAGANA}]|[{_KATAKANA}]+|[{_HANGUL}]+?(?=(?:{_KOREAN_ENDING})?(?![{_HANGUL}]))"
    rf"|[^\W_{_HAN}{_HIRAGANA}{_KATAKANA}{_HANGUL}]+"
)
"""A word. A script that is written without blanks ends one, each Chinese character is one, a Korean ending is one."""

_WORD = re.compile(_LETTERS)
_UNSPACED = re.compile(rf"[{_HAN}{_HIRAGANA}]+")
_PIECE = re.compile(
    rf"(?P<word>{_LETTERS})|(?P<stop>\.(?!\w)|[;!?。]|—|\n\s*\n|(?<=\s)[-–](?=\s))|(?P<comma>[,、])"
    r"|(?P<colon>[:=])|(?P<line>\n)|(?P<hyphen>(?<=\w)[‐‑–-](?=\w))|(?P<mark>[^\w\s‐‑–-])"
)


_ABBREVIATED = frozenset({"st", "mt", "dr", "mr", "mrs", "vs", *string.ascii_lowercase})
"""A dot after these ends no clause: "St. Bernard", "T. rex"."""


@dataclass(frozen=True)
class Prose:
    """A text as its words in normal form."""

    words: list[str] = field(default_factory=list)
    gaps: list[int] = field(default_factory=list)
    """What stands before each word."""
    asked: list[bool] = field(default_factory=list)
    """Whether the clause of each word ends in a question mark."""
    colons: list[int] = field(default_factory=list)
    """The words behind a colon or an equals sign."""
    hyphens: set[int] = field(default_factory=set)
    """The words that a hyphen ties to the one before."""
    lines: set[int] = field(default_factory=set)
    """The words that begin a line."""


_MARKS_IN_A_ROW = 30
"""More combining marks on one letter are no language (Stream-Safe Text Format, UAX #15)."""


def _fold(text: str) -> str:
    if not text.isascii():
        text = unicodedata.normalize("NFKC", _with_few_marks(text))
    return _DROPPED.sub("", text.casefold())


def _with_few_marks(text: str) -> str:
    """Cuts runs of combining marks: the normalisation sorts each run in quadratic time."""
    runs = groupby(text, key=lambda character: unicodedata.combining(character) > 0)
    return "".join(chain.from_iterable(islice(run, _MARKS_IN_A_ROW) if is_marks else run for is_marks, run in runs))


def read_prose(text: str) -> Prose:
    """Words, the gaps before them, and questions; linear in the text."""
    prose = Prose()
    words, gap, clause_start = prose.words, NO_GAP, 0
    for piece in _PIECE.finditer(_fold(text)):
        kind, mark = piece.lastgroup, piece.group()
        if kind == "word":
            words.append(mark)
            prose.gaps.append(gap)
            prose.asked.append(False)
            gap = NO_GAP
        elif kind == "stop":
            listed = words and words[-1].isdigit() and (len(words) == 1 or len(words) - 1 in prose.lines)
            if mark == "." and words and (words[-1] in _ABBREVIATED or listed):
                gap = max(gap, MARK if listed else NO_GAP)
                continue
            if mark == "?":
                prose.asked[clause_start:] = [True] * (len(words) - clause_start)
            gap, clause_start = STOP, len(words)
        elif kind == "hyphen":
            prose.hyphens.add(len(words))
        else:
            gap = max(gap, COMMA if kind == "comma" else MARK)
        if kind == "colon":
            prose.colons.append(len(words))
        if "\n" in mark:
            prose.lines.add(len(words))
    return prose


ARTICLES = frozenset({"a", "an", "the"})

_PLURALS = {
    "person": "people",
    "mouse": "mice",
    "tooth": "teeth",
    "foot": "feet",
    "goose": "geese",
    "child": "children",
}
_SINGULARS = {plural: singular for singular, plural in _PLURALS.items()}
_PLURAL_ENDINGS = (("$", "s"), ("(s|x|z|ch|sh|o)$", r"\1es"), ("y$", "ies"), ("fe?$", "ves"))
_SINGULAR_ENDINGS = (("s$", ""), ("ies$", "y"), ("ves$", "f"), ("ves$", "fe"), ("(s|x|z|ch|sh|o)es$", r"\1"))
"""How a regular noun ends, and how it ends in the other number."""

_NO_PLURAL = re.compile(r".{0,3}|.*(?:[^s]|ss)|shorts|glasses")
"""Too short, no plural's ending, or a plural whose singular is another word: "a short dog", "a glass bottle"."""


@dataclass(frozen=True)
class Span:
    """Words `start` to `end` (exclusive) name `classes`: one, or several that share a spelling."""

    start: int
    end: int
    classes: frozenset[str]


@dataclass(frozen=True)
class Matcher:
    """All names of a class list, run together."""

    names: dict[str, frozenset[str]]
    ordered: tuple[str, ...]
    """The names in the order of their letters: those with one beginning stand together."""
    crosses_commas: bool
    """Some class name has a comma inside, so that a name may run over one."""

    def begins(self, letters: str) -> bool:
        """Whether any name begins with these letters."""
        place = bisect_left(self.ordered, letters)
        return place < len(self.ordered) and self.ordered[place].startswith(letters)

    def whole(self, prose: Prose) -> frozenset[str] | None:
        """The classes that the whole text, less a leading article, is a name of: nothing to interpret then."""
        # A name of n letters has at most n words: longer texts are prose, and are not run together here.
        if len(prose.words) > 64:
            return None
        exact = self.names.get(_run_together(prose.words))
        if exact is None and prose.words and prose.words[0] in ARTICLES:
            exact = self.names.get(_run_together(prose.words[1:]))
        return exact

    def spans(self, prose: Prose) -> list[Span]:
        """Longest names from left to right; overlapping ones both count, contained ones do not."""
        words, spans, reach = prose.words, list[Span](), 0
        limit = COMMA if not self.crosses_commas else STOP
        for start, word in enumerate(words):
            name, end = word, start + 1
            best: Span | None = None
            while self.begins(name):
                if name in self.names:
                    best = Span(start, end, self.names[name])
                if end == len(words) or prose.gaps[end] >= limit:
                    break
                if words[end] in ARTICLES and end + 1 < len(words) and prose.gaps[end + 1] == NO_GAP:
                    end += not self.begins(_joined(name, words[end]))
                name = _joined(name, words[end])
                end += 1
            if best is not None and best.end > reach and not _in_a_longer_word(prose, best):
                spans.append(self._with_shared_end(prose, best))
                reach = best.end
        return spans

    def _with_shared_end(self, prose: Prose, span: Span) -> Span:
        """Of "an African or Asian elephant" the last words name two classes, which share their end."""
        if span.start < 2 or prose.words[span.start - 1] not in ("or", "and") or prose.gaps[span.start - 1] >= STOP:
            return span
        first = prose.words[span.start - 2]
        ends = (prose.words[start : span.end] for start in range(span.start + 1, span.end))
        shared = (self.names.get(_run_together([first, *end]), frozenset[str]()) for end in ends)
        return replace(span, classes=span.classes.union(*shared))


_BEFORE_A_NAME = frozenset(
    "是為为只隻匹条條头頭個个张張位名辆輛把朵棵座台幅种種款有像的和或与與及跟即到见見示选"
    "選不非没沒無无这這那该該はがのをにでともやか"
)
_BEHIND_A_NAME = frozenset("的了吧呢吗嗎啊和或与與及跟在正站坐躺趴跑是不而但也都はがのをにでともやかだじ")


def _in_a_longer_word(prose: Prose, span: Span) -> bool:
    """Whether a name in Chinese characters is part of another word, as the horse (马) is of the zebra (斑马). Words
    are not set apart there: a neighbour counts as another word where it is a particle, a verb or a measure word."""
    if not _UNSPACED.fullmatch(prose.words[span.start] + prose.words[span.end - 1]):
        return False
    sides = ((span.start - 1, span.start, _BEFORE_A_NAME), (span.end, span.end, _BEHIND_A_NAME))
    return any(
        0 <= neighbour < len(prose.words)
        and prose.gaps[second] == NO_GAP
        and prose.words[neighbour] not in separate
        and _UNSPACED.fullmatch(prose.words[neighbour]) is not None
        for neighbour, second, separate in sides
    )


def _joined(left: str, right: str) -> str:
    # two numbers side by side stay two numbers
    return f"{left} {right}" if left[-1:].isdigit() and right[:1].isdigit() else left + right


def _run_together(words: Iterable[str]) -> str:
    return reduce(_joined, words, "")


def matcher_of(classes: Sequence[str], aliases: Aliases | None = None) -> Matcher:
    """The matcher of a class list, compiled once for each list.

    A class that has other names is not read by its own where that has no letter ("there is 1 dog"). ThroughlineError
    when a class without others has no letter or digit in its name, when two classes differ in nothing but case and
    punctuation, or when an alias belongs to no class or to another one.
    """
    return _compiled(tuple(classes), frozen(aliases))


def frozen(aliases: Aliases | None) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The same as tuples, in the order of the classes' names."""
    return tuple(sorted((name, tuple(others)) for name, others in aliases.items())) if aliases else ()


@lru_cache(maxsize=64)
def _compiled(classes: tuple[str, ...], aliases: tuple[tuple[str, tuple[str, ...]], ...]) -> Matcher:
    own: dict[str, str] = {}
    for label in classes:
        name = _run_together(words_of(label))
        if label in dict(aliases) and not re.search(r"[^\W\d_]", name):
            continue  # a number, or nothing: in prose it is something else
        if not name:
            raise ThroughlineError("a class name has no letter or digit", repr(label), "rename the class")
        if own.setdefault(name, label) != label:
            what = "two classes differ only in case, blanks or punctuation"
            raise ThroughlineError(what, f"{own[name]!r}, {label!r}", "rename one")
    given: dict[str, str] = {}
    derived: defaultdict[str, set[str]] = defaultdict(set)
    spellings = [(label, label) for label in own.values()]
    for label, others in aliases:
        if label not in classes:
            raise ThroughlineError("a name is given for an unknown class", repr(label), "name a class of the list")
        for other in others:
            name = _run_together(words_of(other))
            if not name:
                raise ThroughlineError("a class's name has no letter or digit", f"{label!r}: {other!r}", "remove it")
            taken = own.get(name) or given.setdefault(name, label)
            if taken != label:
                what = f"a name of the class {label!r} is one of another class, {taken!r}"
                raise ThroughlineError(what, repr(other), "rename one of them")
            spellings.append((label, other))
    for label, spelling in spellings:
        for variant in _variants(words_of(spelling)):
            derived[variant].add(label)
    names = {name: frozenset(labels) for name, labels in derived.items()}
    names |= {name: frozenset({label}) for name, label in (given | own).items()}
    return Matcher(names, tuple(sorted(names)), any("," in spelling for _, spelling in spellings))


def _variants(words: list[str]) -> list[str]:
    """Other spellings of a name: without its article, in the plural, in the singular."""
    forms = [words]
    if len(words) > 1 and words[0] in ARTICLES:
        forms.append(words[1:])
    return [_run_together([*form[:-1], last]) for form in forms for last in _numbers(form[-1])]


def _numbers(word: str) -> set[str]:
    """A noun as it is, in the plural and in the singular, by the regular rules of English and a few others."""
    if len(word) == 1:  # the plurals of A, I and U are other words
        return {word}
    endings = _PLURAL_ENDINGS if _NO_PLURAL.fullmatch(word) else _PLURAL_ENDINGS + _SINGULAR_ENDINGS
    regular = {re.sub(ending, other, word) for ending, other in endings}
    return {word, _PLURALS.get(word, word), _SINGULARS.get(word, word)} | regular
