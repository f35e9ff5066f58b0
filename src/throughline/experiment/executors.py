"""The executors of units: from a loaded checkpoint to an adapter and results.

Each runs in a worker process (`engine.worker`) and writes into the unit's folder only. What is whole there, a stage of
training or a round, is not done again, so that a killed unit resumes and ends with the same numbers. The last stage
works in the unit's folder itself, those before it in `stage-1`, `stage-2`, ... below it.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from throughline.baselines.frozen import frozen_reader
from throughline.baselines.linear_probe import fit_head
from throughline.baselines.opening import open_network
from throughline.baselines.training import ANSWER, TrainingTask, load_weights, predict, train
from throughline.chains.pairs import Pair, pairs_of_sources, read_pairs
from throughline.core.errors import ThroughlineError
from throughline.core.files import read_json_lines, write_atomically, write_json_lines
from throughline.domains.samples import Sample
from throughline.evaluation.answers import answer_samples
from throughline.evaluation.examples import Embeddings, example_pool
from throughline.evaluation.folds import Fold, keep_all, leave_out, measure_only
from throughline.evaluation.results import results_lines
from throughline.evaluation.selection import select_best, validation_line, with_choice
from throughline.experiment import shots
from throughline.experiment.engine.worker import Task
from throughline.experiment.plan import STEPS
from throughline.experiment.preparation import read_accepted_chains
from throughline.mllm.chat import EncodedPrompt
from throughline.mllm.checkpoints import endpoint_of
from throughline.mllm.constraints import constraint_of
from throughline.mllm.devices import device_name, pick_device
from throughline.mllm.features import PROJECTOR, image_features
from throughline.mllm.images import ImageReader
from throughline.mllm.load import Mllm, open_checkpoint
from throughline.mllm.lora import load_adapter
from throughline.mllm.pixel_cache import PixelCache, processor_settings
from throughline.ood.probe import FEATURES, probe_predictions, read_features
from throughline.questions.prompt import ImageThenText
from throughline.questions.question_set import QuestionSet
from throughline.questions.sampler import InProcessSampler, Sampler
from throughline.questions.wording import class_name
from throughline.runs.folder import (
    ADAPTER,
    PIXELS,
    PREDICTIONS,
    REFERENCES,
    RESULTS,
    VALIDATION,
    record_environment,
    round_folder,
    round_folders,
    write_metrics,
)
from throughline.runs.records import COPIED, Prediction, ResultsLine, read_record
from throughline.runs.unit import DRAW, START, VALIDATE
from throughline.training.methods import LINEAR_PROBE, METHODS, Method, method_table
from throughline.training.stages.context import StageContext, cumulative_steps


@dataclass(frozen=True)
class _Session:
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

    def select(self, model: Any, adapters: Mapping[str, Path], samples: Sequence[Sample] | None = None) -> None:
        """Puts the adapter into the model that is best on `samples`, the source domains' `out` splits where none are
        given; writes validation.jsonl."""
        self.task.report_progress("validating")
        answering, samples = self.task.config.evaluation.answering, samples or self.fold.validation
        lines = select_best(model, self.mllm, adapters, samples, self.questions, answering, self.reader)
        write_json_lines(self.task.folder / VALIDATION, lines)


def _open_session(task: Task, fold: Fold) -> _Session:
    """Loads the checkpoint that the task's config names."""
    config = task.config
    mllm = open_checkpoint(config.model)
    # The kind of device changes last bits, and is no part of a unit's hash: whoever reads the results is shown it.
    record_environment(task.run_folder, {"device": device_name(mllm.device)})
    room = int(config.data.cache_gb * 1e9)
    cache = PixelCache(task.run_folder / PIXELS, room, processor_settings(mllm.chat)) if room else None
    questions = config.question_set(task.images.classes, task.images.names, task.images.several)
    return _Session(task, fold, mllm, questions, ImageReader(mllm.chat, cache=cache))


def _train(
    session: _Session, after_round: Callable[[int, Path], None] = lambda n, folder: None, method: Method | None = None
) -> int | None:
    """Runs the stages of the unit's method that no other unit has run, or those of `method` on a few labelled examples,
    all of them and without a choice; leaves the adapter in the unit's folder and on the loaded checkpoint.

    `after_round(number, folder)` is called with a round's weights in place, before the round counts as whole. Returns
    the round whose weights the unit's are, None where there was none or another was selected.
    """
    task, config, few_shot = session.task, session.task.config, method is not None
    method = method or method_table(config.methods)[task.unit.method]
    selects = config.evaluation.selection == "validation" and not few_shot
    chains = read_accepted_chains(task.chains)
    samples = session.fold.train
    if config.chains.coverage == "shared" and not few_shot:
        samples = tuple(sample for sample in samples if sample.id in chains)
    start, copied = task.needed(START), task.needed(STEPS)
    last_round = None
    for position, stage in enumerate(method.own_stages, start=len(method.stages) - len(method.own_stages)):
        is_last = position == len(method.stages) - 1
        context = StageContext(
            mllm=session.mllm,
            reader=session.reader,
            questions=session.questions,
            samples=samples,
            chains=chains,
            pairs=_pairs_of(task, samples) if method.needs_pairs else (),
            settings=config.training,
            lora=config.model.lora,
            batch=config.evaluation.answering.batch,
            seed=task.unit.seed,
            position=position,
            folder=task.folder if is_last else task.folder / f"stage-{position + 1}",
            start=start,
            max_steps=cumulative_steps(copied) if copied is not None and stage.steps_like is not None else None,
            select=session.select if is_last and selects else None,
            sampler=session.sampler,
            after_round=after_round,
            report_progress=task.report_progress,
            references=task.run_folder / REFERENCES,
        )
        result = stage.run(context)
        last_round, start = result.round, context.folder
        unjudged = DRAW in task.unit.factors and not few_shot and (len(task.unit.targets) > 1 or not selects)
        if is_last and unjudged:
            session.select(result.model, {"final": task.folder / ADAPTER}, session.fold.judged)
        if not is_last:
            result.model.unload()  # the next stage puts its own adapter on the checkpoint
    return last_round


def _pairs_of(task: Task, samples: Sequence[Sample]) -> list[Pair]:
    """The pairs about these samples."""
    ids = {sample.id for sample in samples}
    pairs = read_pairs(Path(task.config.chains.pairs or ""), task.images)
    return [pair for pair in pairs_of_sources(pairs, task.unit.targets) if pair.chosen.sample.id in ids]


def execute_fold(task: Task) -> None:
    """Trains on the source domains and measures on the targets, after each round of self-labelling and at the end."""
    fold = _held_out(task)
    session = _open_session(task, fold)

    def measure_round(number: int, folder: Path) -> None:
        lines = _measure(session, folder, number)
        write_json_lines(folder / RESULTS, map(asdict, lines))

    last = _train(session, measure_round)
    measured = {
        number: [read_record(ResultsLine, row) for row in read_json_lines(folder / RESULTS)]
        for number, folder in round_folders(task.folder, RESULTS).items()
    }
    if last is not None:  # these weights have answered already
        predictions = read_json_lines(round_folder(task.folder, last) / PREDICTIONS)
        write_json_lines(task.folder / PREDICTIONS, predictions)
        lines = [replace(line, round=None) for line in measured[last]]
    else:
        lines = _measure(session, task.folder, None)
    write_metrics(task.folder, [*chain.from_iterable(measured.values()), *lines])


def _held_out(task: Task) -> Fold:
    """The fold of the unit. ThroughlineError where there is nothing to select by and its method selects."""
    data, method = task.config.data, method_table(task.config.methods)[task.unit.method]
    fold = leave_out(task.images, task.unit.targets, data.trial_seed, data.train_per_domain, data.split_rule)
    if not fold.validation and (task.config.evaluation.selection == "validation" or method.loss == "swad"):
        what, where = "no source domain has images enough for an out part to select by", "evaluation.selection"
        raise ThroughlineError(what, where, "have 5 in one at least, or take the last checkpoint of another method")
    return fold


def execute_evaluation(task: Task) -> None:
    """Asks about the images of the targets: the checkpoint as it is, with the adapter of the unit that this one needs,
    or with one that the labels of its examples train here, which are then not shown."""
    data = task.config.data
    fold = measure_only(task.images, task.unit.targets, data.trial_seed, data.split_rule)
    if endpoint_of(task.config.model.checkpoint) is not None:
        write_metrics(task.folder, _measure_by_endpoint(task, fold))
        return
    session = _open_session(task, fold)
    trained = task.needed(START)
    if trained is not None:
        load_adapter(session.mllm.model, trained / ADAPTER)
    if task.config.evaluation.few_shot_epochs:
        shown = shots.choose(task, task.config.asked(fold.test))
        train = tuple(sample for sample, _ in next(iter(shown.values())))
        _train(replace(session, fold=replace(fold, train=train)), method=METHODS["cls"])
    write_metrics(task.folder, _measure(session, task.folder, None))


def execute_probes(task: Task) -> None:
    """Fits linear probes at every point of the checkpoint, on images of the targets that are not asked about, and tests
    them on those that are; leaves the features of all beside the predictions."""
    data = task.config.data
    fold = measure_only(task.images, task.unit.targets, data.trial_seed, data.split_rule)
    session, asked = _open_session(task, fold), task.config.evaluation.asked(fold.test)
    pool, began = example_pool(task.images, task.unit.targets, "target", asked), time.monotonic()
    encode = partial(_encoded, session)
    features, faults = read_features(
        session.mllm, (*pool, *asked), encode, lambda n, of: task.report_progress(f"features: {n}/{of} images")
    )
    write_atomically(task.folder / FEATURES, features.to_bytes((*pool, *asked)))
    predictions = probe_predictions(features, pool, asked, faults, task.unit.seed)
    answers = {prediction.answer for prediction in predictions}
    seconds = dict.fromkeys(answers, (time.monotonic() - began) / len(answers))
    write_metrics(task.folder, _written(task, fold, predictions, task.folder, seconds))


def execute_features(task: Task) -> None:
    """Trains a classifier on the features of a backbone or of CLIP, unless the unit needs one that is trained or the
    method trains none, and asks it about the images of the target, unless it is only to be validated."""
    config, unit, method = task.config, task.unit, method_table(task.config.methods)[task.unit.method]
    data, batch, device = config.data, config.evaluation.answering.batch, pick_device(config.model.device)
    untrained = measure_only(task.images, unit.targets, data.trial_seed, data.split_rule)
    fold = _held_out(task) if method.trains else untrained
    settings, classes = config.baselines.of(method.name), task.images.classes
    record_environment(task.run_folder, {"device": device_name(torch.device(device))})
    asked = config.asked(fold.test) if unit.kind != VALIDATE else ()
    folder = task.run_folder / PIXELS
    freeze = partial(frozen_reader, task.images.samples, asked, folder, batch, task.report_progress)
    names = [class_name(name, task.images.names) for name in classes]
    network, read, read_plain = open_network(method.name, settings, names, freeze, device, unit.seed)
    said_by_network = partial(predict, network, classes, read_plain, batch)
    if (trained := task.needed(START)) is not None:
        load_weights(network, trained)
    elif method.trains:
        with_chain = read_accepted_chains(task.chains) if config.chains.coverage == "shared" else None
        samples = [sample for sample in fold.train if with_chain is None or sample.id in with_chain]
        if method.loss == LINEAR_PROBE:
            fit_head(network, samples, classes, read, settings.clip_linear_probe)
        train(
            TrainingTask(
                method=method,
                settings=settings,
                classes=classes,
                samples=samples,
                validation=fold.validation,
                read=read,
                predict=said_by_network,
                seed=unit.seed,
                folder=task.folder,
                select=config.evaluation.selection == "validation",
                report_progress=task.report_progress,
            ),
            network,
        )
        unselected = config.evaluation.selection == "last" or method.loss in {"swad", LINEAR_PROBE}
        if DRAW in unit.factors and (len(unit.targets) > 1 or unselected):
            lines = with_choice([validation_line("final", ANSWER, said_by_network(fold.judged))])
            write_json_lines(task.folder / VALIDATION, lines)
    began = time.monotonic()
    predictions = said_by_network(asked, lambda n, of: task.report_progress(f"{ANSWER}: {n}/{of} images"))
    seconds = {ANSWER: time.monotonic() - began}
    write_metrics(task.folder, _written(task, fold, predictions, task.folder, seconds) if asked else [])


def _encoded(session: _Session, sample: Sample) -> EncodedPrompt:
    """The label question about a sample."""
    return ImageThenText(session.questions.label)(sample).encode(session.reader)


def execute_training(task: Task) -> None:
    """Trains on the source domains, for a search, or on all images where no target is held out; measures nothing."""
    fold = _held_out(task) if task.unit.targets else keep_all(task.images)
    _train(_open_session(task, fold))
    write_metrics(task.folder, [])


def _measure(session: _Session, folder: Path, number: int | None) -> list[ResultsLine]:
    """Asks about the target's images in every way, writes the predictions, and returns their results lines."""
    task, fold, answering = session.task, session.fold, session.task.config.evaluation.answering
    seconds: Counter[str] = Counter()
    asked = task.config.asked(fold.test)
    settings, features = task.config.evaluation.examples, partial(_features, session, {})
    shown = {} if task.config.evaluation.few_shot_epochs else shots.choose(task, asked, features)
    questions = shots.questions_behind(task.config, session.questions, shown, task.unit.seed, asked)
    if shown and settings is not None and settings.vote is not None:
        predictions, shown = list(shots.votes(asked, questions, shown, features, settings.vote)), {}
    else:
        predictions = answer_samples(
            session.mllm,
            asked,
            questions,
            answering.batch,
            reader=session.reader,
            on_progress=lambda n, of: task.report_progress(f"{', '.join(answering.answers)}: {n}/{of} images"),
            seconds=seconds,
        )
    predictions.sort(key=lambda prediction: answering.answers.index(prediction.answer))
    return _written(task, fold, predictions, folder, seconds, number, shown)


def _measure_by_endpoint(task: Task, fold: Fold) -> list[ResultsLine]:
    """As `_measure`, with every answer in the journal of the unit's folder."""
    from throughline.evaluation.endpoint_answers import ask_endpoint  # brings a client's library

    config, seconds = task.config, Counter[str]()
    asked = config.asked(fold.test)
    questions = config.question_set(task.images.classes, task.images.names, task.images.several)
    shown = shots.choose(task, asked)
    predictions = ask_endpoint(
        config.model,
        replace(task.images, samples=asked),
        shots.questions_behind(config, questions, shown, task.unit.seed, asked),
        questions.format,
        task.folder,
        on_progress=lambda n, of: task.report_progress(f"answers: {n}/{of}"),
        seconds=seconds,
    )
    return _written(task, fold, predictions, task.folder, seconds, shown=shown)


def _written(
    task: Task,
    fold: Fold,
    predictions: Sequence[Prediction],
    folder: Path,
    seconds: Mapping[str, float],
    number: int | None = None,
    shown: shots.Shown | None = None,
) -> list[ResultsLine]:
    """Writes the predictions and returns their results lines, with what copying from the examples shown would give."""
    write_json_lines(folder / PREDICTIONS, (prediction.to_json() for prediction in predictions))
    out = {prediction.sample_id for prediction in predictions} - fold.target_in
    splits = {"in": fold.target_in, "out": out} if not task.config.evaluation.described else {}
    lines = results_lines(predictions, task.images.classes, {**splits, "all": None}, task.unit, seconds, number)
    copied = {COPIED: shots.copied_accuracy(predictions, shown)} if shown else {}
    return [replace(line, metrics={**line.metrics, **copied}) if line.split == "all" else line for line in lines]


def _features(session: _Session, known: dict[str, Embeddings], samples: Sequence[Sample]) -> Embeddings:
    """What the model's decoder is given of each image; `known` keeps it by the image's hash."""
    for sample in samples:
        if sample.image_sha256 not in known:
            encoded = session.reader.encode(sample)
            known[sample.image_sha256] = image_features(session.mllm, encoded)[PROJECTOR].double().numpy()
    return np.array([known[sample.image_sha256] for sample in samples])
