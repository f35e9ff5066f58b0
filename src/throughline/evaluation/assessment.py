"""Measuring one model on labelled images: accuracy of every answer path, per domain and over all, with intervals.

For the verb `evaluate`. The lines have the shape of results.jsonl, so that whatever reads a run's results reads these.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from throughline.core.errors import ThroughlineError
from throughline.core.files import content_hash
from throughline.domains.samples import ImageSet, Sample
from throughline.domains.splits import split_domains
from throughline.evaluation.answering import Prediction, answer_samples
from throughline.evaluation.measuring import result_lines
from throughline.evaluation.saved_model import ModelRecord, OpenedModel
from throughline.metrics.intervals import wilson_interval
from throughline.mllm.images import ImageReader

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

    lines: tuple[dict[str, Any], ...]
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
        return {
            "schema": 1,
            "results": list(self.lines),
            "confusions": [asdict(confusion) for confusion in self.confusions],
            "absent_classes": list(self.absent_classes),
            "seen_domains": list(self.seen_domains),
            "same_images": self.same_images,
            "faults": list(self.faults),
        }


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
    told: Callable[[int, int], None] = lambda done, total: None,
) -> Assessment:
    """Asks the model about every image of `split` (`in`, `out` as DomainBed cuts each domain, or `all`) in every way.

    Raises ThroughlineError for a class that the model does not know and for a split without images.
    """
    absent = compare_classes(model.questions.classes, images)
    chosen = _split_samples(images, split, trial_seed)
    total = sum(map(len, chosen.values()))
    if total == 0:
        raise ThroughlineError(f"no image is in the split {split}", images.root, "use --split all")
    common = _common(model, images, split, trial_seed)
    reader = ImageReader(model.mllm.chat)
    predictions: list[Prediction] = []
    seconds: Counter[str] = Counter()
    lines: list[dict[str, Any]] = []
    asked = 0
    for domain, samples in chosen.items():
        taken: Counter[str] = Counter()
        of_domain = answer_samples(
            model.mllm,
            samples,
            model.questions,
            model.answering,
            reader=reader,
            told=_from(asked, total, told),
            timed=_into(taken),
        )
        asked += len(samples)
        lines += _lines(of_domain, model, split, {**common, "targets": [domain]}, taken)
        seconds.update(taken)
        predictions += of_domain
    lines += _lines(predictions, model, split, {**common, "targets": list(chosen)}, seconds)
    return Assessment(
        lines=tuple(lines),
        confusions=_confusions(predictions),
        absent_classes=absent,
        seen_domains=_seen(model.record, images),
        same_images=model.record is not None and model.record.images.fingerprint == images.fingerprint(),
        faults=tuple(dict.fromkeys(p.text for p in predictions if p.outcome == "error")),
    )


def _from(before: int, total: int, told: Callable[[int, int], None]) -> Callable[[int, int], None]:
    """Progress of one domain as progress of the whole."""
    return lambda done, _: told(before + done, total)


def _into(seconds: Counter[str]) -> Callable[[str, float], None]:
    """Adds what a batch took to the sum of its way of answering."""
    return lambda answer, took: seconds.update({answer: took})


def _split_samples(images: ImageSet, split: str, trial_seed: int) -> dict[str, list[Sample]]:
    """Samples by domain; domains of which the split has none are left out."""
    found = {domain: list(images.in_domain(domain)) for domain in images.domains}
    if split != "all":
        parts = split_domains(images, trial_seed)
        kept = {domain: set(part.inside if split == "in" else part.out) for domain, part in parts.items()}
        found = {domain: [s for s in samples if s.id in kept[domain]] for domain, samples in found.items()}
    return {domain: samples for domain, samples in found.items() if samples}


def _common(model: OpenedModel, images: ImageSet, split: str, trial_seed: int) -> dict[str, Any]:
    """What all lines share; the unit is known by content, as in a run."""
    record = model.record
    content = {
        "checkpoint": model.mllm.fingerprint,
        "model": record.inputs if record is not None else None,
        "classes": model.questions.classes,
        "images": images.fingerprint(),
        "split": [split, trial_seed if split != "all" else None],
        "answering": model.answering.model_dump(mode="json"),
    }
    return {
        "unit": f"evaluate-{model.method}-seed{model.seed}-{content_hash(content)[:8]}",
        "dataset": images.name,
        "model": model.mllm.name,
        "method": model.method,
        "seed": model.seed,
        "round": None,
    }


def _lines(
    predictions: Sequence[Prediction],
    model: OpenedModel,
    split: str,
    common: dict[str, Any],
    seconds: Mapping[str, float],
) -> list[dict[str, Any]]:
    """The results lines of these predictions with the ends of Wilson's 95 % interval among the metrics."""
    lines = result_lines(predictions, model.questions.classes, {split: None}, common, seconds)
    for line in lines:
        interval = wilson_interval(line["correct"], line["n"])
        line["metrics"] |= {"accuracy_low": round(interval.low, 6), "accuracy_high": round(interval.high, 6)}
    return lines


def _confusions(predictions: Sequence[Prediction]) -> tuple[Confusion, ...]:
    of = Counter((p.answer, p.labels[0]) for p in predictions)
    wrong = Counter((p.answer, p.labels[0], p.predicted or NO_ANSWER) for p in predictions if not p.correct)
    found = (Confusion(*kind, count, of[kind[:2]]) for kind, count in wrong.items())
    return tuple(sorted(found, key=lambda one: (one.answer, -one.count, one.true, one.predicted)))


def _seen(record: ModelRecord | None, images: ImageSet) -> tuple[str, ...]:
    return tuple(domain for domain in images.domains if record is not None and domain in record.domains)
