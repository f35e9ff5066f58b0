"""What a store already holds of a build, and what is still wanted: a few bits for a candidate, not its text.

Images with the same bytes are one image here: one of them leads, the others get copies of its lines. A request is
known by its key, so lines of other prompts, models or seeds in the same store count for nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from throughline.chains.records import Candidate, Record, Verdict
from throughline.chains.rules import RULES
from throughline.chains.store import MEASURES, ChainStore, read_store
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
        """`MEASURES` of recorded candidates of this brief that report their usage, as a frame."""
        self.unjudged: dict[int, list[Candidate]] = {}
        """Candidates that wait for the judge, by leading place. Whole, since the judge has to read them: few, unless a
        judge is called to a store that was built without one."""
        self._judgements: Mapping[tuple[int, str], bool] = {}
        """What judges said before, by hash of the key and model."""
        self._recorded, self._passed, self._accepted = ([0] * len(samples) for _ in range(3))
        """By place, a bit for each candidate."""
        self._leads: dict[int, int] = {}
        """The first place of each distinct image, by hash of its bytes."""
        self._alike: dict[int, list[int]] = {}
        """All places of images that are there more than once, by the first of them."""
        for place, sample in enumerate(samples):
            lead = self._leads.setdefault(hash(sample.image_sha256), place)
            if lead != place:
                self._alike.setdefault(lead, [lead]).append(place)

    @property
    def leads(self) -> Iterator[int]:
        """One place for each distinct image, in the samples' order."""
        return iter(self._leads.values())

    @property
    def distinct(self) -> int:
        """How many distinct images there are."""
        return len(self._leads)

    @property
    def candidates(self) -> int:
        """How many candidates are recorded, copies included."""
        return sum(map(int.bit_count, self._recorded))

    @property
    def accepted(self) -> int:
        """How many candidates are accepted, copies included."""
        return sum(map(int.bit_count, self._accepted))

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
        return min((self._accepted[place] & below).bit_count() for place in self.alike(lead))

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
            images, format = self.plan.images, self.plan.format
            verdicts = verdicts_on(line, RULES, format, images.classes, sample.label, images.names)
            lines += [line, *verdicts]
            accepted_by = {verdict.rule: verdict.accepted for verdict in verdicts}
            if not line.failed and self._take(lead, place, number, hash(line.key), accepted_by):
                self._await_judge(lead, line)
        return lines

    def take_judgement(self, lead: int, number: int, agreed: bool) -> None:
        """The judge has spoken: the samples whose rule accepts the candidate accept it, if the judge does."""
        for place in self.alike(lead):
            if agreed:
                self._accepted[place] |= self._passed[place] & 1 << number

    def read(self, folder: Path) -> tuple[ChainStore, list[Record]]:
        """Takes in what the store in `folder` holds; one that is not there holds nothing.

        Gives the store, and the lines that it lacks: verdicts that a kill left out or that were made under other
        labels or rules, copies for images alike.
        """
        store = read_store(folder) if folder.is_dir() else ChainStore()
        self._judgements = store.judgements
        answers = self._own_answers(store)
        self.paid = answers.loc[answers["reported"], [*MEASURES]]
        lines: list[Record] = []
        self._take_answers(store, answers, lines)
        # Samples alike, or of another name, may have no lines yet.
        first = answers.drop_duplicates(["lead", "number"])
        first = first.loc[[not self.has(*request) for request in zip(first["lead"], first["number"], strict=True)]]
        for lead, candidate in zip(first["lead"], store.read(first.index), strict=True):
            lines += self.add(lead, candidate)
        return store, lines

    def _own_answers(self, store: ChainStore) -> Any:
        """The answers to requests of this brief about these images, with their `lead`."""
        names = ("key", "sample", "format", "number", "reported")
        requests = store.columns("image", "failed", *names, *MEASURES)
        requests["lead"] = requests.pop("image").map(self._leads)
        is_about_these = requests["lead"].notna() & ~requests.pop("failed")
        requests = requests[is_about_these & (requests["format"] == self.plan.format.name)].astype({"lead": int})
        own = [
            0 <= number < MOST_CANDIDATES and hash(self.key(lead, number)) == key
            for lead, number, key in zip(requests["lead"], requests["number"], requests["key"], strict=True)
        ]
        return requests.loc[own]

    def _take_answers(self, store: ChainStore, answers: Any, lines: list[Record]) -> None:
        places = [self._place(*named) for named in zip(answers["lead"], answers["sample"], strict=True)]
        known = answers.assign(place=places)
        known = known[known["place"] >= 0]
        images = replace(self.plan.images, samples=self.samples)
        verdicts = judged_answers(store, known, images, RULES, lines.extend)
        accepted = zip(*(verdicts[rule]["accepted"] for rule in RULES), strict=True)
        columns = (known.index, *(known[name] for name in ("lead", "place", "number", "key")), accepted)
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
        self._recorded[place] |= 1 << number
        if accepted_by[self.plan.rule]:
            self._passed[place] |= 1 << number
            if self.judge is None:
                self._accepted[place] |= 1 << number
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
        return bool(self._recorded[place] >> number & 1)
