"""Training of a feature-level method, and what the classifier then says of images. Called by `experiment.executors`.

A unit's folder gets the weights, the loss by checkpoint, and where checkpoints are chosen among their validation. What
is needed to go on lies in `STATE` until the weights are there.
"""

import io
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from throughline.baselines.images import Read, batches
from throughline.baselines.learner import Learner
from throughline.baselines.network import Network
from throughline.baselines.settings import BaselineSettings
from throughline.baselines.swad import RunningMean, loss_valley
from throughline.chains.outcomes import Outcome
from throughline.core.errors import ThroughlineError
from throughline.core.files import write_atomically, write_json_lines
from throughline.core.seeding import seed_of
from throughline.domains.samples import Sample
from throughline.evaluation.selection import validation_line, with_choice
from throughline.runs.folder import STAGE, TRAINING, VALIDATION
from throughline.runs.records import Prediction, TrainingLine
from throughline.training.methods import Method
from throughline.training.stages.context import Trained, mark_whole

WEIGHTS, STATE, SEGMENT = "weights.safetensors", "state.pt", "segment-{}.safetensors"
ANSWER = "likelihood"
"""The answer path of a classifier: its probabilities over the class list."""
NO_NUMBERS = "the probabilities are not numbers: training may have diverged"


@dataclass(frozen=True)
class TrainingTask:
    """What a unit trains on and how. With `select` the checkpoint that is best on `validation` stands, else the last.
    `predict` says what the classifier makes of samples."""

    method: Method
    settings: BaselineSettings
    classes: Sequence[str]
    samples: Sequence[Sample]
    validation: Sequence[Sample]
    read: Read
    predict: Callable[[Sequence[Sample]], Sequence[Prediction]]
    seed: int
    folder: Path
    select: bool
    report_progress: Callable[[str], None] = lambda line: None


def train(task: TrainingTask, network: Network) -> None:
    """Puts the trained weights into the classifier: those in the unit's folder, or else those that it trains, from the
    last checkpoint on where it was killed."""
    settings, folder, state = task.settings, task.folder, task.folder / STATE
    if (folder / STAGE).is_file():
        load_weights(network, folder)
        return
    swad, learner = task.method.loss == "swad", Learner(network, task.method, settings)
    select, device = task.select and not swad, network.device
    done, lines, validations, best = 0, list[dict[str, Any]](), list[dict[str, Any]](), dict[str, Tensor]()
    if state.is_file():
        kept = torch.load(state, map_location=device, weights_only=True)
        done, lines, validations, best = (kept[name] for name in ("done", "lines", "validations", "best"))
        learner.load_state_dict(kept)
    seen, seconds, losses, segment = 0, 0.0, list[float](), RunningMean()
    drawn = batches(task.samples, task.classes, task.read, settings, task.seed, done)
    since = time.monotonic()
    for step, (images, labels) in enumerate(drawn, start=done):
        torch.manual_seed(seed_of(task.seed, "step", step))
        losses.append(learner.step(images, labels, step))
        seen += sum(map(len, labels))
        if swad:
            segment.add(network.state_dict())
        whole = step + 1
        if whole % settings.checkpoint_every and whole != settings.steps:
            continue
        seconds += time.monotonic() - since
        epoch = whole * sum(map(len, labels)) / len(task.samples)
        mean, losses = sum(losses) / len(losses), []
        _require_finite(learner, mean, whole)
        lines.append(asdict(TrainingLine(task.method.name, 0, whole, epoch, mean, lr=learner.lr)))
        task.report_progress(f"{task.method.name}: step {whole}/{settings.steps}, loss {mean:.3f}")
        if select or swad:
            said = task.predict(task.validation)
            row = {**validation_line(f"step {whole}", ANSWER, said), "loss": _loss_of(said, task.classes)}
            validations = with_choice([*validations, row])
        if select and validations[-1]["selected"]:
            best = {name: value.clone() for name, value in network.state_dict().items()}
        if swad:
            _write_weights(folder / SEGMENT.format(len(validations) - 1), segment.state)
            segment = RunningMean()
        kept = {"done": whole, "lines": lines, "validations": validations, "best": best}
        _write_state(state, {**kept, **learner.state_dict()})
        since = time.monotonic()
    if swad:
        valley = loss_valley([line["loss"] for line in validations], settings.swad)
        best = _average(task, valley)
        validations = [{**line, "selected": number in valley} for number, line in enumerate(validations)]
    if best:
        network.load_state_dict(best)
        write_json_lines(folder / VALIDATION, validations)
    write_json_lines(folder / TRAINING, lines)
    _finish(task, network, Trained(settings.steps, learner.parameters, seen, seconds))


def _finish(task: TrainingTask, network: Network, trained: Trained) -> None:
    """Leaves what stands when training has ended, and nothing else."""
    _write_weights(task.folder / WEIGHTS, network.state_dict())
    mark_whole(None, task.folder, trained, [(sample, None) for sample in task.samples])
    for path in (task.folder / STATE, *task.folder.glob(SEGMENT.format("*"))):
        path.unlink(missing_ok=True)


def _require_finite(learner: Learner, loss: float, step: int) -> None:
    """ThroughlineError for a loss or weights that are no numbers, with which training would go on to its end."""
    if not all(value.isfinite().all() for value in (torch.tensor(loss), *learner.network.state_dict().values())):
        what = f"training diverged by step {step} of {learner.settings.steps}: its loss or weights are not numbers"
        raise ThroughlineError(what, f"the learning rate is {learner.lr:g}", "lower it")


def _write_state(path: Path, state: Mapping[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(path, buffer.getvalue())


def load_weights(network: Network, folder: Path) -> None:
    """Puts the weights that a unit's folder has into a classifier of the same form."""
    network.load_state_dict(load_file(folder / WEIGHTS))


def _write_weights(path: Path, state: Mapping[str, Tensor]) -> None:
    write_atomically(path, save({name: value.contiguous() for name, value in state.items()}))


def _average(task: TrainingTask, valley: range) -> dict[str, Tensor]:
    """The mean of the weights after each step of these segments."""
    mean, settings = RunningMean(), task.settings
    for number in valley:
        begun = number * settings.checkpoint_every
        steps = min(settings.checkpoint_every, settings.steps - begun)
        mean.add(load_file(task.folder / SEGMENT.format(number)), steps)
    return mean.state


def _loss_of(said: Sequence[Prediction], classes: Sequence[str]) -> float:
    """The mean negative log-likelihood, every domain with the same weight."""
    by_domain: dict[str, list[float]] = {}
    for row in said:
        if row.probabilities is not None:
            share = row.probabilities[classes.index(row.labels[0])]
            by_domain.setdefault(row.domain, []).append(-math.log(max(share, sys.float_info.min)))
    return fmean(map(fmean, by_domain.values())) if by_domain else -math.log(sys.float_info.min)


def predict(
    network: Network,
    classes: Sequence[str],
    read: Read,
    batch: int,
    samples: Sequence[Sample],
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Prediction]:
    """A prediction about each sample, in their order: the probabilities over the classes, and the first class with the
    highest one. Of an image that cannot be read its fault, and of one whose probabilities are no numbers."""
    said: list[Prediction] = []
    network.eval()
    for at in range(0, len(samples), batch):
        asked = samples[at : at + batch]
        images, faults = dict[str, Tensor](), dict[str, str]()
        for sample in asked:
            try:
                images[sample.id] = read(sample)
            except ThroughlineError as error:
                faults[sample.id] = str(error)
        rows = _probabilities(network, images)
        said += [
            _prediction(sample, rows.get(sample.id), classes, faults.get(sample.id, NO_NUMBERS)) for sample in asked
        ]
        on_progress(len(said), len(samples))
    return said


@torch.inference_mode()
def _probabilities(network: Network, images: Mapping[str, Tensor]) -> dict[str, tuple[float, ...]]:
    if not images:
        return {}
    _, logits = network(torch.stack(list(images.values())).to(network.device))
    rows = logits.double().softmax(-1).tolist()
    return {name: tuple(row) for name, row in zip(images, rows, strict=True) if not math.isnan(sum(row))}


def _prediction(sample: Sample, row: tuple[float, ...] | None, classes: Sequence[str], fault: str) -> Prediction:
    return Prediction(
        sample_id=sample.id,
        domain=sample.domain,
        labels=sample.labels,
        answer=ANSWER,
        predicted=None if row is None else classes[row.index(max(row))],
        outcome=Outcome.OK if row is not None else Outcome.ERROR,
        text="" if row is not None else fault,
        probabilities=row,
    )
