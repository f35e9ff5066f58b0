"""Training-domain validation: of several checkpoints, the one best on the source domains' `out` splits. The target is
never looked at. DomainBed calls it IIDAccuracy.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from throughline.core.settings import AnswerSettings
from throughline.domains.samples import Sample
from throughline.evaluation.answers import answer_samples
from throughline.mllm.images import ImageReader
from throughline.mllm.load import Mllm
from throughline.mllm.lora import put_adapter
from throughline.questions.question_set import QuestionSet
from throughline.runs.records import Prediction


def select_best(
    model: Any,
    mllm: Mllm,
    adapters: Mapping[str, Path],
    validation: Sequence[Sample],
    questions: QuestionSet,
    settings: AnswerSettings,
    reader: ImageReader | None = None,
) -> list[dict[str, Any]]:
    """Puts the best candidate's weights into `model` (ties: the later one); returns one line a candidate.

    Accuracy is that of the first way of answering in the settings, so that selection and table speak of the same.
    """
    first = settings.model_copy(update={"answers": settings.answers[:1]})
    lines: list[dict[str, Any]] = []
    for name, adapter in adapters.items():
        put_adapter(model, adapter)
        predictions = answer_samples(mllm, validation, questions.build(first), first.batch, reader=reader)
        lines.append(validation_line(name, first.answers[0], predictions))
    lines = with_choice(lines)
    put_adapter(model, adapters[next(line["candidate"] for line in lines if line["selected"])])
    return lines


def validation_line(candidate: str, answer: str, predictions: Sequence[Prediction]) -> dict[str, Any]:
    """What a candidate answered, with the accuracy of each domain besides."""
    correct, domains = sum(p.correct for p in predictions), dict.fromkeys(p.domain for p in predictions)
    by_domain = {name: [p.correct for p in predictions if p.domain == name] for name in domains}
    return {
        "candidate": candidate,
        "answer": answer,
        "n": len(predictions),
        "correct": correct,
        "accuracy": correct / len(predictions) if predictions else 0.0,
        "domains": {name: sum(right) / len(right) for name, right in by_domain.items()},
    }


def with_choice(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The lines, the best of which is `selected`, of equals the later one."""
    best = max(range(len(lines)), key=lambda i: (lines[i]["accuracy"], i))
    return [{**line, "selected": i == best} for i, line in enumerate(lines)]
