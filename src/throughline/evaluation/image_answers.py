"""Answers for images nobody has labelled: the class, how sure the model is, its chain, and whether both paths agree.

The label is the most probable class under the label question, so there always is one and its probability says how sure
the model is; the chain is the answer to the reasoning question, read by the same parser as in every table.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from throughline.chains.outcomes import Outcome
from throughline.core.untrusted import shown_path
from throughline.domains.folders import hash_files
from throughline.domains.samples import Sample
from throughline.evaluation.answer_table import COLUMNS, UNKNOWN
from throughline.evaluation.answers import answer_samples
from throughline.evaluation.saved_model import OpenedModel
from throughline.mllm.images import ImageReader
from throughline.runs.records import Prediction


@dataclass(frozen=True)
class ImageAnswer:
    """What the model says about one image. `outcome` is that of the chain, `error` for an image that cannot be read.

    `confidence` is the label's probability among the classes offered. Without a chain asked for, `reasoning_label` and
    `agree` are None and `outcome` is `ok`. Where an image may be of several classes, `label` is the most probable one,
    `reasoning_label` has all that the chain names, and they agree if it is among these.
    """

    image: str
    label: str | None = None
    confidence: float | None = None
    reasoning_label: str | None = None
    agree: bool | None = None
    outcome: str = Outcome.OK
    chain: str = ""
    probabilities: Mapping[str, float] = field(default_factory=dict)
    fault: str = ""

    def or_unknown(self, min_confidence: float, require_agreement: bool) -> "ImageAnswer":
        """With the label `UNKNOWN` where its confidence is below `min_confidence`, and where agreement is required and
        the chain concludes in another class or in none."""
        doubtful = (self.confidence or 0) < min_confidence or (require_agreement and self.agree is False)
        return replace(self, label=UNKNOWN) if self.label and doubtful else self

    def cells(self) -> tuple[str, ...]:
        """The values of `COLUMNS` as text; empty where there is none."""
        values = asdict(self)
        if self.confidence is not None:
            values["confidence"] = f"{self.confidence:.6f}"
        if self.agree is not None:
            values["agree"] = str(self.agree).lower()
        return tuple("" if values[name] is None else str(values[name]) for name in COLUMNS)

    def to_json(self) -> dict[str, Any]:
        """Every field; `fault` only where there is one."""
        return {name: value for name, value in asdict(self).items() if name != "fault" or value}


def predict(
    model: OpenedModel,
    images: Sequence[Path],
    *,
    chains: bool = True,
    answered: Collection[str] = (),
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[ImageAnswer]:
    """An answer for each image in order, as soon as its batch is done. `chains=False` asks the label question only.

    Those `answered` before, by name, get none. A batch is asked whole while one of its images has no answer, since last
    digits depend on the company.
    """
    answers = ("likelihood", "reasoning") if chains else ("likelihood",)
    settings = model.answering.model_copy(update={"answers": answers})
    questions = model.questions.build(settings)
    reader = ImageReader(model.mllm.chat)
    for start in range(0, len(images), settings.batch):
        batch = images[start : start + settings.batch]
        if all(shown_path(path) in answered for path in batch):
            continue
        samples = [_sample(path, content) for path, content in zip(batch, hash_files(batch), strict=True)]
        predictions = iter(answer_samples(model.mllm, samples, questions, settings.batch, reader=reader))
        for path in batch:
            likelihood, reasoning = next(predictions), next(predictions) if chains else None
            if shown_path(path) not in answered:
                yield _answer(path, likelihood, reasoning, model.questions.classes)
        on_progress(start + len(batch), len(images))


def _sample(path: Path, content: str | OSError) -> Sample:
    """An image without domain and label; an unreadable file is known by its path, so that two of them are not taken for
    one image."""
    key = content if isinstance(content, str) else f"unreadable {path}"
    return Sample(id=str(path), root=Path(), domain="", labels=(), image_sha256=key)


def _answer(path: Path, label: Prediction, chain: Prediction | None, classes: Sequence[str]) -> ImageAnswer:
    image = shown_path(path)
    if label.probabilities is None:
        return ImageAnswer(image, outcome=Outcome.ERROR, fault=label.text)
    answer = ImageAnswer(
        image=image,
        label=" + ".join(label.classes_named) or None,
        confidence=label.confidence,
        probabilities=dict(zip(classes, label.probabilities, strict=True)),
    )
    if chain is None:
        return answer
    return replace(
        answer,
        reasoning_label=" + ".join(chain.classes_named) or None,
        agree=label.predicted in chain.classes_named,
        outcome=chain.outcome,
        chain=chain.text,
    )
