"""Measuring one model on labelled images: accuracy of every answer path, per domain and over all, with intervals.

For the verb `evaluate`. The lines have the shape of results.jsonl, so that whatever reads a run's results reads these.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from throughline.chains.outcomes import Outcome
from throughline.core.errors import ThroughlineError
from throughline.domains.samples import ImageSet, Sample
from throughline.domains.splits import split_domains
from throughline.evaluation.answers import answer_samples
from throughline.evaluation.results import results_lines
from throughline.evaluation.saved_model import OpenedModel
from throughline.metrics.intervals import wilson_interval
from throughline.mllm.images import ImageReader
from throughline.runs.records import Prediction, ResultsLine
from throughline.runs.unit import Unit

NO_ANSWER = "(no answer)"


@dataclass(frozen=True)
class Confusion:
    """How often an answer path said `predicted` where `true` was right, and how many images `true` has."""

    answer: str
    true: str
    predicted: str
    count: int
    of: int


@dataclass(frozen=True)
class Assessment:
    """Results lines of every domain, then of all images together, for each answer path; wrong answers by kind, the
    most frequent first; and what a reader of the numbers has to know."""

    lines: tuple[ResultsLine, ...]
    confusions: tuple[Confusion, ...]
    absent_classes: tuple[str, ...]
    """Classes that the model may answer and no image shows."""
    seen_domains: tuple[str, ...]
    """Domains that the model was trained on under the same name."""
    same_images: bool
    """Whether these are the very images that the model was trained on."""
    faults: tuple[str, ...]
    """One line for each image that could not be read."""

    def to_json(self) -> dict[str, Any]:
        """The content of `evaluate --json`."""
        record = asdict(self)
        return {"schema": 1, "results": record.pop("lines"), **record}


def compare_classes(classes: Sequence[str], images: ImageSet) -> tuple[str, ...]:
    """The classes without any image. ThroughlineError for a class among the images that the model does not know."""
    unknown = [label for label in images.classes if label not in classes]
    if unknown:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise ThroughlineError(
            f"the model does not know the class {unknown[0]}{more}",
            images.root,
            f"its classes are {', '.join(classes)}; leave the others out, or fit a model that has them",
        )
    return tuple(label for label in classes if label not in images.classes)


def assess(
    model: OpenedModel,
    images: ImageSet,
    *,
    split: str = "all",
    trial_seed: int = 0,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Assessment:
    """Asks the model about every image of `split` (`in`, `out` as DomainBed cuts each domain, or `all`) in every way.

    Raises ThroughlineError for a class that the model does not know and for a split without images.
    """
    absent, record = compare_classes(model.questions.classes, images), model.record
    by_domain = _split_samples(images, split, trial_seed)
    total = sum(map(len, by_domain.values()))
    if total == 0:
        raise ThroughlineError(f"no image is in the split {split}", images.root, "use --split all")
    whole = _unit(model, images, tuple(by_domain), split, trial_seed)
    questions, reader = model.questions.build(model.answering), ImageReader(model.mllm.chat)

    def report_progress(done: int, _: int) -> None:
        on_progress(len(predictions) // len(questions) + done, total)

    predictions: list[Prediction] = []
    seconds: Counter[str] = Counter()
    lines: list[ResultsLine] = []
    batch = model.answering.batch
    for domain, samples in by_domain.items():
        own_seconds: Counter[str] = Counter()
        own = answer_samples(
            model.mllm, samples, questions, batch, reader=reader, on_progress=report_progress, seconds=own_seconds
        )
        lines += _lines(own, model, split, replace(whole, targets=(domain,)), own_seconds)
        seconds.update(own_seconds)
        predictions += own
    lines += _lines(predictions, model, split, whole, seconds)
    return Assessment(
        lines=tuple(lines),
        confusions=_confusions(predictions),
        absent_classes=absent,
        seen_domains=tuple(domain for domain in images.domains if record is not None and domain in record.domains),
        same_images=record is not None and record.images.fingerprint == images.fingerprint(),
        faults=tuple(dict.fromkeys(p.text for p in predictions if p.outcome == Outcome.ERROR)),
    )


def _split_samples(images: ImageSet, split: str, trial_seed: int) -> dict[str, list[Sample]]:
    """Samples by domain; domains of which the split has none are left out."""
    by_domain = {domain: list(images.in_domain(domain)) for domain in images.domains}
    if split != "all":
        parts = split_domains(images, trial_seed)
        kept = {domain: set(part.inside if split == "in" else part.out) for domain, part in parts.items()}
        by_domain = {domain: [s for s in samples if s.id in kept[domain]] for domain, samples in by_domain.items()}
    return {domain: samples for domain, samples in by_domain.items() if samples}


def _unit(model: OpenedModel, images: ImageSet, domains: tuple[str, ...], split: str, trial_seed: int) -> Unit:
    """What the lines of all domains are of, known by content as a unit of a run is."""
    return Unit(
        kind="evaluate",
        dataset=images.name,
        targets=domains,
        method=model.method,
        model=model.mllm.name,
        seed=model.seed,
        inputs={
            "checkpoint": model.mllm.fingerprint,
            "model": model.record.inputs if model.record is not None else None,
            "classes": model.questions.classes,
            **({"names": model.questions.names} if model.questions.names and model.record is None else {}),
            "images": images.fingerprint(),
            "split": [split, trial_seed if split != "all" else None],
            "answering": model.answering.model_dump(mode="json"),
        },
    )


def _lines(
    predictions: Sequence[Prediction],
    model: OpenedModel,
    split: str,
    unit: Unit,
    seconds: Mapping[str, float],
) -> list[ResultsLine]:
    """The results lines of these predictions with the ends of Wilson's 95 % interval among the metrics."""
    lines = []
    for line in results_lines(predictions, model.questions.classes, {split: None}, unit, seconds):
        interval = wilson_interval(line.correct, line.n)
        ends = {"accuracy_low": round(interval.low, 6), "accuracy_high": round(interval.high, 6)}
        name = f"evaluate-{unit.method}-seed{unit.seed}-{unit.hash[:8]}"
        lines.append(replace(line, unit=name, metrics={**line.metrics, **ends}))
    return lines


def _confusions(predictions: Sequence[Prediction]) -> tuple[Confusion, ...]:
    images_of = Counter((p.answer, _joined(p.labels)) for p in predictions)
    wrong = Counter((p.answer, _joined(p.labels), _joined(p.predicted)) for p in predictions if not p.correct)
    confusions = (Confusion(*kind, count, images_of[kind[:2]]) for kind, count in wrong.items())
    return tuple(sorted(confusions, key=lambda c: (c.answer, -c.count, c.true, c.predicted)))


def _joined(labels: str | tuple[str, ...] | None) -> str:
    """The class, or several with plus signs between them."""
    return NO_ANSWER if labels is None else labels if isinstance(labels, str) else " + ".join(labels)
