"""What a stage of training is given, and what it gives back. Free of torch.

`experiment` makes a context for each stage of a method, one after the other; a stage leaves its adapter, loss lines and
`stage.json` in its folder. What is whole there is not trained again, so that a killed unit resumes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from throughline.core.files import write_json, write_json_lines
from throughline.core.seeding import seed_of
from throughline.core.settings import LoraSettings, TrainingSettings
from throughline.runs.folder import ADAPTER, STAGE, TRAINING
from throughline.runs.records import TrainingLine

if TYPE_CHECKING:
    from throughline.chains.pairs import Pair
    from throughline.domains.samples import Sample
    from throughline.mllm.images import ImageReader
    from throughline.mllm.load import Mllm
    from throughline.questions.question_set import QuestionSet
    from throughline.questions.sampler import Sampler
    from throughline.training.objectives import Objective
    from throughline.training.paths import Example, PathRenderer


class Stage(Protocol):
    """One stage of a method: a frozen value in the method table that knows how to run."""

    @property
    def objective(self) -> Objective:
        """What it minimises."""

    @property
    def needs_chains(self) -> bool:
        """Whether it learns from a teacher's chains."""

    @property
    def steps_like(self) -> str | None:
        """The method whose number of optimiser steps it takes, in place of the epochs."""

    def run(self, context: StageContext) -> StageResult:
        """Trains, and leaves adapter, training.jsonl and stage.json in the context's folder."""


@dataclass(frozen=True)
class StageResult:
    """What a stage ended with: the model with its adapter in place."""

    model: Any
    round: int | None = None
    """The round of self-labelling whose weights these are, where it is the last one."""


@dataclass(frozen=True)
class Trained:
    """What training took: optimiser steps, how many parameters they moved, and how many samples the loop took in how
    many seconds. Of steps before a kill neither samples nor seconds are counted."""

    optimiser_steps: int = 0
    parameters: int = 0
    samples: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class StageContext:
    """A loaded checkpoint, the samples of a fold, and where the stage works."""

    mllm: Mllm
    reader: ImageReader
    questions: QuestionSet
    samples: tuple[Sample, ...]
    chains: Mapping[str, tuple[str, ...]]
    """A teacher's accepted chains by sample id."""
    pairs: Sequence[Pair] = field(default=(), kw_only=True)
    """Preference pairs about these samples."""
    settings: TrainingSettings
    lora: LoraSettings
    batch: int
    """Images asked together in a round."""
    seed: int
    position: int
    """Which stage of the method it is, from 0."""
    folder: Path
    start: Path | None
    """The folder of the stage before, with its adapter; None for a new adapter on the checkpoint."""
    references: Path
    """Where reference scores are kept by content."""
    max_steps: int | None = None
    """Optimiser steps in place of the epochs."""
    select: Callable[[Any, Mapping[str, Path]], None] | None = None
    """Puts the best adapter of these, by name, into the model; None where the last one stands."""
    sampler: Callable[[Path], Sampler] | None = None
    """Who draws the chains of a round, given the round's folder."""
    after_round: Callable[[int, Path], None] = lambda number, folder: None
    """Called with a round's weights in place, before the round counts as whole."""
    report_progress: Callable[[str], None] = lambda line: None

    @property
    def renderer(self) -> PathRenderer:
        """Renders this checkpoint's paths."""
        from throughline.training.paths import PathRenderer

        return PathRenderer(self.mllm.chat, self.questions, self.settings.stage.label_reduce)

    def stage_seed(self, number: int = 0) -> int:
        """The seed of the stage's shuffling and dropout; `number` is that of a round."""
        # the position enters the seed only where it is not that of the paper's methods: their seeds stay as they were
        usual = self.position == (1 if number else 0)
        return seed_of(self.seed, "stage", *(() if usual else (self.position,)), number)

    def open_adapter(self) -> Any:
        """The model with the adapter to train: the one of the stage before, or a new one."""
        from throughline.mllm.lora import add_lora, load_adapter

        if self.start is None:
            return add_lora(self.mllm.model, self.lora, seed_of(self.seed, "lora") % 2**32)
        return load_adapter(self.mllm.model, self.start / ADAPTER, trainable=True)

    def example(self, sample: Sample, chain: str | None) -> Example:
        """One sample as an example, its image read. Several labels are written as a list."""
        from throughline.questions.wording import class_name
        from throughline.training.paths import Example

        names = (class_name(label, self.questions.names) for label in sample.labels)
        return Example((self.reader.encode(sample),), ", ".join(names), chain)

    def pair_example(self, pair: Pair) -> Example:
        """A preference pair as an example with the weight of its source, its images read."""
        from throughline.questions.wording import class_name
        from throughline.training.paths import Example

        chosen, rejected = (
            Example((self.reader.encode(side.sample),), class_name(side.label, self.questions.names), side.chain)
            for side in (pair.chosen, pair.rejected)
        )
        weight = self.settings.preference.weights.get(pair.source, 1.0)
        return replace(chosen, rejected=rejected, weight=weight)

    def counter(self, what: str, unit: str) -> Callable[[int, int], None]:
        """Progress of a loop as a line, e.g. `round 1: 32/300 chains`."""
        return lambda done, total: self.report_progress(f"{what}: {done}/{total} {unit}")


def cumulative_steps(folder: Path) -> int:
    """Optimiser steps behind the adapter in a stage's folder, those of the stages before included."""
    return int(_mark(folder)["cumulative_steps"])


def is_whole(folder: Path) -> bool:
    """Whether the stage in this folder has ended."""
    return (folder / STAGE).is_file()


def own_training(folder: Path) -> Trained:
    """What the stage in this folder took itself."""
    return Trained(**{name: value for name, value in _mark(folder).items() if name in Trained.__annotations__})


def save_stage(folder: Path, model: Any, lines: Sequence[TrainingLine]) -> None:
    """Writes loss lines and adapter."""
    from throughline.mllm.lora import save_adapter

    write_json_lines(folder / TRAINING, map(asdict, lines))
    save_adapter(model, folder / ADAPTER)


def mark_whole(start: Path | None, folder: Path, trained: Trained, pairs: Sequence[tuple[Sample, str | None]]) -> None:
    """Writes the mark that makes a stage whole: the optimiser steps it took and those behind its weights in all, with
    the stages from the one in the folder `start` back; the most images that one of them saw, and the most that it saw
    with a chain; and what it took. `pairs` are its own samples with their chains."""
    before = _mark(start) if start is not None else {}
    images = {"images": len({sample.id for sample, _ in pairs})}
    images["images_with_chain"] = len({sample.id for sample, chain in pairs if chain is not None})
    most = {name: max(count, before.get(name, 0)) for name, count in images.items()}
    in_all = {"cumulative_steps": before.get("cumulative_steps", 0) + trained.optimiser_steps}
    write_json(folder / STAGE, in_all | most | asdict(trained))


def _mark(folder: Path) -> dict[str, Any]:
    mark: dict[str, Any] = json.loads((folder / STAGE).read_text())
    return mark
