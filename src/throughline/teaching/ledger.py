"""What a store already holds of a build, and what is still wanted: a few bits for a candidate, not its text.

Images with the same bytes are one image here: one of them leads, the others get copies of its lines. A request is
known by its key, so lines of other prompts, models or seeds in the same store count for nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from throughline.chains.formats import ChainFormat
from throughline.chains.records import Candidate, Record
from throughline.chains.rules import RULES
from throughline.chains.store import ChainStore, read_store
from throughline.chains.verdicts import judged_answers, verdicts_on
from throughline.domains.samples import Sample
from throughline.teaching.teachers import Brief

MOST_CANDIDATES = 64
"""Candidates an image; one bit each."""
JUDGEABLE = "consistent"
"""A judge is asked about chains that this rule accepts, right or wrong: so being asked says nothing of the label."""


class Ledger:
    """Recorded and accepted candidates of `samples`, by place. `rule` decides, and with a judge its verdict too."""

    def __init__(
        self,
        samples: Sequence[Sample],
        classes: tuple[str, ...],
        format: ChainFormat,
        brief: Brief,
        rule: str,
        judge: str | None = None,
    ) -> None:
        self.samples, self.brief, self.rule, self.judge = samples, brief, rule, judge
        self.problems = 0
        """Lines of the store that could not be read."""
        self.cost = 0.0
        """US dollars behind all lines of the store, whatever was asked."""
        self.paid_answers, self.prompt_tokens, self.completion_tokens = 0, 0, 0
        """Recorded candidates of this brief that report their usage, and their tokens."""
        self.unjudged: dict[int, list[Candidate]] = {}
        """Candidates that wait for the judge, by leading place. Whole, since the judge has to read them: few, unless a
        judge is called to a store that was built without one."""
        self._classes, self._format = classes, format
        self._recorded, self._passed, self._accepted = (np.zeros(len(samples), np.uint64) for _ in range(3))
        images, self._first_places, image_of = np.unique(
            np.fromiter((hash(sample.image_sha256) for sample in samples), np.int64, len(samples)),
            return_index=True,
            return_inverse=True,
        )
        self._images, self._alike = images, _groups(image_of, self._first_places)

    @property
    def leads(self) -> Iterator[int]:
        """One place for each distinct image, in the samples' order."""
        return map(int, np.sort(self._first_places))

    @property
    def distinct(self) -> int:
        """How many distinct images there are."""
        return len(self._first_places)

    @property
    def candidates(self) -> int:
        """How many candidates are recorded, copies included."""
        return int(np.bitwise_count(self._recorded).sum())

    @property
    def accepted(self) -> int:
        """How many candidates are accepted, copies included."""
        return int(np.bitwise_count(self._accepted).sum())

    def alike(self, lead: int) -> Sequence[int]:
        """All places with the image of `lead`, itself first."""
        return self._alike.get(lead, (lead,))

    def has(self, lead: int, number: int) -> bool:
        """Whether the candidate is recorded, for every sample of the image."""
        return all(self._has(place, number) for place in self.alike(lead))

    def accepted_before(self, lead: int, number: int) -> int:
        """Accepted candidates below `number`; where images are alike, of the sample that has fewest."""
        below = (1 << number) - 1
        return min((int(self._accepted[place]) & below).bit_count() for place in self.alike(lead))

    def take(self, place: int, number: int, accepted_by: Mapping[str, bool]) -> bool:
        """A candidate for the sample at `place` is in the journal; `accepted_by` is by rule.

        Gives whether the judge has to be asked about it.
        """
        self._recorded[place] |= _bit(number)
        if accepted_by[self.rule]:
            self._passed[place] |= _bit(number)
            if self.judge is None:
                self._accepted[place] |= _bit(number)
        return self.judge is not None and accepted_by[JUDGEABLE]

    def take_judgement(self, lead: int, number: int, agreed: bool) -> None:
        """The judge has spoken: the samples whose rule accepts the candidate accept it, if the judge does."""
        for place in self.alike(lead):
            if agreed and int(self._passed[place]) >> number & 1:
                self._accepted[place] |= _bit(number)

    def await_judge(self, lead: int, candidate: Candidate) -> None:
        """The candidate has to be shown to the judge, once for all samples alike."""
        waiting = self.unjudged.setdefault(lead, [])
        if all(other.key != candidate.key for other in waiting):
            waiting.append(candidate)

    def read(self, folder: Path) -> tuple[ChainStore, list[Record]]:
        """Takes in what the store in `folder` holds; one that is not there holds nothing.

        Gives the store, and the lines that it lacks: verdicts that a kill left out or that were made under other
        labels or rules, copies for images alike.
        """
        store = read_store(folder) if folder.is_dir() else ChainStore()
        self.problems, self.cost = len(store.problems), store.cost
        answers = self._own_answers(store)
        paid = answers[answers["reported"]]
        self.paid_answers = len(paid)
        self.prompt_tokens, self.completion_tokens = (
            int(paid[name].sum()) for name in ("prompt_tokens", "completion_tokens")
        )
        lines: list[Record] = []
        self._take_answers(store, answers, lines)
        self._copy(store, answers, lines)
        return store, lines

    def _own_answers(self, store: ChainStore) -> Any:
        """The answers to requests of this brief about these images, with their `lead`."""
        import pandas

        names = ("key", "sample", "format", "number", "reported", "prompt_tokens", "completion_tokens")
        requests = store.columns("image", "failed", *names)
        image = pandas.Index(self._images).get_indexer(requests.pop("image"))
        rows = np.flatnonzero((image >= 0) & ~requests.pop("failed") & (requests["format"] == self._format.name))
        requests, leads = requests.iloc[rows], self._first_places[image[rows]]
        own = (
            0 <= number < MOST_CANDIDATES and hash(self.brief.key(self.samples[lead].image_sha256, number)) == key
            for lead, number, key in zip(leads, requests["number"], requests["key"], strict=True)
        )
        requests = requests.assign(lead=leads)
        return _chosen(requests, np.fromiter(own, bool, len(leads)))

    def _take_answers(self, store: ChainStore, answers: Any, lines: list[Record]) -> None:
        named = zip(answers["lead"], answers["sample"], strict=True)
        places = np.fromiter((self._place(lead, sample) for lead, sample in named), int, len(answers))
        known, places = _chosen(answers, places >= 0), places[places >= 0]
        labels = [self.samples[place].label for place in places]
        verdicts = judged_answers(store, known, labels, self._classes, list(RULES), lines.extend)
        waiting = []
        accepted = zip(*(verdicts[rule]["accepted"] for rule in RULES), strict=True)
        columns = zip(
            known.index, map(int, places), known["lead"], known["number"], known["key"], accepted, strict=True
        )
        for row, place, lead, number, key, by_rule in columns:
            if self.take(place, number, dict(zip(RULES, by_rule, strict=True))):
                agreed = store.judgements.get((key, self.judge or ""))
                if agreed is None:
                    waiting.append((lead, row))
                else:
                    self.take_judgement(lead, number, agreed)
        for (lead, _), candidate in zip(waiting, store.read(row for _, row in waiting), strict=True):
            self.await_judge(lead, candidate)

    def _place(self, lead: int, sample: int) -> int:
        """Where the sample of this hash stands among those alike; -1 where the store knows it by another name."""
        return next((place for place in self.alike(lead) if hash(self.samples[place].id) == sample), -1)

    def _copy(self, store: ChainStore, answers: Any, lines: list[Record]) -> None:
        """Lines for samples alike, or of another name, that the store does not have yet."""
        first = answers.drop_duplicates(["lead", "number"])
        lacking = [not self.has(lead, number) for lead, number in zip(first["lead"], first["number"], strict=True)]
        first = first[np.array(lacking, bool)]
        for lead, candidate in zip(first["lead"], store.read(first.index), strict=True):
            for place in self.alike(lead):
                if not self._has(place, candidate.candidate):
                    sample = self.samples[place]
                    copy = candidate.copied_for(sample.id, sample.domain)
                    verdicts = verdicts_on(copy, RULES, self._format, self._classes, sample.label)
                    lines += [copy, *verdicts]
                    if self.take(place, copy.candidate, {verdict.rule: verdict.accepted for verdict in verdicts}):
                        agreed = store.judgements.get((hash(copy.key), self.judge or ""))
                        if agreed is None:
                            self.await_judge(lead, copy)
                        else:
                            self.take_judgement(lead, copy.candidate, agreed)

    def _has(self, place: int, number: int) -> bool:
        return bool(int(self._recorded[place]) >> number & 1)


def _chosen(frame: Any, mask: Any) -> Any:
    """The rows where the mask holds; no copy where it holds everywhere, since a store may be large."""
    return frame if mask.all() else frame[mask]


def _groups(image_of: Any, first_places: Any) -> dict[int, list[int]]:
    """Places of images that are there more than once, by the first of them."""
    groups: dict[int, list[int]] = {}
    counts = np.bincount(image_of, minlength=len(first_places))
    for place in np.flatnonzero(counts[image_of] > 1).tolist():
        groups.setdefault(int(first_places[image_of[place]]), []).append(place)
    return groups


def _bit(number: int) -> np.uint64:
    return np.uint64(1 << number)
