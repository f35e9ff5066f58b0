"""The model's own chains of a fold: the base's, and those that each family of rounds accepted, scored by the weights
that wrote them and by those that they trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from throughline.analysis.entropy import EntropyTable, entropy_table
from throughline.analysis.mismatch import Mismatch, mismatch
from throughline.analysis.passages import Passages
from throughline.analysis.probabilities import Moved, moved
from throughline.analysis.records import BASE, Kind, State
from throughline.analysis.shading import Shaded, shade
from throughline.core.files import read_json_lines, write_json_lines
from throughline.core.seeding import generator
from throughline.core.settings import SamplingSettings
from throughline.domains.samples import Sample
from throughline.experiment.analyses.scoring import Scoring, own_passages
from throughline.experiment.analyses.subject import AnalyzedFold, AnalyzedUnit
from throughline.mllm.chat import user_turn
from throughline.mllm.sampling import sample

if TYPE_CHECKING:
    import pandas as pd

VERSION = 2
"""Raised when the same base would write other chains."""


@dataclass
class OwnChains:
    """`samples` are the images whose teacher's chains are scored; `limit` images of each round at most."""

    scoring: Scoring
    fold: AnalyzedFold
    samples: Sequence[Sample]
    limit: int

    def without_first_round(self) -> list[str]:
        """Methods whose first round accepted no chain."""
        return [unit.name for unit, _ in self.fold.families() if not unit.folder.own_chains(1)]

    def moved(self) -> list[Moved]:
        """By all rounds, on what was accepted in the first: from the base, and from where the rounds start."""
        moves = []
        kinds: tuple[Kind, ...] = ("chain", "class")
        for unit, parent in self.fold.families():
            tables = self._tables(unit, parent)
            last = list(tables)[-1]
            before = [state for state in (BASE, parent) if state != last]
            moves += [moved(tables[s], tables[last], (s, last), "self", kind) for kind in kinds for s in before]
        return [move for move in moves if move is not None]

    def entropy(self) -> list[EntropyTable]:
        """By all rounds."""
        measured = []
        for unit, parent in self.fold.families():
            tables = self._tables(unit, parent)
            last = list(tables)[-1]
            measured.append(entropy_table(tables[parent], tables[last], (parent, last), "self"))
        return [table for table in measured if table is not None]

    def mismatch(self) -> list[Mismatch]:
        """The base on chains of its own; then each round's accepted chains by the weights that wrote them, not by those
        that learnt from them: the last round's have written none."""
        records = [mismatch(self._of_base(), BASE, "self", None)]
        for unit, parent in self.fold.families():
            before = None
            for number, writer in enumerate((parent, *unit.rounds[:-1]), start=1):
                table = self.scoring.tokens(writer, self._passages(unit, number), "own")
                records.append(mismatch(table, writer, "self", before))
                before = table
        return [record for record in records if record is not None]

    def shaded(self) -> list[Shaded]:
        """Own chains of the family that the paper proposes, else of the first there is."""
        families = sorted(self.fold.families(), key=lambda pair: pair[0].name != "mtct_sarr")
        for unit, parent in families[:1]:
            tables = self._tables(unit, parent)
            last = list(tables)[-1]
            return shade(tables[BASE], tables[last], (BASE, last), "self", self.scoring.labels)
        return []

    def _tables(self, unit: AnalyzedUnit, parent: State) -> dict[State, pd.DataFrame]:
        """What the first round accepted, as the base, the rounds' start and the last round see it."""
        passages = self._passages(unit, 1)
        states = dict.fromkeys((BASE, parent, *unit.rounds[-1:]))
        return {state: self.scoring.tokens(state, passages, "own") for state in states}

    def _passages(self, unit: AnalyzedUnit, number: int) -> tuple[Passages, ...]:
        return own_passages(self.fold.fold.train, unit.folder.own_chains(number), self.limit)

    def _of_base(self) -> pd.DataFrame:
        """What the base writes by itself about the images whose teacher's chains are scored, drawn as rounds draw; what
        was cut off is no chain."""
        settings = self.scoring.subject.self_labelling.model_copy(update={"constrained": False})
        content = [[image.id, image.image_sha256] for image in self.samples]
        inputs = [settings.model_dump(mode="json"), self.fold.seed, content]
        path = self.scoring.shard("chains-own", BASE, inputs, VERSION).with_suffix(".jsonl")
        if not path.is_file():
            write_json_lines(path, self._written(settings))
        texts = {row["sample_id"]: row["text"] for row in read_json_lines(path) if row["text"]}
        return self.scoring.tokens(BASE, own_passages(self.samples, texts, len(self.samples)), "own")

    def _written(self, settings: SamplingSettings) -> list[dict[str, str]]:
        subject, rows = self.scoring.subject, []
        batch, reader = subject.answering.batch, self.scoring.weights.reader
        with self.scoring.weights.at(None) as mllm, mllm.evaluating():
            question = user_turn(subject.questions.reasoning)
            for start in range(0, len(self.samples), batch):
                images = self.samples[start : start + batch]
                prompts = [mllm.chat.prompt(question, [reader.encode(image)]) for image in images]
                draws = [[generator(self.fold.seed, "base's own chain", image.id)] for image in images]
                replies = sample(mllm, prompts, settings, draws)
                rows += [
                    {"sample_id": image.id, "text": reply.text}
                    for image, (reply, *_) in zip(images, replies, strict=True)
                    if reply.finish_reason == "stop"
                ]
        return rows
