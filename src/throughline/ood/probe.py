"""Linear probes: is the class still to be read at a point of the model, whatever the model answers?

The same images and classes as the answers that stand beside it. A probe learns from images that nobody asks about; its
one setting is chosen on groups of these, so that no tested image has a part in it. Called by `experiment.executors`.
"""

import io
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from throughline.chains.outcomes import Outcome
from throughline.core.errors import ThroughlineError
from throughline.domains.samples import Sample
from throughline.runs.records import Prediction
from throughline.runs.unit import PROBE

if TYPE_CHECKING:  # brings torch
    from throughline.mllm.chat import EncodedPrompt
    from throughline.mllm.load import Mllm

FEATURES = "features.npz"
"""In a unit's folder: `ids`, `labels` and `groups`, and an array `(images, width)` for each point."""
ALPHAS = tuple(10.0**exponent for exponent in range(-1, 6))
"""Strengths of the penalty that are tried."""
FOLDS = 5
AT_ONCE = 4096
"""Tokens in one pass: their states at every layer are in memory."""
Rows = NDArray[np.float64]
"""`(images, width)`."""


@dataclass(frozen=True)
class Features:
    """Of images, in the order of `ids`, by point of the model."""

    ids: tuple[str, ...]
    points: Mapping[str, Rows]

    def of(self, point: str, samples: Sequence[Sample]) -> Rows:
        """The rows of these samples."""
        place = {name: row for row, name in enumerate(self.ids)}
        return self.points[point][[place[sample.id] for sample in samples]]

    def to_bytes(self, samples: Sequence[Sample]) -> bytes:
        """The content of `FEATURES`, which `numpy.load` reads; `samples` are those of the ids, and may be more."""
        own = {sample.id: sample for sample in samples}
        rows: dict[str, Any] = {name: np.float32(values) for name, values in self.points.items()}
        rows["labels"] = np.array([own[name].label for name in self.ids])
        rows["groups"] = np.array([group_of(own[name]) for name in self.ids])
        buffer = io.BytesIO()
        np.savez_compressed(buffer, ids=np.array(self.ids), **rows)
        return buffer.getvalue()


def read_features(
    mllm: "Mllm",
    samples: Sequence[Sample],
    encode: Callable[[Sample], "EncodedPrompt"],
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Features, dict[str, str]]:
    """What the model makes of each sample at every point (`mllm.features`), and why some could not be read, by id."""
    from throughline.mllm.features import batch_key, point_features

    rows: dict[str, dict[str, Rows]] = {}
    faults: dict[str, str] = {}

    def readable() -> Iterator[tuple[str, "EncodedPrompt"]]:
        for number, sample in enumerate(samples, start=1):
            try:
                yield sample.id, encode(sample)
            except ThroughlineError as error:
                faults[sample.id] = str(error)
            on_progress(number, len(samples))

    for (tokens, _), together in groupby(readable(), lambda named: batch_key(mllm, named[1])):
        while batch := list(islice(together, max(1, AT_ONCE // tokens))):
            names, prompts = zip(*batch, strict=True)
            for name, points in zip(names, point_features(mllm, prompts), strict=True):
                rows[name] = {point: value.double().numpy() for point, value in points.items()}
    if not rows:
        raise ThroughlineError("no image could be read", do=next(iter(faults.values()), None))
    every = next(iter(rows.values()))
    return Features(tuple(rows), {point: np.array([row[point] for row in rows.values()]) for point in every}), faults


def group_of(sample: Sample) -> str:
    """What stays together while a probe chooses its penalty."""
    return sample.group or sample.id


def probe_predictions(
    features: Features, pool: Sequence[Sample], asked: Sequence[Sample], faults: Mapping[str, str], seed: int
) -> list[Prediction]:
    """For each point a prediction about every image asked about, in their order; of one that could not be read its
    fault."""
    train, test = ([sample for sample in samples if sample.id not in faults] for samples in (pool, asked))
    labels = [sample.label for sample in train]
    groups = [group_of(sample) for sample in train]
    predictions = []
    for point in features.points:
        said = probe(features.of(point, train), labels, groups, features.of(point, test), seed)
        classes = dict(zip((sample.id for sample in test), said, strict=True))
        predictions += [
            Prediction(
                sample_id=sample.id,
                domain=sample.domain,
                labels=sample.labels,
                answer=f"{PROBE}: {point}",
                predicted=classes.get(sample.id),
                outcome=Outcome.ERROR if sample.id in faults else Outcome.OK,
                text=faults.get(sample.id, ""),
            )
            for sample in asked
        ]
    return predictions


def read_by(reference: Path, changed: Path, point: str, asked: Sequence[str], seed: int) -> Rows | None:
    """Right, 1, or wrong, 0, about each image asked about: the probe of another unit's model at a point, on the
    features of this one's. None where the two folders do not hold features of one width there."""
    if not all((folder / FEATURES).is_file() for folder in (reference, changed)):
        return None
    theirs, ours = (np.load(folder / FEATURES) for folder in (reference, changed))
    if theirs[point].shape[1:] != ours[point].shape[1:]:
        return None
    train = ~np.isin(theirs["ids"], asked)
    labels, groups = (theirs[name][train].tolist() for name in ("labels", "groups"))
    train_rows, rows = (values.astype(np.float64) for values in (theirs[point][train], ours[point]))
    said = probe(train_rows, labels, groups, rows, seed)
    right = dict(zip(ours["ids"].tolist(), said == ours["labels"], strict=True))
    return np.array([right.get(name, False) for name in asked], dtype=np.float64)


def probe(train: Rows, labels: Sequence[str], groups: Sequence[str], test: Rows, seed: int) -> list[str]:
    """The class of each test image: ridge regression on standardised features, every class with the same weight. The
    penalty is the one of `ALPHAS` with the best balanced accuracy over `FOLDS` folds of groups, fewer where a class has
    fewer groups.

    Ridge, because it has one exact solution. Raises a ThroughlineError for fewer than two classes or groups.
    """
    from sklearn.linear_model import RidgeClassifier
    from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(set(labels)) < 2 or len(set(groups)) < 2:
        raise ThroughlineError("a probe needs images of at least two classes", do="ask about fewer images")
    model = make_pipeline(StandardScaler(), RidgeClassifier(class_weight="balanced"))
    fewest = min(Counter(label for label, _ in set(zip(labels, groups, strict=True))).values())
    folds = StratifiedGroupKFold(min(FOLDS, max(2, fewest)), shuffle=True, random_state=seed)
    search = GridSearchCV(model, {"ridgeclassifier__alpha": ALPHAS}, cv=folds, scoring="balanced_accuracy")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of classes with fewer groups than folds
        search.fit(train, list(labels), groups=list(groups))
    return [str(label) for label in search.predict(test)]
