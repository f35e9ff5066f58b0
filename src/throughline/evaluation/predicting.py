"""Answers for images nobody has labelled: the class, how sure the model is, its chain, and whether both paths agree.

The label is the most probable class under the label question, so there always is one and its probability says how sure
the model is; the chain is the answer to the reasoning question, read by the same parser as in every table.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from throughline.chains.outcomes import Outcome
from throughline.core.errors import ThroughlineError
from throughline.domains.folders import hash_files
from throughline.domains.listing import is_image_name
from throughline.domains.samples import Sample
from throughline.evaluation.answering import Prediction, answer_samples
from throughline.evaluation.saved_model import OpenedModel
from throughline.mllm.images import ImageReader

COLUMNS = ("image", "label", "confidence", "reasoning_label", "agree", "outcome", "chain")


@dataclass(frozen=True)
class ImageAnswer:
    """What was found out about one image. `outcome` is that of the chain, `error` for an image that cannot be read.

    `confidence` is the label's probability among the classes offered. Without a chain asked for, `reasoning_label` and
    `agree` are None and `outcome` is `ok`.
    """

    image: str
    label: str | None
    confidence: float | None
    reasoning_label: str | None
    agree: bool | None
    outcome: str
    chain: str
    probabilities: dict[str, float]
    fault: str = ""

    def cells(self) -> tuple[str, ...]:
        """The values of `COLUMNS` as text; empty where there is none."""
        agree = "" if self.agree is None else str(self.agree).lower()
        confidence = "" if self.confidence is None else f"{self.confidence:.6f}"
        return (
            self.image,
            self.label or "",
            confidence,
            self.reasoning_label or "",
            agree,
            str(self.outcome),
            self.chain,
        )

    def to_json(self) -> dict[str, Any]:
        """Every field; `fault` only where there is one."""
        return {name: value for name, value in asdict(self).items() if name != "fault" or value}


def find_images(given: Sequence[Path]) -> list[Path]:
    """The files named, and the images in and below the folders named, in sorted order; each once.

    Raises ThroughlineError for a path that is not there, a folder that cannot be read, and when nothing is found.
    """
    found: list[Path] = []
    for path in given:
        if path.is_dir():
            found += _images_below(path)
        elif path.exists() or path.is_symlink():  # a dangling link is an image that cannot be read
            found.append(path)
        else:
            raise ThroughlineError("no such image or folder", path, "name image files, or folders of them")
    if not found:
        raise ThroughlineError("no images found", ", ".join(map(str, given)), "name image files, or folders of them")
    return list(dict.fromkeys(found))


def _images_below(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise ThroughlineError(f"cannot read the folder: {error.strerror}", error.filename) from error

    for where, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(where, name) for name in sorted(files) if is_image_name(name) and not name.startswith("."))


def predict(
    model: OpenedModel,
    images: Sequence[Path],
    *,
    chains: bool = True,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[ImageAnswer]:
    """An answer for each image in order, as soon as its batch is done. `chains=False` asks the label question only."""
    answers = ("likelihood", "reasoning") if chains else ("likelihood",)
    settings = model.answering.model_copy(update={"answers": answers})
    reader = ImageReader(model.mllm.chat)
    for start in range(0, len(images), settings.batch):
        batch = images[start : start + settings.batch]
        samples = [_sample(path, value) for path, value in zip(batch, hash_files(batch), strict=True)]
        predictions = answer_samples(model.mllm, samples, model.questions, settings, reader=reader)
        for place, path in enumerate(batch):
            of_one = predictions[place * len(answers) : (place + 1) * len(answers)]
            yield _answer(path, of_one, model.questions.classes)
        told(start + len(batch), len(images))


def _sample(path: Path, content: str | OSError) -> Sample:
    """An image without domain and label; one that cannot be read is not held by its content."""
    key = content if isinstance(content, str) else f"unreadable {path}"
    return Sample(id=str(path), root=Path(), domain="", labels=(), image_sha256=key)


def _answer(path: Path, predictions: Sequence[Prediction], classes: Sequence[str]) -> ImageAnswer:
    by_answer = {prediction.answer: prediction for prediction in predictions}
    label, said = by_answer["likelihood"], by_answer.get("reasoning")
    shown = str(path).encode(errors="backslashreplace").decode()  # file names are bytes, output is text
    if label.probabilities is None:
        return ImageAnswer(shown, None, None, None, None, Outcome.ERROR, "", {}, label.text)
    probabilities = dict(zip(classes, label.probabilities, strict=True))
    confidence = max(label.probabilities)
    if said is None:
        return ImageAnswer(shown, label.predicted, confidence, None, None, Outcome.OK, "", probabilities)
    agree = said.predicted == label.predicted
    return ImageAnswer(
        shown, label.predicted, confidence, said.predicted, agree, said.outcome, said.text, probabilities
    )
