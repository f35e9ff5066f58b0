"""Prose as words, and the names of a class list in it. A name is found where consecutive words, run together, spell
it: "hot dog", "hot-dog", "HotDog" and "hotdog" are one name, and a name never starts or ends inside a word. Called
by `mentions`, which knows what the words around a name make of it.
"""

import re
import string
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache, reduce
from itertools import chain, groupby, islice

from throughline.core.errors import ThroughlineError


def words_of(text: str) -> list[str]:
    """The words of a text in the parser's normal form: compatibility characters resolved, case folded, apostrophes
    dropped."""
    return _WORD.findall(_fold(text))


NO_GAP, SOFT, COMMA, STOP = range(4)
"""What stands before a word: nothing that matters; a colon; a comma; the end of a clause."""

_DROPPED = re.compile("['’ʼ`\u00ad\u200b\u200c\u200d\u2060\ufeff]")
"""Apostrophes ("isn't" is one word) and characters without width."""

_WORD = re.compile(r"[^\W_]+")
_PIECE = re.compile(
    r"(?P<word>[^\W_]+)|(?P<stop>\.(?!\w)|[;!?。]|—|\n\s*\n|(?<=\s)[-–](?=\s))|(?P<comma>[,、])|(?P<soft>:)"
)


_ABBREVIATED = frozenset({"st", "mt", "dr", "mr", "mrs", "vs", *string.ascii_lowercase})
"""A dot after these ends no clause: "St. Bernard", "T. rex"."""


@dataclass(frozen=True)
class Prose:
    """A text as its words in normal form."""

    words: list[str]
    gaps: list[int]
    """What stands before each word."""
    asked: list[bool]
    """Whether the clause of each word ends in a question mark."""


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
    words: list[str] = []
    gaps: list[int] = []
    asked: list[bool] = []
    gap, clause_start = NO_GAP, 0
    for piece in _PIECE.finditer(_fold(text)):
        kind = piece.lastgroup
        if kind == "word":
            words.append(piece.group())
            gaps.append(gap)
            asked.append(False)
            gap = NO_GAP
        elif kind == "stop":
            mark = piece.group()
            if mark == "." and words and words[-1] in _ABBREVIATED:
                continue
            if mark == "?":
                asked[clause_start:] = [True] * (len(words) - clause_start)
            gap, clause_start = STOP, len(words)
        else:
            gap = max(gap, COMMA if kind == "comma" else SOFT)
    return Prose(words, gaps, asked)


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
    """All names of a class list, run together, and every beginning of one."""

    names: dict[str, frozenset[str]]
    beginnings: frozenset[str]
    crosses_commas: bool
    """Some class name has a comma inside, so that a name may run over one."""

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
            while name in self.beginnings:
                if name in self.names:
                    best = Span(start, end, self.names[name])
                if end == len(words) or prose.gaps[end] >= limit:
                    break
                name = _joined(name, words[end])
                end += 1
            if best is not None and best.end > reach:
                spans.append(best)
                reach = best.end
        return spans


def _joined(left: str, right: str) -> str:
    # two numbers side by side stay two numbers
    return f"{left} {right}" if left[-1:].isdigit() and right[:1].isdigit() else left + right


def _run_together(words: Iterable[str]) -> str:
    return reduce(_joined, words, "")


@lru_cache(maxsize=64)
def matcher_of(classes: tuple[str, ...]) -> Matcher:
    """The matcher of a class list, compiled once for each list.

    ThroughlineError when a class has no letter or digit in its name, or when two classes differ in nothing but case
    and punctuation.
    """
    own: dict[str, str] = {}
    for label in classes:
        name = _run_together(words_of(label))
        if not name:
            raise ThroughlineError("a class name has no letter or digit", repr(label), "rename the class")
        if own.setdefault(name, label) != label:
            what = "two classes differ only in case, blanks or punctuation"
            raise ThroughlineError(what, f"{own[name]!r}, {label!r}", "rename one")
    derived: defaultdict[str, set[str]] = defaultdict(set)
    for label in classes:
        for variant in _variants(words_of(label)):
            derived[variant].add(label)
    names = {name: frozenset(labels) for name, labels in derived.items()}
    names |= {name: frozenset({label}) for name, label in own.items()}
    beginnings = frozenset(name[:length] for name in names for length in range(1, len(name) + 1))
    return Matcher(names, beginnings, any("," in name for name in classes))


def _variants(words: list[str]) -> list[str]:
    """Other spellings of a name: without its article, in the plural, in the singular."""
    forms = [words]
    if len(words) > 1 and words[0] in ARTICLES:
        forms.append(words[1:])
    return [_run_together([*form[:-1], last]) for form in forms for last in _numbers(form[-1])]


def _numbers(word: str) -> set[str]:
    """A noun as it is, in the plural and in the singular, by the regular rules of English and a few others."""
    endings = _PLURAL_ENDINGS if _NO_PLURAL.fullmatch(word) else _PLURAL_ENDINGS + _SINGULAR_ENDINGS
    regular = {re.sub(ending, other, word) for ending, other in endings}
    return {word, _PLURALS.get(word, word), _SINGULARS.get(word, word)} | regular
