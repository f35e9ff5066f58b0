"""Preference pairs about images that were not drawn, by a concept graph and the accepted chains about them. Called by
`throughline drift pairs --graph`.

After arXiv 2604.15705: *thinking* has a teacher change the deciding attributes in the chain, *perception* shows the
nearest image by attributes in the place of the true one. Its metric and its filter are not known: both are ours. What
is in an image is what its chain says; a pair that cannot be verified is dropped and counted.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import numpy as np

from throughline.chains.concepts import ConceptGraph, check_statements, stated_attributes
from throughline.chains.formats import ChainFormat
from throughline.chains.pairs import Pair, Side
from throughline.chains.parsing import parse_chain
from throughline.chains.rules import judge
from throughline.core.errors import ThroughlineError
from throughline.core.nearest import did_you_mean
from throughline.core.seeding import generator
from throughline.domains.samples import ImageSet
from throughline.drift.rivals import RIVALS
from throughline.drift.teacher import TextTeacher
from throughline.questions.wording import class_name

PROMPT = """A chain of reasoning about a picture concludes {label}:

{chain}

Rewrite it so that it concludes {other}. Change these attributes alone, wherever they are mentioned: {changes}. Leave \
all else as it is, word for word: tags, order, and what is said of other attributes.

What is known: {label} {known}; {other} {known_other}.

Answer with the rewritten chain and nothing else."""


@dataclass(frozen=True)
class DescribedImages:
    """Images with a graph of their classes and the accepted `chains` about them, by id of the image.

    ThroughlineError for a class that is not in the graph. `matches` says of perception pairs which ones the model tells
    apart.
    """

    images: ImageSet
    graph: ConceptGraph
    chains: Mapping[str, Sequence[str]]
    format: ChainFormat
    seed: int
    teacher: TextTeacher | None = None
    matches: Callable[[Sequence[Pair]], Sequence[bool]] | None = None
    dropped: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Images without a pair, by source and reason."""

    def __post_init__(self) -> None:
        for label in self.images.classes:
            if label not in self.graph.signs:
                hint = did_you_mean(label, sorted(self.graph.signs), "its classes")
                raise ThroughlineError(f"the graph has no class {label}", self.images.root, hint)

    @cached_property
    def sides(self) -> dict[str, Side]:
        """Of every image the first accepted chain with nothing in it against the graph."""
        sides: dict[str, Side] = {}
        for sample in self.images.samples:
            for text in self.chains.get(sample.id, ()):
                if sample.id not in sides and check_statements(text, self.graph, sample.label).coherent:
                    sides[sample.id] = Side(sample, sample.label, text)
        return sides

    def make_pairs(self, sources: Sequence[str]) -> list[Pair]:
        """At most one pair of every source about each image, in the order of the images; the same arguments, and the
        same answers of a teacher, give the same pairs. ThroughlineError for a source that cannot be had."""
        makers = {"thinking": self._thinking, "perception": self._perception}
        makers |= {source: partial(self._rivals, source) for source in RIVALS}
        if unknown := [source for source in sources if source not in makers]:
            what = f"pairs of the source {unknown[0]} need the scene of a drawn image"
            raise ThroughlineError(what, self.images.root, "leave that source out")
        made = {source: makers[source]() for source in sources}
        for source in sources:
            self.dropped[source, "no chain that agrees with the graph"] += len(self.images.samples) - len(self.sides)
        return [made[source][id] for id in self.sides for source in sources if id in made[source]]

    def _rivals(self, source: str) -> dict[str, Pair]:
        rejected = {id: RIVALS[source](self.sides, side, self.seed) for id, side in self.sides.items()}
        self.dropped[source, "no other class in its domain"] += list(rejected.values()).count(None)
        return {id: Pair(source, self.sides[id], other) for id, other in rejected.items() if other}

    def _thinking(self) -> dict[str, Pair]:
        if self.teacher is None:
            what = "thinking pairs need a teacher who rewrites chains"
            raise ThroughlineError(what, self.images.root, "add --teacher URL, or leave that source out")
        intended = {id: pair for id, side in self.sides.items() if (pair := self._intended(side))}
        self.dropped["thinking", "its chain says nothing that decides"] += len(self.sides) - len(intended)
        prompts = {id: self._prompt(pair) for id, pair in intended.items()}
        texts = self.teacher.ask(PROMPT, prompts, self.images.classes, self.format)
        pairs = {}
        for id, pair in intended.items():
            if fault := self._fault(pair, texts.get(id, "")):
                self.dropped["thinking", fault] += 1
            else:
                pairs[id] = replace(pair, rejected=replace(pair.rejected, chain=texts[id]))
        return pairs

    def _intended(self, chosen: Side) -> Pair | None:
        """The pair without its rejected chain: the nearest class by the graph is to follow; of several, the one that
        takes the fewest changes. None where the chain states nothing that decides."""
        stated = stated_attributes(chosen.chain or "", self.graph)
        changes: dict[str, tuple[str, ...]] = {}
        for label in self.graph.closest(chosen.label):
            signs = self.graph.signs[label]
            against = tuple(sorted(name for name, value in stated.items() if value * signs.get(name, 0) == -1))
            if {*against} & {*self.graph.deciding(chosen.label, label)}:
                changes[label] = against
        if not changes:
            return None
        label = min(changes, key=lambda label: len(changes[label]))
        return Pair("thinking", chosen, Side(chosen.sample, label, None), changes[label], len(changes[label]), "graph")

    def _prompt(self, pair: Pair) -> str:
        label, other = pair.chosen.label, pair.rejected.label
        wanted = self.graph.signs[other]
        changes = (f"{name} is {'there' if wanted[name] == 1 else 'not there'}" for name in pair.changed)
        return PROMPT.format(
            chain=pair.chosen.chain,
            changes=", ".join(changes),
            label=class_name(label, self.images.names),
            other=class_name(other, self.images.names),
            known=self._edges(label),
            known_other=self._edges(other),
        )

    def _edges(self, label: str) -> str:
        signs = self.graph.signs[label]
        required, excluded = ([name for name in sorted(signs) if signs[name] == sign] for sign in (1, -1))
        return f"must have {', '.join(required) or 'nothing'} and must not have {', '.join(excluded) or 'anything'}"

    def _fault(self, intended: Pair, text: str) -> str | None:
        """Why a chain does not say what it should: exactly the intended attributes differ, and the class follows."""
        if not text:
            return "the teacher gave no answer"
        label = intended.rejected.label
        parsed = parse_chain(text, self.format, self.images.classes, aliases=self.images.names)
        if not judge("correct", parsed, self.images.classes, label, self.images.names).accepted:
            return "the new chain concludes otherwise"
        before, after = (stated_attributes(chain, self.graph) for chain in (intended.chosen.chain or "", text))
        if after != before | {name: -before[name] for name in intended.changed}:
            return "its attributes are not those intended"
        return None if check_statements(text, self.graph, label).coherent else "the new class does not follow"

    def _perception(self) -> dict[str, Pair]:
        pairs: dict[str, Pair] = {}
        for domain in self.images.domains:
            sides = [side for side in self.sides.values() if side.sample.domain == domain]
            pairs |= {pair.chosen.sample.id: pair for pair in self._nearest_images(sides)}
        fault = "no image of its domain differs in what decides"
        self.dropped["perception", fault] += len(self.sides) - len(pairs)
        if self.matches is None:
            return pairs
        kept = [pair for pair, keeps in zip(pairs.values(), self.matches([*pairs.values()]), strict=True) if keeps]
        self.dropped["perception", "the model finds its chain no likelier with it"] += len(pairs) - len(kept)
        return {pair.chosen.sample.id: replace(pair, verdict="graph and model") for pair in kept}

    def _nearest_images(self, sides: Sequence[Side]) -> Iterator[Pair]:
        """For each side that of another class that differs in the fewest stated attributes, a deciding one among them;
        of several as near one is drawn."""
        names = self.graph.attributes
        said = [stated_attributes(side.chain or "", self.graph) for side in sides]
        # (images, attributes): 1, -1, and 0 for what the chain does not state, or the graph leaves free
        stated, signs = (
            np.array([[row.get(name, 0) for name in names] for row in rows], np.int8)
            for rows in (said, [self.graph.signs[side.label] for side in sides])
        )
        for place, side in enumerate(sides):
            opposite = stated * stated[place] == -1
            differing = (stated != stated[place]).sum(axis=1)
            fitting = np.flatnonzero((opposite & (signs * signs[place] == -1)).any(axis=1))
            if len(fitting):
                nearest = fitting[differing[fitting] == differing[fitting].min()]
                other = int(generator(self.seed, "neighbour", side.sample.id).choice(nearest))
                changed = tuple(sorted(np.compress(opposite[other], names).tolist()))
                yield Pair("perception", side, sides[other], changed, int(differing[other]), "graph")
