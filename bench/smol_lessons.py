"""What the projector of `smol` is taught to say (`smol_projector.py`): names of ImageNet's classes, their hypernyms in
WordNet, and names of emoji that are no picture of open_styles; each as the answer to a question.

A tenth of the classes and a quarter of the emoji are never taught: recipes are chosen on them.
"""

import re
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from timm.data import ImageNetInfo

from throughline.core.seeding import generator
from throughline.domains.fetching.sources import Package, obtain
from throughline.domains.fetching.unpacking import unpack
from throughline.questions.wording import LABEL_TEMPLATE, OPTIONS_PLACE

WORDNET = Package(
    "wordnet-base 3.0",
    "61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752",
    6_467_132,
    ("apt:wordnet-base=1:3.0-37",),
)
BROADEST = 250
"""Classes under a hypernym at most: `mammal` has 218 of the 1,000; what lies above, as `animal`, says little."""
FREE, ABOUT = "What type of object is in this photo?", "What is in this photo, and what is that?"
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
"""What subgroups of emoji are called in questions; emoji of others are asked by their own names alone."""


@dataclass(frozen=True)
class Lesson:
    """A question about a picture and its answer. `shown` counts ImageNet's classes or the emoji; `options` are the
    names that the question offers, if any."""

    kind: Literal["class", "emoji"]
    shown: int
    question: str
    answer: str
    options: tuple[str, ...] = ()


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
        self,
        nouns: Nouns,
        emoji: Sequence[tuple[str, str]],
        classes: Sequence[int],
        pictures: Sequence[int],
        emoji_share: float,
        longest: int = 8,
    ) -> None:
        """`emoji` are (name, subgroup) of each picture."""
        self.nouns, self.emoji, self.pictures = nouns, emoji, list(pictures)
        self.emoji_share, self.longest = emoji_share, longest
        self.below = {synset: [i for i in classes if synset in nouns.above[i]] for synset in nouns.called}
        self.hypernyms = [synset for synset, below in self.below.items() if below]
        self.emoji_names = sorted({emoji[i][0] for i in self.pictures})
        self.grouped = [i for i in self.pictures if emoji[i][1] in GROUPS]
        self.groups = sorted({GROUPS[emoji[i][1]] for i in self.grouped})

    def draw(self, draw: np.random.Generator, listed: bool) -> Lesson:
        """One lesson; unless `listed`, one whose question offers no names, so that the picture alone tells."""
        kinds = {"free": 0.35, "about": 0.65} if not listed else {"coarse": 0.4, "fine": 0.1, "free": 0.2, "about": 0.3}
        if listed and draw.random() < self.emoji_share:
            return self.about_emoji(draw, by_group=draw.random() < 0.5)
        kind = str(draw.choice(list(kinds), p=list(kinds.values())))
        if kind in {"coarse", "fine"}:
            return self.about_class(draw, kind == "coarse")
        shown = self.class_of(draw)
        if kind == "free":
            return Lesson("class", shown, FREE, self._named(draw, shown, coarse=draw.random() < 0.5))
        above = [self.nouns.called[synset][0] for synset in self.nouns.above[shown]]
        return Lesson("class", shown, ABOUT, ", ".join([self.nouns.names[shown], *above[:5]]))

    def class_of(self, draw: np.random.Generator) -> int:
        """A hypernym at random, then a class below it: so the many dogs are not an eighth of all."""
        return int(draw.choice(self.below[self.hypernyms[int(draw.integers(len(self.hypernyms)))]]))

    def about_class(self, draw: np.random.Generator, coarse: bool, count: int | None = None) -> Lesson:
        """The name of a class, or of a hypernym of it, among others that are not true of it."""
        shown = self.class_of(draw)
        above = set(self.nouns.above[shown])
        answer = self._named(draw, shown, coarse)
        true = {self.nouns.names[shown]} | {name for synset in above for name in self.nouns.called[synset]}
        others = list[str]()
        count = int(draw.integers(2, self.longest + 1)) if count is None else count
        for _ in range(50 * count):  # there may be too few that are not true
            if len(others) == count - 1:
                break
            name = self._named(draw, self.class_of(draw), coarse)
            if name not in true and name not in others:
                others.append(name)
        return self._choice("class", shown, answer, others, draw)

    def _named(self, draw: np.random.Generator, shown: int, coarse: bool) -> str:
        """The class's name, or the name of one of its hypernyms, mostly the first of its names."""
        if not coarse:
            return self.nouns.names[shown]
        above = self.nouns.above[shown]
        if not above:
            return self.nouns.names[shown]
        called = self.nouns.called[above[int(draw.integers(len(above)))]]
        return called[0 if draw.random() < 0.7 else int(draw.integers(len(called)))]

    def about_emoji(self, draw: np.random.Generator, by_group: bool, count: int | None = None) -> Lesson:
        """An emoji's name, or that of its subgroup, among others."""
        shown = int(draw.choice(self.grouped if by_group else self.pictures))
        name, subgroup = self.emoji[shown]
        answer, names = (GROUPS[subgroup], self.groups) if by_group else (name, self.emoji_names)
        count = int(draw.integers(2, self.longest + 1)) if count is None else count
        others = [str(other) for other in draw.permutation(names) if other != answer][: count - 1]
        return self._choice("emoji", shown, answer, others, draw)

    def _choice(
        self, kind: Literal["class", "emoji"], shown: int, answer: str, others: list[str], draw: np.random.Generator
    ) -> Lesson:
        options = [str(name) for name in draw.permutation([answer, *others])]
        return Lesson(kind, shown, LABEL_TEMPLATE.replace(OPTIONS_PLACE, ", ".join(options)), answer, tuple(options))
