"""One fold's analyses: what its weights make of teacher's chains, own chains and classes on the images it trained on,
and of its own chains about the images it held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property

from throughline.analysis.conclusions import VERSION as READ_VERSION
from throughline.analysis.conclusions import Chained, ConclusionReader, Read, chained, variants
from throughline.analysis.curves import curve
from throughline.analysis.entropy import entropy_table, overlap
from throughline.analysis.mismatch import mismatch
from throughline.analysis.passages import Passages
from throughline.analysis.probabilities import buckets, context, moved
from throughline.analysis.records import Buckets as BucketsRecord
from throughline.analysis.records import (
    Context,
    EntropyTable,
    Fold,
    Kind,
    Mismatch,
    Missing,
    Moved,
    Shaded,
    Source,
    State,
    Variant,
    fold_name,
)
from throughline.analysis.tokens import TokenTable
from throughline.core.files import read_json_lines, write_json_lines
from throughline.core.seeding import generator
from throughline.core.settings import SamplingSettings
from throughline.domains.samples import Sample, spread
from throughline.experiment.analyzing.finished_units import BASE, FinishedUnit
from throughline.experiment.analyzing.run_states import RunFold
from throughline.experiment.analyzing.scored import Scoring, given_passages, own_passages
from throughline.mllm.chat import user_turn
from throughline.mllm.sampling import sample

SHADED = 3
"""Chains of each source that the page shows token by token."""

TRAINED_ON: dict[str, tuple[Source, Kind]] = {"label": ("label", "class"), "chain": ("teacher", "chain")}
"""What a first stage's marks are, as tokens."""


@dataclass
class FoldAnalysis:
    """Measures one fold; what cannot be measured is noted in `missing`. `limit` images at most are looked at;
    conclusions are read of the methods named, None for all that write chains."""

    scoring: Scoring
    fold: RunFold
    limit: int
    conclusions_of: tuple[str, ...] | None = None
    missing: list[Missing] = field(default_factory=list)

    def measure(self, what: Sequence[str]) -> Fold:
        """All that is asked for and can be had."""
        record = Fold(targets=self.fold.targets, seed=self.fold.seed, states=self.states())
        found: dict[str, object] = {}
        if {"probabilities", "entropy", "mismatch"} & set(what):
            found |= self._on_trained_images(what)
        if "optimisation" in what:
            found["curves"] = self._curves()
        if "conclusions" in what:
            found["variants"] = self._variants()
        return record.model_copy(update=found)

    def states(self) -> tuple[State, ...]:
        """The base, what each method ended with, and each round; the last round stands for its method."""
        found = [BASE]
        for unit in self.fold.units.values():
            if unit.method.trains:
                found += unit.rounds() or (unit.state,)
                found += [unit.state] if unit.rounds() and unit.selects else []
        return tuple(found)

    # images that were trained on ------------------------------------------------------------------------------------

    @cached_property
    def given(self) -> tuple[Passages, ...]:
        """Their classes and a teacher's chains; images that cannot be read are left out, and noted."""
        found, broken = given_passages(self.fold.fold.train, self.scoring.subject.chains, self.limit)
        for name, why in broken.items():
            self.lacks(name, why, "probabilities")
        return found

    def _on_trained_images(self, what: Sequence[str]) -> dict[str, object]:
        if not any("teacher" in one.texts for one in self.given):
            self.lacks("teacher's chains", "no chain is accepted", "probabilities")
        tables = {state: self.scoring.tokens(state, self.given, "given") for state in self.states()}
        own = _OwnChains(self)
        found: dict[str, object] = {}
        if "probabilities" in what:
            found["buckets"] = tuple(self._buckets(tables))
            found["moved"] = (*self._moved(tables), *own.moved())
            found["context"] = tuple(self._context(tables[BASE]))
            found["shaded"] = (*self._shaded(tables), *own.shaded())
        if "entropy" in what:
            teachers = self._entropy(tables)
            selves = own.entropy()
            found["entropy"] = (*teachers, *selves)
            found["overlap"] = tuple(overlap(one, other) for one in teachers for other in selves)
        if "mismatch" in what:
            found["mismatch"] = (*self._mismatch(tables), *own.mismatch())
        return found

    def _buckets(self, tables: dict[State, TokenTable]) -> list[BucketsRecord]:
        kinds: tuple[tuple[Source, Kind], ...] = (("label", "class"), ("teacher", "class"), ("teacher", "chain"))
        found = [buckets(table, state, *kind) for state, table in tables.items() for kind in kinds]
        return [one for one in found if one is not None]

    def _moved(self, tables: dict[State, TokenTable]) -> list[Moved]:
        kinds: tuple[tuple[Source, Kind], ...] = (("label", "class"), ("teacher", "class"), ("teacher", "chain"))
        found = [
            moved(tables[BASE], table, (BASE, state), *kind)
            for state, table in tables.items()
            if state != BASE
            for kind in kinds
        ]
        return [one for one in found if one is not None]

    def _context(self, base: TokenTable) -> list[Context]:
        found = context(base, BASE, "teacher")
        return [] if found is None else [found]

    def _entropy(self, tables: dict[State, TokenTable]) -> list[EntropyTable]:
        """Under teacher's chains: methods whose first stage learns from them, and what started from one that is not
        here."""
        found = []
        for unit in self.fold.units.values():
            learnt = unit.method.needs_chains and unit.method.steps_like is None
            if learnt or (unit.method.self_labelled and unit.method.starts_from not in self.fold.units):
                table = entropy_table(tables[BASE], tables[unit.state], (BASE, unit.state), "teacher")
                found += [] if table is None else [table]
        return found

    def _mismatch(self, tables: dict[State, TokenTable]) -> list[Mismatch]:
        """The teacher's chains: of the base, and of each family's weights round by round."""
        found = [mismatch(tables[BASE], BASE, "teacher", None)]
        for unit, parent in self.fold.families():
            before = tables[BASE]
            for state in (parent, *unit.rounds()):
                found.append(mismatch(tables[state], state, "teacher", before))
                before = tables[state]
        seen = {one.state for one in found if one is not None}
        found += [
            mismatch(table, state, "teacher", tables[BASE]) for state, table in tables.items() if state not in seen
        ]
        return [one for one in found if one is not None]

    def _shaded(self, tables: dict[State, TokenTable]) -> list[Shaded]:
        unit = next((u for u in self.fold.units.values() if u.method.name in {"mtct", "reasoning"}), None)
        return [] if unit is None else self.shade(tables[BASE], tables[unit.state], (BASE, unit.state), "teacher")

    def shade(self, before: TokenTable, after: TokenTable, states: tuple[State, State], source: Source) -> list[Shaded]:
        """The first few chains of a source, token by token."""
        first, second = before.of(source), after.of(source)
        names = list(dict.fromkeys(first.sample_id))
        shown = names[:: max(1, len(names) // SHADED)][:SHADED]
        found = []
        for name in shown:
            mine, theirs = first.where(first.sample_id == name), second.where(second.sample_id == name)
            found.append(
                Shaded(
                    sample_id=name,
                    label=self.scoring.subject.images.by_id[name].label,
                    source=source,
                    before=states[0],
                    after=states[1],
                    tokens=tuple(
                        (str(text), round(float(p), 4), round(float(q), 4))
                        for text, p, q in zip(mine.text, mine.probability, theirs.probability, strict=True)
                    ),
                )
            )
        return found

    # training -------------------------------------------------------------------------------------------------------

    def _curves(self) -> tuple[object, ...]:
        found = []
        for unit in self.fold.units.values():
            lines = unit.training()
            one = curve(unit.method.name, unit.name, lines)
            found += [] if one is None else [one]
            if one is not None and not one.class_probability:
                self.lacks(
                    f"class probability by step, {unit.method.name}",
                    "the run is of a version before it was logged",
                    "optimisation",
                )
        return tuple(found)

    # images that were held out --------------------------------------------------------------------------------------

    def _variants(self) -> tuple[Variant, ...]:
        found: list[Variant] = []
        for unit in self.fold.units.values():
            if unit.method.paths == ("label",):
                continue  # it was never taught to write a chain
            if self.conclusions_of is not None and unit.method.name not in self.conclusions_of:
                continue
            state = unit.rounds()[-1] if unit.rounds() else unit.state
            said = unit.predictions(state.round)
            texts = {row["sample_id"]: row["text"] for row in said if row["answer"] == "reasoning"}
            questions = self.scoring.subject.questions
            whole = chained(self.fold.fold.test, texts, questions.format, questions.classes)
            if len({one.sample.label for one in whole}) < 2:
                self.lacks(
                    f"conclusions, {state.name}", "fewer than two classes have a well-formed chain", "conclusions"
                )
                continue
            kept = {one.id for one in spread([one.sample for one in whole], self.limit)}
            found += variants(self._reads(state, [one for one in whole if one.sample.id in kept]), state)
        return tuple(found)

    def _reads(self, state: State, whole: list[Chained]) -> list[Read]:
        scoring, seed = self.scoring, self.fold.seed
        content = [[one.sample.id, one.sample.label, one.sample.image_sha256, dict(one.stages)] for one in whole]
        path = scoring.shard("conclusions", state, [seed, content], READ_VERSION).with_suffix(".jsonl")
        if not path.is_file():
            questions = scoring.subject.questions
            with scoring.weights.at(scoring.subject.adapter(state)) as mllm:
                reader = ConclusionReader(mllm, scoring.weights.reader, questions)
                told = scoring.counted(state, "conclusions")
                write_json_lines(path, (asdict(one) for one in reader.read(whole, seed, told)))
        return [Read(**row) for row in read_json_lines(path)]

    def lacks(self, what: str, why: str, analysis: str) -> None:
        """Notes what could not be measured of this fold."""
        where = fold_name(self.fold.targets, self.fold.seed)
        self.missing.append(Missing(what=f"{what} ({where})", why=why, analysis=analysis))


@dataclass
class _OwnChains:
    """The model's own chains: the base's, and those that each family of rounds accepted."""

    analysis: FoldAnalysis

    @property
    def scoring(self) -> Scoring:
        return self.analysis.scoring

    @property
    def fold(self) -> RunFold:
        return self.analysis.fold

    def moved(self) -> list[Moved]:
        """By all rounds, on what was accepted in the first: from the base, and from where the rounds start."""
        found = []
        for unit, parent in self.fold.families():
            if not unit.own_chains(1):
                self.analysis.lacks(f"own chains, {unit.method.name}", "the first round accepted none", "probabilities")
            tables = self._tables(unit, parent)
            last = list(tables)[-1]
            found += [moved(tables[s], tables[last], (s, last), "self", "chain") for s in (BASE, parent) if s != last]
            found += [moved(tables[s], tables[last], (s, last), "self", "class") for s in (BASE, parent) if s != last]
        return [one for one in found if one is not None]

    def entropy(self) -> list[EntropyTable]:
        """Under own chains, by all rounds."""
        found = []
        for unit, parent in self.fold.families():
            tables = self._tables(unit, parent)
            last = list(tables)[-1]
            table = entropy_table(tables[parent], tables[last], (parent, last), "self")
            found += [] if table is None else [table]
        return found

    def mismatch(self) -> list[Mismatch]:
        """The base on chains of its own; then each round's accepted chains by the weights that wrote them, not by those
        that learnt from them: the last round's have written none."""
        found = [mismatch(self._of_base(), BASE, "self", None)]
        for unit, parent in self.fold.families():
            before = None
            for number, writer in enumerate((parent, *unit.rounds()[:-1]), start=1):
                table = self.scoring.tokens(writer, self._passages(unit, number), "own")
                found.append(mismatch(table, writer, "self", before))
                before = table
        return [one for one in found if one is not None]

    def shaded(self) -> list[Shaded]:
        """Own chains of the family that the paper proposes, else of the first there is."""
        families = sorted(self.fold.families(), key=lambda pair: pair[0].method.name != "mtct_sarr")
        for unit, parent in families[:1]:
            tables = self._tables(unit, parent)
            last = list(tables)[-1]
            return self.analysis.shade(tables[BASE], tables[last], (BASE, last), "self")
        return []

    def _tables(self, unit: FinishedUnit, parent: State) -> dict[State, TokenTable]:
        """What the first round accepted, as the base, the rounds' start and the last round see it."""
        passages = self._passages(unit, 1)
        states = dict.fromkeys((BASE, parent, *unit.rounds()[-1:]))
        return {state: self.scoring.tokens(state, passages, "own") for state in states}

    def _passages(self, unit: FinishedUnit, number: int) -> tuple[Passages, ...]:
        return own_passages(self.fold.fold.train, unit.own_chains(number), self.analysis.limit)

    def _of_base(self) -> TokenTable:
        """What the base writes by itself about the images whose teacher's chains are scored, drawn as rounds draw; what
        was cut off is no chain."""
        scoring = self.scoring
        given = self.analysis.given
        samples = [one.sample for one in given]
        drawn = scoring.subject.self_labelling.model_copy(update={"constrained": False})
        content = [[one.id, one.image_sha256] for one in samples]
        inputs = [drawn.model_dump(mode="json"), self.fold.seed, content]
        path = scoring.shard("chains-own", BASE, inputs, 2).with_suffix(".jsonl")
        if not path.is_file():
            write_json_lines(path, self._written(samples, drawn))
        texts = {row["sample_id"]: row["text"] for row in read_json_lines(path) if row["text"]}
        return scoring.tokens(BASE, own_passages(samples, texts, len(samples)), "own")

    def _written(self, samples: Sequence[Sample], drawn: SamplingSettings) -> list[dict[str, str]]:
        scoring, found = self.scoring, []
        batch = scoring.subject.answering.batch
        with scoring.weights.at(None) as mllm, mllm.asked():
            question = user_turn(scoring.subject.questions.reasoning)
            for start in range(0, len(samples), batch):
                piece = samples[start : start + batch]
                prompts = [mllm.chat.prompt(question, [scoring.weights.reader.encode(one)]) for one in piece]
                draws = [[generator(self.fold.seed, "base's own chain", one.id)] for one in piece]
                said = sample(mllm, prompts, drawn, draws)
                found += [
                    {"sample_id": one.id, "text": row[0].text}
                    for one, row in zip(piece, said, strict=True)
                    if row[0].finish_reason == "stop"
                ]
        return found
