"""The class that a model's answer names, or the one reason why it names none. Evaluation, self-labelling and the
verdict rules all read answers through here: no random choice, no first class of the list as a way out.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from throughline.chains.mentions import Mentions, classes_of, find_mentions, words_in
from throughline.chains.names import ARTICLES, COMMA, STOP, Aliases, Prose, words_of
from throughline.chains.outcomes import Outcome


@dataclass(frozen=True)
class Answer:
    """`label` is a class of the list exactly when `outcome` is ok, else None. `labels` are then the classes named,
    sorted: more than that one where several may be right."""

    label: str | None
    outcome: Outcome
    labels: tuple[str, ...] = ()


def parse_answer(text: str, classes: Sequence[str], aliases: Aliases | None = None, several: bool = False) -> Answer:
    """The one class of `classes` that `text` asserts.

    Thinking before the answer is not read. What is stated as the answer ("Answer: …", `\\boxed`, JSON, `<answer>`, "I
    settle on …") stands before what is weighed. Names are compared after normalisation: case, articles, punctuation,
    underscores, plurals, and `aliases` (class → other names). The longest name wins ("coffee mug" over "mug"); names
    stand between word boundaries. Outcomes: ok, ambiguous, negated, out_of_list, refusal, empty, and truncated for
    thinking that does not end. With `several`, an image may be of several classes, and an answer that asserts them is
    not ambiguous, unless it says "or". Never raises on any text; ThroughlineError for a class list or aliases that
    cannot be told apart. Linear time.
    """
    spoken = _without_thinking(text)
    if text.strip() and spoken is None:
        return Answer(None, Outcome.TRUNCATED)
    spoken = _SPECIAL_TOKEN.sub(" ", spoken or "")
    marked = [part for match in _MARKED.finditer(spoken) for part in match.groups() if part and words_of(part)]
    answers = {_read(find_mentions(part, classes, aliases), several) for part in marked or [spoken]}
    return answers.pop() if len(answers) == 1 else Answer(None, Outcome.AMBIGUOUS)


_THINKING = r"\s*(?:think|thinking|thought|thoughts|reasoning|scratchpad)\s*[>\]▷]"
_THINKING_STARTS = re.compile(rf"\s*[<\[◁]{_THINKING}", re.IGNORECASE)
_THINKING_ENDS = re.compile(rf"[<\[◁]\s*/{_THINKING}", re.IGNORECASE)
_SPECIAL_TOKEN = re.compile(r"<\|[^|<>\n]{1,40}\|>|</?s>")
_MARKED = re.compile(
    r"<(?:answer|conclusion)>([^<]*)"
    r"|\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*+)\}"
    r'|"(?:final_?answer|answer|label|class|class_?name|category|prediction|predicted_class|choice)"\s*:\s*"([^"\n]*)"',
    re.IGNORECASE,
)
"""An answer between marks: of a tag, of LaTeX, of JSON."""


def _without_thinking(text: str) -> str | None:
    """What follows the thinking before an answer; None where the thinking does not end."""
    ends = list(_THINKING_ENDS.finditer(text))
    if ends:
        return text[ends[-1].end() :]
    return None if _THINKING_STARTS.match(text) else text


def _read(mentions: Mentions, several: bool) -> Answer:
    """What a text without marks asserts: where it states an answer, else all of it but what declines to answer."""
    if not mentions.prose.words:
        return Answer(None, Outcome.EMPTY)
    if mentions.whole:
        return _of(mentions, several)
    statements = list(_statements(mentions.prose))
    listed = {span.start for span in mentions.asserted} if several else set[int]()
    stated = [part for part in _stated(mentions, statements, listed) if part.named]
    asserting = [part for part in stated if part.asserted]
    if stated:
        answers = {_of(part, several) for part in asserting or stated}
        return answers.pop() if len(answers) == 1 else Answer(None, Outcome.AMBIGUOUS)
    if any(binding for _, binding in statements):  # "Answer: a wolf" is answered, whatever else is named
        return Answer(None, Outcome.OUT_OF_LIST)
    refusals = list(_refusals(mentions.prose))
    mentions = mentions.without({place for start, end in refusals for place in range(start, end)})
    if refusals and not mentions.asserted:
        return Answer(None, Outcome.REFUSAL)
    return _of(mentions, several)


def _of(mentions: Mentions, several: bool) -> Answer:
    asserted, denied = classes_of(mentions.asserted), classes_of(mentions.denied)
    if not mentions.named:
        return Answer(None, Outcome.OUT_OF_LIST)
    unsure = any(len(span.classes) > 1 or _follows_or(mentions.prose, span.start) for span in mentions.asserted)
    if (len(asserted) == 1 or (asserted and several and not unsure)) and not asserted & denied:
        return Answer(min(asserted), Outcome.OK, tuple(sorted(asserted)))
    negated = not asserted and not mentions.considered
    return Answer(None, Outcome.NEGATED if negated else Outcome.AMBIGUOUS)


def _follows_or(prose: Prose, start: int) -> bool:
    return [word for word in prose.words[max(start - 2, 0) : start] if word not in ARTICLES][-1:] == ["or"]


# what is stated as the answer ----------------------------------------------------------------------------------------

_NOUNS, _COPULAS, _EMPTY = (words_in("statements", key) for key in ("nouns", "copulas", "empty"))
_SPEAKERS, _AUXILIARIES, _VERBS = (words_in("statements", key) for key in ("speakers", "auxiliaries", "verbs"))
_NOT_BEFORE_A_NAME = words_in("statements", "prepositions")
_BARE = words_in("statements", "bare")
_IDENTIFIED = re.compile(
    r"(?:^|.* )(?:its|thats|(?:it|this|that|these|they|he|she|which|(?:the|this) (?:\w+ )?(?:answer|object|animal|"
    r"subject|item|thing|class|species|image|picture|photo|figure|drawing)) "
    r"(?:is|are|was|(?:must|has to|should|can only) be|turns out to be|(?:looks|seems) (?:like|to be)|appears to be))"
    r"((?: \w+){0,5})"
)
"""What identifies: "it is a …", "the animal must be a …"."""


def _statements(prose: Prose) -> Iterator[tuple[int, bool]]:
    """The words with which a stated answer begins, and whether it must name a class: "Answer: …" and "the answer is …"
    must, "I choose …" need not, since it may be about something else."""
    words = prose.words
    for start in prose.colons:
        if start < len(words) and _same_clause(prose, start - 4, start) & _NOUNS:
            yield start, True
    for at, word in enumerate(words):
        following = words[at + 1 : at + 2]
        if word in _NOUNS and following and following[0] in _COPULAS and not set(words[at + 2 : at + 3]) & _EMPTY:
            yield at + 2, True
        elif word in _SPEAKERS:
            verb = next(
                (place for place in range(at + 1, min(at + 4, len(words))) if words[place] not in _AUXILIARIES), at
            )
            if words[verb] in _VERBS:
                yield verb + 1, False


def _same_clause(prose: Prose, start: int, end: int) -> set[str]:
    """The words from `start` to `end`, as far as they are of the clause and the line that ends there."""
    words = set[str]()
    for place in range(end - 1, max(start, 0) - 1, -1):
        words.add(prose.words[place])
        if prose.gaps[place] >= COMMA or place in prose.lines:
            break
    return words


def _stated(
    mentions: Mentions, statements: Sequence[tuple[int, bool]], listed: Collection[int] = ()
) -> Iterator[Mentions]:
    """What each statement names: its first clause, or its whole line where that clause only denies; and the clauses
    behind that begin with a word of `listed`. A statement within another one adds nothing, and is left out, so that a
    long text is read once."""
    prose, end = mentions.prose, 0
    for start, _ in sorted(statements):
        if start < end:
            continue
        places = range(start + 1, len(prose.words))
        ends = (at for at in places if (prose.gaps[at] == STOP or at in prose.lines) and at not in listed)
        end = next(ends, len(prose.words))
        part = mentions.within(start, end)
        if part.named and not part.asserted:
            end = next((at for at in places if at in prose.lines), len(prose.words))
            part = mentions.within(start, end)
        yield part


def stated_classes(mentions: Mentions) -> frozenset[str]:
    """The classes that a text states as the answer, and does not only name: "it is a dog", "Answer: dog", "Dog after
    all"."""
    prose = mentions.prose
    stated = [span for part in _stated(mentions, list(_statements(prose))) for span in part.asserted]
    for span in mentions.asserted:
        before = list[str]()
        for place in range(span.start - 1, max(span.start - 9, 0) - 1, -1):
            if prose.gaps[place + 1] >= COMMA:
                break
            before.insert(0, prose.words[place])
        identified = _IDENTIFIED.fullmatch(" ".join(before))
        behind = prose.words[span.end : span.end + 4]
        if (identified and not set(identified[1].split()) & _NOT_BEFORE_A_NAME) or _BARE.issuperset(before + behind):
            stated.append(span)
    return classes_of(stated)


# what declines to answer ----------------------------------------------------------------------------------------------

_INABILITY = r"(?:cant|cannot|can not|could not|couldnt|am unable|am not able|im unable|im not able|wont|will not)"
_TASK = (
    r"(?:assist|help|identify|determine|provide|answer|tell|say|comply|classify|recogni[sz]e|fulfil|fulfill|process|"
    r"engage|discuss|name|choose|select|do (?:that|this)|access|view|analy[sz]e|describe|make|give|see (?:the|any) "
    r"(?:image|photo|picture))"
)
_REFUSAL = re.compile(
    rf"(?:(?:i am|im|we are|were) )?(?:very |so |really )?sorry\b.{{0,80}}?\b(?:{_INABILITY}|unable|not able)\b"
    rf"|(?:(?:i am|im) )?(?:very |so )?sorry(?: (?:about that|for (?:that|the inconvenience)))?$"
    rf"|(?:unfortunately )?i {_INABILITY} (?:to )?(?:\w+ )?{_TASK}\b"
    rf"|(?:unfortunately )?(?:im|i am) (?:unable|not able|not allowed|not permitted) to\b"
    rf"|i (?:must|have to) (?:decline|refuse)\b"
    rf"|i (?:do not|dont) know\b"
    rf"|i (?:do not|dont) have (?:the )?(?:ability|enough information|access)\b"
    rf"|as an (?:ai|artificial intelligence)\b.{{0,80}}?\b(?:{_INABILITY}|unable|not able)\b"
    rf"|i apologi[sz]e\b.{{0,80}}?\b(?:{_INABILITY}|unable|not able)\b"
)
_TURN = re.compile(r"\b(?:but|however)\b")


def is_refusal(text: str) -> bool:
    """Whether the text opens by declining to answer, and does not turn ("but it is …") after that."""
    # a refusal shows in its first words; the cut keeps the search short on long texts
    opening = words_of(text.lstrip()[:400])[:40]
    return _declined(opening) == len(opening) > 0


def _declined(words: list[str]) -> int:
    """How many of the words decline to answer: none, all, or those before a turn."""
    text = " ".join(words)
    refusal = _REFUSAL.match(text)
    turn = refusal and _TURN.search(text, refusal.end())
    return len(words) if refusal and not turn else len(text[: turn.start()].split()) if turn else 0


def _refusals(prose: Prose) -> Iterator[tuple[int, int]]:
    """Where clauses decline to answer: the first word, and the word behind the last."""
    starts = [at for at, gap in enumerate(prose.gaps) if at == 0 or gap == STOP or at in prose.lines]
    for start, end in zip(starts, [*starts[1:], len(prose.words)], strict=True):
        declined = _declined(prose.words[start : min(end, start + 40)])
        if declined:
            yield start, end if declined == min(end - start, 40) else start + declined
