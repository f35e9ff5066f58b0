"""The training of one unit: the stages of its method, one after the other, on a loaded checkpoint.

Stages that are whole in the unit's folder are not run again. The last stage works in the unit's folder itself, those
before it in `stage-1`, `stage-2`, ... below it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from throughline.core.files import write_json_lines
from throughline.evaluation.folds import Fold
from throughline.evaluation.selection import select_best
from throughline.experiment.kinds import Task
from throughline.experiment.plan import START, STEPS
from throughline.experiment.preparation import read_accepted_chains
from throughline.mllm.constraints import constraint_of
from throughline.mllm.devices import device_name
from throughline.mllm.images import ImageReader
from throughline.mllm.load import Mllm, open_checkpoint
from throughline.mllm.pixel_cache import PixelCache, processor_settings
from throughline.questions.question_set import QuestionSet
from throughline.questions.sampler import InProcessSampler, Sampler
from throughline.runs.folder import PIXELS, VALIDATION, record_environment
from throughline.training.methods import method_table
from throughline.training.stages.context import StageContext, cumulative_steps


@dataclass(frozen=True)
class UnitSession:
    """A unit at work: its task and fold, the loaded checkpoint, its questions, and the reader of its images."""

    task: Task
    fold: Fold
    mllm: Mllm
    questions: QuestionSet
    reader: ImageReader

    def sampler(self, folder: Path) -> Sampler:
        """Who draws a round's chains; what a server needs lies in the round's folder meanwhile."""
        training = self.task.config.training
        if training.sampler.serve is None:
            constraint = constraint_of(training.self_labelling, self.mllm.chat, self.questions.format)
            return InProcessSampler(self.mllm, self.reader, constraint)
        from throughline.experiment.served_sampler import ServedSampler  # brings a client's library

        return ServedSampler(
            self.mllm, training.sampler, self.questions, self.fold.train, folder, self.task.report_progress
        )

    def select(self, model: Any, adapters: Mapping[str, Path]) -> None:
        """Puts the adapter into the model that is best on the source domains' `out` splits; writes validation.jsonl."""
        self.task.report_progress("selecting on the source domains' out splits")
        answering = self.task.config.evaluation.answering
        lines = select_best(model, self.mllm, adapters, self.fold.validation, self.questions, answering, self.reader)
        write_json_lines(self.task.folder / VALIDATION, lines)


def open_session(task: Task, fold: Fold) -> UnitSession:
    """Loads the checkpoint that the task's config names."""
    config = task.config
    mllm = open_checkpoint(config.model)
    # The kind of device changes last bits, and is no part of a unit's hash: whoever reads the results is shown it.
    record_environment(task.run_folder, {"device": device_name(mllm.device)})
    room = int(config.data.cache_gb * 1e9)
    cache = PixelCache(task.run_folder / PIXELS, room, processor_settings(mllm.chat)) if room else None
    questions = config.question_set(task.images.classes)
    return UnitSession(task, fold, mllm, questions, ImageReader(mllm.chat, cache=cache))


def train_unit(session: UnitSession, after_round: Callable[[int, Path], None]) -> int | None:
    """Runs the stages of the unit's method that no other unit has run; leaves the adapter in the unit's folder and on
    the loaded checkpoint.

    `after_round(number, folder)` is called with a round's weights in place, before the round counts as whole. Returns
    the round whose weights the unit's are, None where there was none or another was selected.
    """
    task, config = session.task, session.task.config
    method = method_table(config.methods)[task.unit.method]
    chains = read_accepted_chains(task.chains)
    start, copied = task.needed(START), task.needed(STEPS)
    last_round = None
    for position, stage in enumerate(method.own_stages, start=len(method.stages) - len(method.own_stages)):
        is_last = position == len(method.stages) - 1
        context = StageContext(
            mllm=session.mllm,
            reader=session.reader,
            questions=session.questions,
            samples=session.fold.train,
            chains=chains,
            settings=config.training,
            lora=config.model.lora,
            batch=config.evaluation.answering.batch,
            seed=task.unit.seed,
            position=position,
            folder=task.folder if is_last else task.folder / f"stage-{position + 1}",
            start=start,
            max_steps=cumulative_steps(copied) if copied is not None and stage.steps_like is not None else None,
            select=session.select if is_last and config.evaluation.selection == "validation" else None,
            sampler=session.sampler,
            after_round=after_round,
            report_progress=task.report_progress,
        )
        result = stage.run(context)
        last_round, start = result.round, context.folder
        if not is_last:
            result.model.unload()  # the next stage puts its own adapter on the checkpoint
    return last_round
