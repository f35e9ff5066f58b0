"""One fold's analyses: what its weights make of teacher's chains, own chains and classes on the images it trained on,
and of its own chains about the images it held out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from throughline.analysis.conclusions import VERSION as CONCLUSIONS_VERSION
from throughline.analysis.conclusions import Chained, ConclusionReader, chained
from throughline.analysis.context import Context, context
from throughline.analysis.document import FIELDS, Fold
from throughline.analysis.entropy import EntropyTable, Overlap, entropy_table, overlap
from throughline.analysis.faithfulness import Read, Variant, variants
from throughline.analysis.mismatch import Mismatch, mismatch
from throughline.analysis.optimisation import Curve, curve
from throughline.analysis.passages import Passages
from throughline.analysis.probabilities import Buckets, Moved, buckets, moved
from throughline.analysis.records import BASE, Kind, Missing, Source, State
from throughline.analysis.shading import Shaded, shade
from throughline.domains.samples import spread
from throughline.experiment.analyses.scoring import Scoring, base_chains, given_passages, own_passages
from throughline.experiment.analyses.subject import AnalyzedFold, AnalyzedUnit

if TYPE_CHECKING:
    import pandas as pd

    from throughline.mllm.load import Mllm

Measured = TypeVar("Measured")
Tables = Mapping[State, "pd.DataFrame"]
"""The same texts as each state of the weights sees them."""

KINDS: tuple[tuple[Source, Kind], ...] = (("label", "class"), ("teacher", "class"), ("teacher", "chain"))
OWN_KINDS: tuple[tuple[Source, Kind], ...] = (("self", "chain"), ("self", "class"))


@dataclass(frozen=True)
class Family:
    """A unit of self-labelling: the weights its rounds start from, those after the last one, and what the first round
    accepted as the base and these two see it."""

    unit: AnalyzedUnit
    start: State
    last: State
    tables: Tables


@dataclass
class FoldAnalysis:
    """Measures one fold; what cannot be measured is noted in `missing`. `limit` images at most are looked at, of each
    round too; conclusions are read of the methods named, None for all that write chains."""

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
        measures: dict[str, Callable[[], Iterable[Any]]] = {
            "buckets": self._buckets,
            "moved": self._moved,
            "context": self._context,
            "shaded": self._shaded,
            "entropy": self._entropy,
            "overlap": self._overlap,
            "mismatch": self._mismatch,
            "curves": self._curves,
            "variants": self._variants,
        }
        asked = [name for analysis, fields in FIELDS.items() if analysis in what for name in fields]
        return self.record.model_copy(update={name: _known(measures[name]()) for name in asked})

    def lacks(self, what: str, why: str, analysis: str) -> None:
        """Notes what could not be measured of this fold."""
        self.missing.append(Missing(what=f"{what} ({self.record.name})", why=why, analysis=analysis))

    # what is looked at ------------------------------------------------------------------------------------------------

    @cached_property
    def given(self) -> tuple[Passages, ...]:
        """Classes and a teacher's chains of images trained on; images that cannot be read are left out, and noted."""
        passages, broken = given_passages(
            self.fold.fold.train, self.scoring.subject.chains, self.limit, self.scoring.subject.questions.names
        )
        for name, why in broken.items():
            self.lacks(name, why, "probabilities")
        if not any("teacher" in texts.texts for texts in passages):
            self.lacks("teacher's chains", "no chain is accepted", "probabilities")
        return passages

    @cached_property
    def tables(self) -> Tables:
        """What is given, as every state sees it."""
        return {state: self.scoring.tokens(state, self.given, "given") for state in self.record.states}

    @cached_property
    def families(self) -> tuple[Family, ...]:
        """Every unit of self-labelling."""
        families = []
        for unit, start in self.fold.families():
            states = dict.fromkeys((BASE, start, *unit.rounds[-1:]))
            tables = {state: self._own_tokens(state, unit, 1) for state in states}
            families.append(Family(unit, start, unit.rounds[-1] if unit.rounds else start, tables))
        return tuple(families)

    def _own_tokens(self, state: State, unit: AnalyzedUnit, number: int) -> pd.DataFrame:
        """What a round accepted, as `state` sees it."""
        passages = own_passages(self.fold.fold.train, unit.trained.own_chains(number), self.limit)
        return self.scoring.tokens(state, passages, "own")

    # what is measured -------------------------------------------------------------------------------------------------

    def _buckets(self) -> Iterator[Buckets | None]:
        for state, table in self.tables.items():
            yield from (buckets(table, state, *kind) for kind in KINDS)

    def _moved(self) -> Iterator[Moved | None]:
        """Every state from the base; by all rounds, from the base and from where they start."""
        for state in self.record.states[1:]:
            yield from (_compared(moved, self.tables, BASE, state, *kind) for kind in KINDS)
        for family in self.families:
            if not family.unit.trained.own_chains(1):
                self.lacks(f"own chains, {family.unit.name}", "the first round accepted none", "probabilities")
            before = [state for state in (BASE, family.start) if state != family.last]
            for kind in OWN_KINDS:
                yield from (_compared(moved, family.tables, state, family.last, *kind) for state in before)

    def _context(self) -> Iterator[Context | None]:
        yield context(self.tables[BASE], BASE, "teacher")

    def _shaded(self) -> Iterator[Shaded]:
        """A method of teacher's chains; own chains of the family that the paper proposes, else of the first there
        is."""
        labels = {name: sample.label for name, sample in self.scoring.subject.images.by_id.items()}
        taught = [unit for unit in self.fold.units.values() if unit.name in {"mtct", "reasoning"}]
        for unit in taught[:1]:
            yield from _compared(shade, self.tables, BASE, unit.state, "teacher", labels)
        for family in sorted(self.families, key=lambda family: family.unit.name != "mtct_sarr")[:1]:
            yield from _compared(shade, family.tables, BASE, family.last, "self", labels)

    def _entropy(self) -> tuple[EntropyTable, ...]:
        return (*self.entropy_of_teachers, *self.entropy_of_own)

    @cached_property
    def entropy_of_teachers(self) -> tuple[EntropyTable, ...]:
        """Under teacher's chains: methods whose first stage learns from them, and what started from one that is not
        here."""
        learnt = []
        for unit in self.fold.units.values():
            first_stage = unit.method.needs_chains and unit.method.steps_like is None
            if unit.method.starts_from not in self.fold.units if unit.method.self_labelled else first_stage:
                learnt.append(unit.state)
        return _known(_compared(entropy_table, self.tables, BASE, state, "teacher") for state in learnt)

    @cached_property
    def entropy_of_own(self) -> tuple[EntropyTable, ...]:
        """By all rounds."""
        return _known(
            _compared(entropy_table, family.tables, family.start, family.last, "self") for family in self.families
        )

    def _overlap(self) -> Iterator[Overlap]:
        for teacher in self.entropy_of_teachers:
            yield from (overlap(teacher, own) for own in self.entropy_of_own)

    def _mismatch(self) -> list[Mismatch | None]:
        """The teacher's chains: of the base, of each family's weights round by round, and of all others. Own chains: of
        the base its own; then each round's accepted chains by the weights that wrote them, not by those that learnt
        from them: the last round's have written none."""
        base = self.tables[BASE]
        teachers, own = [mismatch(base, BASE, "teacher", None)], [mismatch(self._base_tokens(), BASE, "self", None)]
        for unit, start in self.fold.families():
            before = base
            for state in (start, *unit.rounds):
                teachers.append(mismatch(self.tables[state], state, "teacher", before))
                before = self.tables[state]
            earlier: pd.DataFrame | None = None
            for number, writer in enumerate((start, *unit.rounds[:-1]), start=1):
                written = self._own_tokens(writer, unit, number)
                own.append(mismatch(written, writer, "self", earlier))
                earlier = written
        seen = {record.state for record in teachers if record is not None}
        teachers += [mismatch(table, s, "teacher", base) for s, table in self.tables.items() if s not in seen]
        return teachers + own

    def _base_tokens(self) -> pd.DataFrame:
        """The base's chains of its own, about the images whose teacher's chains are scored, as it sees them."""
        samples = [passages.sample for passages in self.given]
        texts = base_chains(self.scoring, samples, self.fold.seed)
        return self.scoring.tokens(BASE, own_passages(samples, texts, len(samples)), "own")

    def _curves(self) -> Iterator[Curve]:
        for unit in self.fold.units.values():
            measured = curve(unit.name, unit.folder.name, unit.trained.training)
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
            state = (unit.states or (unit.state,))[-1]
            answers = (row for row in unit.folder.predictions() if row.answer == "reasoning")
            texts = {row.sample_id: row.text for row in answers}
            questions = self.scoring.subject.questions
            whole = chained(self.fold.fold.test, texts, questions)
            if len({image.sample.label for image in whole}) < 2:
                why = "fewer than two classes have a well-formed chain"
                self.lacks(f"conclusions, {state.name}", why, "conclusions")
                continue
            kept = {sample.id for sample in spread([image.sample for image in whole], self.limit)}
            yield from variants(self._reads(state, [image for image in whole if image.sample.id in kept]), state)

    def _reads(self, state: State, whole: list[Chained]) -> list[Read]:
        scoring, seed = self.scoring, self.fold.seed
        content = [[c.sample.id, c.sample.label, c.sample.image_sha256, dict(c.stages)] for c in whole]

        def read(mllm: Mllm) -> Iterator[dict[str, Any]]:
            reader = ConclusionReader(mllm, scoring.weights.reader, scoring.subject.questions)
            return map(asdict, reader.read(whole, seed, scoring.progress(state, "conclusions")))

        rows = scoring.lines("conclusions", state, [seed, content], CONCLUSIONS_VERSION, read)
        return [Read(**row) for row in rows]


def _compared(measure: Callable[..., Measured], tables: Tables, before: State, after: State, *further: Any) -> Measured:
    """What a measure says of the same texts under two states."""
    return measure(tables[before], tables[after], (before, after), *further)


def _known(records: Iterable[Measured | None]) -> tuple[Measured, ...]:
    return tuple(record for record in records if record is not None)
