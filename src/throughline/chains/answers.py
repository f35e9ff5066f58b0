"""The class that a model's answer names, or the one reason why it names none. Evaluation, self-labelling and the
verdict rules all read answers through here: no random choice, no first class of the list as a way out.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from throughline.chains.mentions import find_mentions
from throughline.chains.names import words_of
from throughline.chains.outcomes import Outcome


@dataclass(frozen=True)
class Answer:
    """`label` is a class of the list exactly when `outcome` is ok, else None."""

    label: str | None
    outcome: Outcome


def parse_answer(text: str, classes: Sequence[str]) -> Answer:
    """The one class of `classes` that `text` asserts.

    Compared after normalisation: case, articles, punctuation, underscores, plurals. The longest name wins ("coffee mug"
    over "mug"); names stand between word boundaries. Outcomes: ok, ambiguous, negated, out_of_list, refusal, empty.
    Never raises on any text; ThroughlineError for classes that cannot be told apart. Linear time.
    """
    mentions = find_mentions(text, classes)
    if not mentions.words:
        return Answer(None, Outcome.EMPTY)
    named = mentions.asserted | mentions.denied | mentions.considered
    # the whole text being a name, even "sorry", is no refusal: classes may be called anything
    if is_refusal(text) and not (mentions.whole and named):
        return Answer(None, Outcome.REFUSAL)
    if not named:
        return Answer(None, Outcome.OUT_OF_LIST)
    if len(mentions.asserted) == 1 and not mentions.asserted & mentions.denied:
        return Answer(next(iter(mentions.asserted)), Outcome.OK)
    if not mentions.asserted and not mentions.considered:
        return Answer(None, Outcome.NEGATED)
    return Answer(None, Outcome.AMBIGUOUS)


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
    opening = " ".join(words_of(text.lstrip()[:400])[:40])
    refusal = _REFUSAL.match(opening)
    return refusal is not None and _TURN.search(opening, refusal.end()) is None
