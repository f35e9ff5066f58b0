"""One fold's analyses: what its weights make of teacher's chains, own chains and classes on the images it trained on,
and of its own chains about the images it held out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from throughline.analysis.conclusions import VERSION as CONCLUSIONS_VERSION
from throughline.analysis.conclusions import Chained, ConclusionReader, chained
from throughline.analysis.context import context
from throughline.analysis.document import Fold
from throughline.analysis.entropy import EntropyTable, entropy_table, overlap
from throughline.analysis.faithfulness import Read, Variant, variants
from throughline.analysis.mismatch import Mismatch, mismatch
from throughline.analysis.optimisation import Curve, curve
from throughline.analysis.passages import Passages
from throughline.analysis.probabilities import buckets, moved
from throughline.analysis.records import BASE, Kind, Missing, Source, State
from throughline.analysis.shading import Shaded, shade
from throughline.core.files import read_json_lines, write_json_lines
from throughline.domains.samples import spread
from throughline.experiment.analyses.own_chains import OwnChains
from throughline.experiment.analyses.scoring import Scoring, given_passages
from throughline.experiment.analyses.subject import AnalyzedFold

if TYPE_CHECKING:
    import pandas as pd

Record = TypeVar("Record")
Tables = Mapping[State, "pd.DataFrame"]
"""The same texts as each state of the weights sees them."""

KINDS: tuple[tuple[Source, Kind], ...] = (("label", "class"), ("teacher", "class"), ("teacher", "chain"))


@dataclass
class FoldAnalysis:
    """Measures one fold; what cannot be measured is noted in `missing`. `limit` images at most are looked at;
    conclusions are read of the methods named, None for all that write chains."""

    scoring: Scoring
    fold: AnalyzedFold
    limit: int
    conclusions_of: tuple[str, ...] | None = None
    missing: list[Missing] = field(default_factory=list)

    @cached_property
    def record(self) -> Fold:
        """The fold with its states, before anything is measured: the base, then those of each method."""
        states = (state for unit in self.fold.units.values() for state in unit.states)
        return Fold(
            targets=self.fold.targets, seed=self.fold.seed, factors=dict(self.fold.factors), states=(BASE, *states)
        )

    def measure(self, what: Sequence[str]) -> Fold:
        """All that is asked for and can be had."""
        measured: dict[str, object] = {}
        if {"probabilities", "entropy", "mismatch"} & set(what):
            measured |= self._on_trained_images(what)
        if "optimisation" in what:
            measured["curves"] = tuple(self._curves())
        if "conclusions" in what:
            measured["variants"] = tuple(self._variants())
        return self.record.model_copy(update=measured)

    def lacks(self, what: str, why: str, analysis: str) -> None:
        """Notes what could not be measured of this fold."""
        self.missing.append(Missing(what=f"{what} ({self.record.name})", why=why, analysis=analysis))

    @cached_property
    def given(self) -> tuple[Passages, ...]:
        """Classes and a teacher's chains of images trained on; images that cannot be read are left out, and noted."""
        passages, broken = given_passages(self.fold.fold.train, self.scoring.subject.chains, self.limit)
        for name, why in broken.items():
            self.lacks(name, why, "probabilities")
        return passages

    def _on_trained_images(self, what: Sequence[str]) -> dict[str, object]:
        if not any("teacher" in passages.texts for passages in self.given):
            self.lacks("teacher's chains", "no chain is accepted", "probabilities")
        tables = {state: self.scoring.tokens(state, self.given, "given") for state in self.record.states}
        own = OwnChains(self.scoring, self.fold, [passages.sample for passages in self.given], self.limit)
        measured: dict[str, object] = {}
        if "probabilities" in what:
            for method in own.without_first_round():
                self.lacks(f"own chains, {method}", "the first round accepted none", "probabilities")
            trained = {state: table for state, table in tables.items() if state != BASE}
            measured["buckets"] = _known(buckets(table, s, *kind) for s, table in tables.items() for kind in KINDS)
            from_base = [moved(tables[BASE], t, (BASE, s), *kind) for s, t in trained.items() for kind in KINDS]
            measured["moved"] = (*_known(from_base), *own.moved())
            measured["context"] = _known([context(tables[BASE], BASE, "teacher")])
            measured["shaded"] = (*self._shaded(tables), *own.shaded())
        if "entropy" in what:
            teachers, selves = self._entropy(tables), own.entropy()
            measured["entropy"] = (*teachers, *selves)
            measured["overlap"] = tuple(overlap(teacher, mine) for teacher in teachers for mine in selves)
        if "mismatch" in what:
            measured["mismatch"] = (*self._mismatch(tables), *own.mismatch())
        return measured

    def _entropy(self, tables: Tables) -> tuple[EntropyTable, ...]:
        """Under teacher's chains: methods whose first stage learns from them, and what started from one that is not
        here."""
        learnt = []
        for unit in self.fold.units.values():
            first_stage = unit.method.needs_chains and unit.method.steps_like is None
            if unit.method.starts_from not in self.fold.units if unit.method.self_labelled else first_stage:
                learnt.append(unit.state)
        return _known(entropy_table(tables[BASE], tables[state], (BASE, state), "teacher") for state in learnt)

    def _mismatch(self, tables: Tables) -> tuple[Mismatch, ...]:
        """The teacher's chains: of the base, and of each family's weights round by round."""
        records = [mismatch(tables[BASE], BASE, "teacher", None)]
        for unit, parent in self.fold.families():
            before = tables[BASE]
            for state in (parent, *unit.rounds):
                records.append(mismatch(tables[state], state, "teacher", before))
                before = tables[state]
        seen = {record.state for record in records if record is not None}
        records += [mismatch(table, s, "teacher", tables[BASE]) for s, table in tables.items() if s not in seen]
        return _known(records)

    def _shaded(self, tables: Tables) -> list[Shaded]:
        unit = next((unit for unit in self.fold.units.values() if unit.name in {"mtct", "reasoning"}), None)
        if unit is None:
            return []
        return shade(tables[BASE], tables[unit.state], (BASE, unit.state), "teacher", self.scoring.labels)

    def _curves(self) -> Iterator[Curve]:
        for unit in self.fold.units.values():
            measured = curve(unit.name, unit.folder.name, unit.folder.training)
            if measured is not None:
                yield measured
            if measured is not None and not measured.class_probability:
                what = f"class probability by step, {unit.name}"
                self.lacks(what, "the run is of a version before it was logged", "optimisation")

    def _variants(self) -> Iterator[Variant]:
        """Of chains about images that were held out."""
        for unit in self.fold.units.values():
            if unit.method.paths == ("label",):
                continue  # it was never taught to write a chain
            if self.conclusions_of is not None and unit.name not in self.conclusions_of:
                continue
            state = unit.rounds[-1] if unit.rounds else unit.state
            answers = (row for row in unit.folder.predictions(state.round) if row.answer == "reasoning")
            texts = {row.sample_id: row.text for row in answers}
            questions = self.scoring.subject.questions
            whole = chained(self.fold.fold.test, texts, questions.format, questions.classes)
            if len({image.sample.label for image in whole}) < 2:
                why = "fewer than two classes have a well-formed chain"
                self.lacks(f"conclusions, {state.name}", why, "conclusions")
                continue
            kept = {sample.id for sample in spread([image.sample for image in whole], self.limit)}
            yield from variants(self._reads(state, [image for image in whole if image.sample.id in kept]), state)

    def _reads(self, state: State, whole: list[Chained]) -> list[Read]:
        scoring, seed = self.scoring, self.fold.seed
        content = [[c.sample.id, c.sample.label, c.sample.image_sha256, dict(c.stages)] for c in whole]
        path = scoring.shard("conclusions", state, [seed, content], CONCLUSIONS_VERSION).with_suffix(".jsonl")
        if not path.is_file():
            questions = scoring.subject.questions
            with scoring.weights.at(scoring.subject.adapter(state)) as mllm:
                reader = ConclusionReader(mllm, scoring.weights.reader, questions)
                progress = scoring.progress(state, "conclusions")
                write_json_lines(path, (asdict(read) for read in reader.read(whole, seed, progress)))
        return [Read(**row) for row in read_json_lines(path)]


def _known(records: Iterator[Record | None] | Sequence[Record | None]) -> tuple[Record, ...]:
    return tuple(record for record in records if record is not None)
