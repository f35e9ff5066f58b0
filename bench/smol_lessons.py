"""What the projector of `smol` is taught to say (`smol_projector.py`): names of ImageNet's classes, their hypernyms in
WordNet, and names of emoji that are no picture of open_styles; several pictures and their answers at a time, so that it
also learns which answer is about which picture.

A tenth of the classes and a quarter of the emoji are never taught: recipes are chosen on them.
"""

import re
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from timm.data import ImageNetInfo

from throughline.core.seeding import generator
from throughline.domains.fetching.sources import Package, obtain
from throughline.domains.fetching.unpacking import unpack
from throughline.questions.wording import LABEL_QUESTION, LABEL_TEMPLATE, OPTIONS_PLACE

WORDNET = Package(
    "wordnet-base 3.0",
    "61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752",
    6_467_132,
    ("apt:wordnet-base=1:3.0-37",),
)
BROADEST = 250
"""Classes under a hypernym at most: `mammal` has 218 of the 1,000; what lies above, as `animal`, says little."""
KINDS = {"class": 0.3, "hypernym": 0.5, "emoji": 0.1, "emoji group": 0.1}
"""Of a lesson: whose names are its answers, and how often it is drawn."""
GROUPS = {
    "clothing": "clothing",
    "tool": "tool",
    "place-building": "building",
    "drink": "drink",
    "food-prepared": "food",
    "food-asian": "food",
    "food-sweet": "dessert",
    "office": "office supplies",
    "computer": "computer",
    "phone": "telephone",
    "time": "clock",
    "sport": "sports equipment",
    "animal-reptile": "reptile",
    "dishware": "dishes",
    "writing": "pen",
    "lock": "lock",
    "money": "money",
    "mail": "mail",
    "book-paper": "book",
    "plant-other": "plant",
}
"""What subgroups of emoji are called in answers; emoji of others are asked by their own names alone."""


@dataclass(frozen=True)
class Lesson:
    """One question about several pictures: of the answers, the n-th is true of the n-th picture, and of no other.
    `shown` counts ImageNet's classes, or the emoji; the question offers all answers as options, or none."""

    of_classes: bool
    shown: tuple[int, ...]
    question: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Nouns:
    """Of ImageNet's 1,000 classes: a name each, and the hypernyms, the nearest first, each with its names."""

    names: tuple[str, ...]
    above: tuple[tuple[str, ...], ...]
    called: Mapping[str, tuple[str, ...]]


def read_nouns(folder: Path | None = None) -> Nouns:
    """From timm's list of classes and WordNet's nouns (`data.noun`, in `folder`, or downloaded)."""
    if folder is None:
        with tempfile.TemporaryDirectory() as scratch:
            unpack(obtain(WORDNET), Path(scratch), re.compile(r"/data\.noun$").search)
            text = next(Path(scratch).rglob("data.noun")).read_text("utf-8")
    else:
        text = (folder / "data.noun").read_text("utf-8")
    called, parents = dict[str, tuple[str, ...]](), dict[str, list[str]]()
    for line in text.splitlines():
        if line.startswith(" "):  # the licence
            continue
        fields = line.split(" | ")[0].split()
        words = 4 + 2 * int(fields[3], 16)  # WordNet's wndb(5WN): offset, file, kind, word count, words, pointers
        called[fields[0]] = tuple(word.replace("_", " ") for word in fields[4:words:2])
        pointers = zip(fields[words + 1 :: 4], fields[words + 2 :: 4], strict=False)
        parents[fields[0]] = [synset for symbol, synset in pointers if symbol in {"@", "@i"}]
    info = ImageNetInfo("imagenet-1k")
    synsets = [name[1:] for name in info.label_names()]
    above = [_all_above(synset, parents) for synset in synsets]
    counts = Counter(synset for chain in above for synset in chain)
    kept = {synset for synset, count in counts.items() if 2 <= count <= BROADEST}
    return Nouns(
        names=tuple(called[synset][0] for synset in synsets),
        above=tuple(tuple(synset for synset in chain if synset in kept) for chain in above),
        called={synset: called[synset] for synset in sorted(kept)},
    )


def _all_above(synset: str, parents: Mapping[str, Sequence[str]]) -> list[str]:
    """All hypernyms, the nearest first."""
    found, queue = list[str](), [synset]
    for place in queue:
        for parent in parents[place]:
            if parent not in found:
                found.append(parent)
                queue.append(parent)
    return found


def held_out(count: int, share: float, seed: int, what: str) -> frozenset[int]:
    """Which of `count` are never taught."""
    return frozenset(generator(seed, "smol held out", what).permutation(count)[: round(count * share)].tolist())


class Lessons:
    """Draws lessons about classes and emoji that are among `classes` and `emoji` (indices)."""

    def __init__(
        self, nouns: Nouns, emoji: Sequence[tuple[str, str]], classes: Sequence[int], pictures: Sequence[int]
    ) -> None:
        """`emoji` are (name, subgroup) of each picture."""
        self.nouns, self.emoji, self.pictures = nouns, emoji, list(pictures)
        self.below = {synset: [i for i in classes if synset in nouns.above[i]] for synset in nouns.called}
        self.hypernyms = [synset for synset, below in self.below.items() if below]
        self.grouped = [i for i in self.pictures if emoji[i][1] in GROUPS]

    def draw(self, draw: np.random.Generator, count: int, listed: bool, kind: str | None = None) -> Lesson:
        """A lesson of `count` pictures, or of fewer where there are not so many different things; of one of `KINDS`,
        drawn unless it is given."""
        kind = str(draw.choice(list(KINDS), p=list(KINDS.values()))) if kind is None else kind
        shown, answers, true = list[int](), list[str](), list[frozenset[str]]()
        for _ in range(50 * count):
            if len(shown) == count:
                break
            picture, answer, names = self._drawn(draw, kind)
            if not any(answer in others for others in true) and not names & set(answers):
                shown, answers, true = [*shown, picture], [*answers, answer], [*true, names]
        options = LABEL_TEMPLATE.replace(OPTIONS_PLACE, ", ".join(map(str, draw.permutation(answers))))
        question = options if listed else LABEL_QUESTION
        return Lesson(kind in {"class", "hypernym"}, tuple(shown), question, tuple(answers))

    def class_of(self, draw: np.random.Generator) -> int:
        """A hypernym at random, then a class below it: so the many dogs are not an eighth of all."""
        return int(draw.choice(self.below[self.hypernyms[int(draw.integers(len(self.hypernyms)))]]))

    def _drawn(self, draw: np.random.Generator, kind: str) -> tuple[int, str, frozenset[str]]:
        """A picture, an answer about it, and every name that is true of it."""
        if kind in {"class", "hypernym"}:
            shown = self.class_of(draw)
            name, above = self.nouns.names[shown], self.nouns.above[shown]
            called = [self.nouns.called[synset] for synset in above]
            true = frozenset({name, *chain.from_iterable(called)})
            if kind == "class" or not above:
                return shown, name, true
            names = called[int(draw.integers(len(called)))]
            return shown, names[0 if draw.random() < 0.7 else int(draw.integers(len(names)))], true
        shown = int(draw.choice(self.grouped if kind == "emoji group" else self.pictures))
        name, subgroup = self.emoji[shown]
        group = GROUPS.get(subgroup, name)
        return shown, group if kind == "emoji group" else name, frozenset({name, group})
