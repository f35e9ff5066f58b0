"""A chain said otherwise in its own words: some attributes turned round, and its class exchanged for another. Called by
`graph_pairs`, which checks what comes of it.

"A red handle" becomes "no red handle", "without a handle" "with a handle", and the other way round, as far as the
mention finder then reads the opposite. What a chain only considers ("a bowl would have no handle") is turned too where
this can be read, and left out where not. Nothing is guessed: what cannot be turned makes no pair.
"""

import re
from collections.abc import Collection, Sequence
from functools import partial

from throughline.chains.concepts import ConceptGraph, stated_attributes
from throughline.chains.formats import Chain, render_chain
from throughline.chains.mentions import classes_of, find_mentions
from throughline.chains.names import words_of

_ADJECTIVES = r"(?:(?!(?:and|or|with|without|no|of|to|a|an|the|is|are|in|on)\b)[\w-]+ ){0,2}?"
_SENTENCE = re.compile(r"(?<=[.!;])\s+")
"""Where a text is cut: a question stays with what answers it."""
_HIDDEN = re.compile(r"\b(?:missing|lacking|gone|hidden|invisible|covered)\b", re.IGNORECASE)
"""Beside these the mention finder does not know that an attribute is not seen."""
_TO_PRESENT = (
    (r"\bwithout (?:(?:an?|any|the) )?(THING)", "with {with_article}"),
    (r"\bthe (?:absence|lack) of (?:(?:an?|any|the) )?(THING)", "the {thing}"),
    (r"\b(?:no|not an?|not any) (THING)", "{with_article}"),
    (
        r"(THING)(,? (?:is|are|was|were)) (?:absent|missing|lacking|not (?:visible|present|seen|there))",
        "{thing}{verb} visible",
    ),
    (r"\b(?:absent|missing) (THING)", "{thing}"),
    (r"\blacks (?:(?:an?|any|the) )?(THING)", "has {with_article}"),
)
_TO_ABSENT = (
    (r"\bthe (THING)", "the absence of {with_article}"),
    (r"\b(?:an?|some|one|its) (THING)", "no {thing}"),
    (r"\b(NAME)", "no {thing}"),
)
"""A pattern and what is said instead; NAME is the attribute, THING the attribute with what adjectives it has."""


def substituted(
    chain: Chain, graph: ConceptGraph, attributes: Collection[str], names: tuple[Sequence[str], Sequence[str]]
) -> str | None:
    """The chain with these attributes turned round and the first class exchanged for the second and back; `names` are
    those of either class, the first one to be written. None where a sentence cannot be turned or a stage would be
    empty."""
    stages = []
    for stage in chain.stages:
        sentences: list[str | None] = [*_SENTENCE.split(stage)]
        for name in attributes:
            sentences = [_turned(sentence, name, graph) for sentence in sentences if sentence]
            if None in sentences:
                return None
        if not (text := " ".join(filter(None, sentences))):
            return None
        stages.append(_exchanged(text, *names))
    return render_chain(Chain(chain.format, tuple(stages)))


def _turned(sentence: str, name: str, graph: ConceptGraph) -> str | None:
    """The sentence with the attribute the other way round; empty where it only considers the attribute, None where it
    cannot be turned."""
    before = _polarity(sentence, name, graph)
    if before is None:
        return sentence
    named = rf"(?:{_spelling((name, *graph.synonyms.get(name, ())))})(?:e?s)?\b"
    for form, replacement in {1: _TO_ABSENT, -1: _TO_PRESENT}.get(before, ()):
        pattern = form.replace("THING", _ADJECTIVES + named).replace("NAME", named)
        turned = re.sub(pattern, partial(_said, replacement), sentence, flags=re.IGNORECASE)
        if _polarity(turned, name, graph) == -before:
            return turned
    return None if name in stated_attributes(sentence, graph) else ""


def _polarity(sentence: str, name: str, graph: ConceptGraph) -> int | None:
    """1 where the attribute is asserted, also in what would be, -1 where it is denied, 0 where neither is clear; None
    where it is not named."""
    mentions = find_mentions(sentence, graph.attributes, graph.synonyms)
    asserted, denied, considered = map(classes_of, (mentions.asserted, mentions.denied, mentions.considered))
    if name not in asserted | denied | considered:
        return None
    unclear = name in considered or (name in asserted and _HIDDEN.search(sentence))
    return 0 if unclear else (name in asserted) - (name in denied)


def _said(replacement: str, found: re.Match[str]) -> str:
    thing, verb = (*found.groups(), "")[:2]
    plural = thing.endswith("s") and not thing.endswith("ss")
    with_article = thing if plural else f"{_article(thing)}{thing}"
    return _in_case_of(found[0], replacement.format(thing=thing, with_article=with_article, verb=verb))


def _article(word: str) -> str:
    return "an " if word[0] in "aeiouAEIOU" else "a "


def _in_case_of(replaced: str, text: str) -> str:
    return text[0].upper() + text[1:] if replaced[0].isupper() else text


def _exchanged(text: str, first: Sequence[str], second: Sequence[str]) -> str:
    """Either class where the other is named, with the article that fits."""
    names = {" ".join(words_of(name)): other[0] for own, other in ((first, second), (second, first)) for name in own}

    def other(found: re.Match[str]) -> str:
        article, name, ending = found.groups("")
        written = names[" ".join(words_of(name))] + ending
        return _in_case_of(found[0], (_article(written) if article else "") + written)

    spelling = _spelling(sorted(names, key=len, reverse=True))
    return re.sub(rf"\b(?:(an?) )?\b({spelling})(e?s)?\b", other, text, flags=re.IGNORECASE)


def _spelling(names: Sequence[str]) -> str:
    return "|".join(r"[\s_-]+".join(map(re.escape, words_of(name))) for name in names)
