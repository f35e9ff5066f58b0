"""What a store already holds of a build, and what is still wanted: a few bits for a candidate, not its text.

Images with the same bytes are one image here: one of them leads, the others get copies of its lines. A request is
known by its key, so lines of other prompts, models or seeds in the same store count for nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from throughline.chains.records import Candidate, Record, Verdict
from throughline.chains.rules import RULES
from throughline.chains.store import ChainStore, read_store
from throughline.chains.verdicts import judged_answers, verdicts_on
from throughline.teaching.plan import MOST_CANDIDATES, BuildPlan
from throughline.teaching.teachers import Brief

JUDGEABLE = "consistent"
"""A judge is asked about chains that this rule accepts, right or wrong: so being asked says nothing of the label."""


class Ledger:
    """Recorded and accepted candidates of a plan's samples, by place. The plan's rule decides, and with a judge its
    verdict too."""

    def __init__(self, plan: BuildPlan, brief: Brief, judge: str | None = None) -> None:
        self.plan, self.brief, self.judge = plan, brief, judge
        self.samples = samples = plan.samples
        self.paid: Any = None
        """The tokens of recorded candidates of this brief that report their usage, as a frame."""
        self.unjudged: dict[int, list[Candidate]] = {}
        """Candidates that wait for the judge, by leading place. Whole, since the judge has to read them: few, unless a
        judge is called to a store that was built without one."""
        self._judgements: Mapping[tuple[int, str], bool] = {}
        """What judges said before, by hash of the key and model."""
        self._recorded, self._passed, self._accepted = (np.zeros(len(samples), np.uint64) for _ in range(3))
        self._images, self._first_places, image_of = np.unique(
            np.fromiter((hash(sample.image_sha256) for sample in samples), np.int64, len(samples)),
            return_index=True,
            return_inverse=True,
        )
        self._alike = _groups(image_of, self._first_places)

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

    def key(self, lead: int, number: int) -> str:
        """The key of the request for the `number`-th candidate of an image."""
        return self.brief.key(self.samples[lead].image_sha256, number)

    def has(self, lead: int, number: int) -> bool:
        """Whether the candidate is recorded, for every sample of the image."""
        return all(self._has(place, number) for place in self.alike(lead))

    def lacking(self, lead: int) -> list[int]:
        """The numbers of the plan's candidates that are not recorded."""
        return [number for number in range(self.plan.candidates) if not self.has(lead, number)]

    def accepted_before(self, lead: int, number: int) -> int:
        """Accepted candidates below `number`; where images are alike, of the sample that has fewest."""
        below = (1 << number) - 1
        return min((int(self._accepted[place]) & below).bit_count() for place in self.alike(lead))

    def enough(self, lead: int, number: int) -> bool:
        """No further candidate is wanted after those below `number`."""
        return self.plan.enough is not None and self.accepted_before(lead, number) >= self.plan.enough

    def add(self, lead: int, candidate: Candidate) -> list[Candidate | Verdict]:
        """The lines that an answer makes: for every sample of the image that lacks it the candidate, itself or a copy,
        with every rule's verdict. What the judge has to be asked about waits in `unjudged`."""
        lines: list[Candidate | Verdict] = []
        for place in self.alike(lead):
            sample, number = self.samples[place], candidate.candidate
            if self._has(place, number):
                continue
            own = candidate.sample_id == sample.id
            line = candidate if own else candidate.copied_for(sample.id, sample.domain)
            verdicts = verdicts_on(line, RULES, self.plan.format, self.plan.images.classes, sample.label)
            lines += [line, *verdicts]
            accepted_by = {verdict.rule: verdict.accepted for verdict in verdicts}
            if not line.failed and self._take(lead, place, number, hash(line.key), accepted_by):
                self._await_judge(lead, line)
        return lines

    def take_judgement(self, lead: int, number: int, agreed: bool) -> None:
        """The judge has spoken: the samples whose rule accepts the candidate accept it, if the judge does."""
        for place in self.alike(lead):
            if agreed and int(self._passed[place]) >> number & 1:
                self._accepted[place] |= _bit(number)

    def read(self, folder: Path) -> tuple[ChainStore, list[Record]]:
        """Takes in what the store in `folder` holds; one that is not there holds nothing.

        Gives the store, and the lines that it lacks: verdicts that a kill left out or that were made under other
        labels or rules, copies for images alike.
        """
        store = read_store(folder) if folder.is_dir() else ChainStore()
        self._judgements = store.judgements
        answers = self._own_answers(store)
        self.paid = answers.loc[answers["reported"], ["prompt_tokens", "completion_tokens"]]
        lines: list[Record] = []
        self._take_answers(store, answers, lines)
        # Samples alike, or of another name, may have no lines yet.
        first = answers.drop_duplicates(["lead", "number"])
        lacks = [not self.has(lead, number) for lead, number in zip(first["lead"], first["number"], strict=True)]
        first = first[np.array(lacks, bool)]
        for lead, candidate in zip(first["lead"], store.read(first.index), strict=True):
            lines += self.add(lead, candidate)
        return store, lines

    def _own_answers(self, store: ChainStore) -> Any:
        """The answers to requests of this brief about these images, with their `lead`."""
        import pandas

        names = ("key", "sample", "format", "number", "reported", "prompt_tokens", "completion_tokens")
        requests = store.columns("image", "failed", *names)
        image = pandas.Index(self._images).get_indexer(requests.pop("image"))
        rows = np.flatnonzero((image >= 0) & ~requests.pop("failed") & (requests["format"] == self.plan.format.name))
        requests, leads = requests.iloc[rows], self._first_places[image[rows]]
        own = (
            0 <= number < MOST_CANDIDATES and hash(self.key(lead, number)) == key
            for lead, number, key in zip(leads, requests["number"], requests["key"], strict=True)
        )
        return _chosen(requests.assign(lead=leads), np.fromiter(own, bool, len(leads)))

    def _take_answers(self, store: ChainStore, answers: Any, lines: list[Record]) -> None:
        named = zip(answers["lead"], answers["sample"], strict=True)
        places = np.fromiter((self._place(lead, sample) for lead, sample in named), int, len(answers))
        known, places = _chosen(answers, places >= 0), places[places >= 0]
        labels = [self.samples[place].label for place in places]
        verdicts = judged_answers(store, known, labels, self.plan.images.classes, list(RULES), lines.extend)
        accepted = zip(*(verdicts[rule]["accepted"] for rule in RULES), strict=True)
        columns = (known.index, known["lead"], map(int, places), known["number"], known["key"], accepted)
        waiting = [
            (lead, row)
            for row, lead, place, number, key, by_rule in zip(*columns, strict=True)
            if self._take(lead, place, number, key, dict(zip(RULES, by_rule, strict=True)))
        ]
        for (lead, _), candidate in zip(waiting, store.read(row for _, row in waiting), strict=True):
            self._await_judge(lead, candidate)

    def _take(self, lead: int, place: int, number: int, key: int, accepted_by: Mapping[str, bool]) -> bool:
        """Takes in a candidate for the sample at `place`; `key` is its hash, `accepted_by` is by rule.

        Gives whether the judge has to be asked about it.
        """
        self._recorded[place] |= _bit(number)
        if accepted_by[self.plan.rule]:
            self._passed[place] |= _bit(number)
            if self.judge is None:
                self._accepted[place] |= _bit(number)
        if self.judge is None or not accepted_by[JUDGEABLE]:
            return False
        agreed = self._judgements.get((key, self.judge))
        if agreed is not None:
            self.take_judgement(lead, number, agreed)
        return agreed is None

    def _await_judge(self, lead: int, candidate: Candidate) -> None:
        """The candidate has to be shown to the judge, once for all samples alike."""
        waiting = self.unjudged.setdefault(lead, [])
        if all(other.key != candidate.key for other in waiting):
            waiting.append(candidate)

    def _place(self, lead: int, sample: int) -> int:
        """Where the sample of this hash stands among those alike; -1 where the store knows it by another name."""
        return next((place for place in self.alike(lead) if hash(self.samples[place].id) == sample), -1)

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
