"""What an analysis looks at, whether it comes from a run or from a model and a journal: images, chains, questions,
folds, and the weights that each fold passed through."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from throughline.analysis.records import BASE, State
from throughline.core.settings import AnswerSettings, SamplingSettings
from throughline.domains.samples import ImageSet
from throughline.evaluation.folds import Fold
from throughline.questions.question_set import QuestionSet
from throughline.runs.folder import ADAPTER, round_folders
from throughline.runs.reader import UnitFolder
from throughline.runs.records import Factor
from throughline.training.methods import Method

if TYPE_CHECKING:
    from throughline.mllm.load import Mllm


@dataclass(frozen=True)
class AnalyzedUnit:
    """A finished unit and the weights that it passed through."""

    folder: UnitFolder
    method: Method

    @property
    def name(self) -> str:
        """Of its method."""
        return self.method.name

    @property
    def state(self) -> State:
        """What it ended with; the base itself where nothing was trained."""
        return State(method=self.name, unit=self.folder.name, round=None) if self.method.trains else BASE

    @property
    def rounds(self) -> tuple[State, ...]:
        """The weights after each round of self-labelling that is whole."""
        numbers = round_folders(self.folder.folder, ADAPTER)
        return tuple(State(method=self.name, unit=self.folder.name, round=number) for number in numbers)

    @property
    def states(self) -> tuple[State, ...]:
        """All weights worth a look: each round, the last of which stands for the unit unless its weights were
        chosen."""
        if not self.method.trains:
            return ()
        chosen = bool(self.folder.validation())
        return (*self.rounds, *([self.state] if chosen or not self.rounds else []))


@dataclass(frozen=True)
class Subject:
    """Images with a teacher's accepted chains by sample id, questions, and by content the weights. Shards go to
    `folder`; `adapter` gives the folder of a state's adapter, None for the base; `load` opens the checkpoint."""

    model: str
    folder: Path
    images: ImageSet
    questions: QuestionSet
    chains: Mapping[str, str]
    checkpoint: str
    loading: tuple[Any, ...]
    answering: AnswerSettings
    self_labelling: SamplingSettings
    """How own chains are drawn."""
    adapter: Callable[[State], Path | None]
    load: Callable[[], Mllm]


@dataclass(frozen=True)
class AnalyzedFold:
    """One target and seed at one level of each factor: its units by method, the images that were held out and those
    that were trained on, and what all of it is about."""

    targets: tuple[str, ...]
    seed: int
    factors: Mapping[str, Factor]
    units: Mapping[str, AnalyzedUnit]
    fold: Fold
    subject: Subject

    def families(self) -> Iterator[tuple[AnalyzedUnit, State]]:
        """The units of self-labelling, each with the weights that its rounds start from."""
        for unit in self.units.values():
            parent = self.units.get(unit.method.starts_from or "")
            if unit.method.self_labelled and parent is not None:
                yield unit, parent.state
