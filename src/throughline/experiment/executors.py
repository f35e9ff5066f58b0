"""The executors of units: from a loaded checkpoint to an adapter and results.

Each runs in a worker process (`engine.worker`) and writes into the unit's folder only. What is whole there is not done
again, so that a killed unit resumes and ends with the same numbers.
"""

from collections import Counter
from dataclasses import replace
from itertools import chain
from pathlib import Path

from throughline.core.files import read_json_lines, write_json_lines
from throughline.evaluation.answers import answer_samples
from throughline.evaluation.folds import keep_all, leave_out, measure_only
from throughline.evaluation.results import results_lines
from throughline.experiment.kinds import Task
from throughline.experiment.training import UnitSession, open_session, train_unit
from throughline.runs.folder import PREDICTIONS, RESULTS, round_folder, write_metrics
from throughline.runs.records import ResultsLine, read_record


def execute_fold(task: Task) -> None:
    """Trains on the source domains and measures on the targets, after each round of self-labelling and at the end."""
    config, unit = task.config, task.unit
    fold = leave_out(task.images, unit.targets, config.data.trial_seed, config.data.train_per_domain)
    session = open_session(task, fold)

    def measure_round(number: int, folder: Path) -> None:
        lines = _measure(session, folder, number)
        write_json_lines(folder / RESULTS, (line.to_json() for line in lines))

    last = train_unit(session, measure_round)
    measured = _round_results(task.folder)
    if last is not None:  # these weights have answered already
        predictions = read_json_lines(round_folder(task.folder, last) / PREDICTIONS)
        write_json_lines(task.folder / PREDICTIONS, predictions)
        lines = [replace(line, round=None) for line in measured[last]]
    else:
        lines = _measure(session, task.folder, None)
    write_metrics(task.folder, [*chain.from_iterable(measured.values()), *lines])


def execute_evaluation(task: Task) -> None:
    """Asks the checkpoint as it is about every image of the targets."""
    fold = measure_only(task.images, task.unit.targets, task.config.data.trial_seed)
    session = open_session(task, fold)
    write_metrics(task.folder, _measure(session, task.folder, None))


def execute_final(task: Task) -> None:
    """Trains on all images and measures nothing."""
    train_unit(open_session(task, keep_all(task.images)), lambda number, folder: None)
    write_metrics(task.folder, [])


def _measure(session: UnitSession, folder: Path, number: int | None) -> list[ResultsLine]:
    """Asks every target image in every way, writes the predictions, and returns their results lines."""
    task, fold, answering = session.task, session.fold, session.task.config.evaluation.answering
    seconds: Counter[str] = Counter()
    predictions = answer_samples(
        session.mllm,
        fold.test,
        session.questions.build(answering),
        answering.batch,
        reader=session.reader,
        on_progress=lambda n, of: task.report_progress(f"{', '.join(answering.answers)}: {n}/{of} images"),
        on_seconds=lambda answer, took: seconds.update({answer: took}),
    )
    predictions.sort(key=lambda prediction: answering.answers.index(prediction.answer))
    write_json_lines(folder / PREDICTIONS, (prediction.to_json() for prediction in predictions))
    out = {prediction.sample_id for prediction in predictions} - fold.target_in
    splits = {"in": fold.target_in, "out": out, "all": None}
    return results_lines(predictions, session.questions.classes, splits, task.unit, seconds, number)


def _round_results(folder: Path) -> dict[int, list[ResultsLine]]:
    """The results lines of every round of a unit, by its number."""
    numbers = sorted(int(path.parent.name.removeprefix("round-")) for path in folder.glob(f"round-*/{RESULTS}"))
    return {
        number: [read_record(ResultsLine, row) for row in read_json_lines(round_folder(folder, number) / RESULTS)]
        for number in numbers
    }
