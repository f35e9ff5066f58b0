"""A concept graph: which attributes a class must have, must not have, or may have; and what chains say against it.

Counterfactuals change the deciding attributes of two classes (arXiv 2505.13081, section 2.3), and chains are checked
against the edges. `graph_files` reads and writes graphs; the drawn world has an exact one.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

from throughline.chains.mentions import classes_of, find_mentions
from throughline.chains.names import STOP, Aliases, Prose


@dataclass(frozen=True)
class ConceptGraph:
    """`signs` has for each class its attributes with +1 (required) or -1 (excluded); what is not there is free.
    `categories` are groups of attributes, by name; `synonyms` further names of attributes."""

    signs: Mapping[str, Mapping[str, int]]
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    synonyms: Aliases = field(default_factory=dict)

    @cached_property
    def attributes(self) -> tuple[str, ...]:
        """All attributes: those of the categories in their order, then the others by name."""
        grouped = [attribute for members in self.categories.values() for attribute in members]
        edges = sorted({attribute for row in self.signs.values() for attribute in row})
        return tuple(dict.fromkeys([*grouped, *edges]))

    def required(self, label: str) -> frozenset[str]:
        """The attributes that a class must have."""
        return frozenset(attribute for attribute, sign in self.signs[label].items() if sign == 1)

    def deciding(self, first: str, second: str) -> tuple[str, ...]:
        """The attributes that one of two classes must have and the other must not."""
        other = self.signs[second]
        return tuple(name for name, sign in self.signs[first].items() if sign * other.get(name, 0) == -1)

    def nearest(self, label: str) -> tuple[str, ...]:
        """The classes that any attribute tells from this one, those with the fewest such attributes first."""
        counts = {other: len(self.deciding(label, other)) for other in self.signs if other != label}
        return tuple(sorted((other for other, count in counts.items() if count), key=lambda name: (counts[name], name)))

    def closest(self, label: str) -> tuple[str, ...]:
        """Those of `nearest` that no more attributes tell from this one than the first."""
        nearest = self.nearest(label)
        fewest = len(self.deciding(label, nearest[0]))
        return tuple(other for other in nearest if len(self.deciding(label, other)) == fewest)

    def violations(self, label: str, attributes: Collection[str]) -> int:
        """How many edges of a class a set of attributes breaks: required ones absent, excluded ones there."""
        return sum((sign == 1) != (name in attributes) for name, sign in self.signs[label].items())


@dataclass(frozen=True)
class Statements:
    """What a chain says about attributes, each once: in agreement with the graph, against it, and where the graph has
    no edge. An attribute that is both asserted and denied stands against it."""

    right: frozenset[str]
    wrong: frozenset[str]
    unsupported: frozenset[str]
    completeness: float
    """Share of the attributes that the class must have which the chain asserts, 0 to 1; 1 where there are none."""

    @property
    def coherent(self) -> bool:
        """Whether nothing stands against the graph."""
        return not self.wrong


HYPOTHETICAL = frozenset({"would", "wouldnt", "could", "might", "if", "unless", "were"})
"""Words of a sentence that says what would be, not what is: "without the sail I would say raft"."""


def check_statements(text: str, graph: ConceptGraph, label: str) -> Statements:
    """What a chain that concludes in `label` says about attributes, against the edges of that class. What it only
    considers ("a raft would have no sail") is no statement."""
    signs, said = graph.signs[label], stated_attributes(text, graph)
    right = frozenset(name for name, value in said.items() if value and signs.get(name) == value)
    wrong = frozenset(name for name, value in said.items() if name not in right and (name in signs or not value))
    required = graph.required(label)
    return Statements(
        right=right,
        wrong=wrong,
        unsupported=frozenset(said) - right - wrong,
        completeness=sum(said.get(name, -1) >= 0 for name in required) / len(required) if required else 1.0,
    )


def stated_attributes(text: str, graph: ConceptGraph) -> dict[str, int]:
    """What a chain says of attributes: 1 where one is asserted, -1 where it is denied, 0 where it is both."""
    mentions = find_mentions(text, graph.attributes, graph.synonyms)
    mentions = mentions.without(_hypothetical_places(mentions.prose))
    asserted, denied = classes_of(mentions.asserted), classes_of(mentions.denied)
    return {name: (name in asserted) - (name in denied) for name in asserted | denied}


def _hypothetical_places(prose: Prose) -> set[int]:
    """The words of sentences that say what would be."""
    starts = [place for place, gap in enumerate(prose.gaps) if gap == STOP or place == 0]
    sentences = [range(start, end) for start, end in pairwise([*starts, len(prose.words)])]
    return {place for words in sentences if HYPOTHETICAL & {prose.words[at] for at in words} for place in words}
