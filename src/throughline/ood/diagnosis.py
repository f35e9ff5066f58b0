"""Why a model is wrong about images: their features lack the class (*visual*), the decoder loses it (*mapping*), or
what it has does not become the right word (*semantic*).

The three hypotheses of arXiv 2402.06599, like for like: the same images and classes behind every number. With A the
accuracy of the answers, T that of a linear probe on the vision tower, D that of one on the decoder's last token:

    1 - A  =  (1 - T)  +  (T - D)  +  (D - A)
    error  =  visual   +  mapping  +  semantic

With a reference, the same terms of another model on the same images are taken off: what is explained is then the error
that the model has beyond that one. A cause is named where it explains more than each other one, by the paired interval.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from throughline.metrics.intervals import (
    Interval,
    Runs,
    bootstrap_generator,
    bootstrap_means,
    mean_over_targets,
    percentile_interval,
)

CAUSES = ("visual", "mapping", "semantic")
Rows = dict[tuple[str, int], NDArray[np.float64]]
"""By target and seed, a number for each image."""
LEAST = 0.1
"""Of all images: where the error that is explained is smaller, there is nothing to explain."""


@dataclass(frozen=True)
class Evidence:
    """Right or wrong for each image asked about, by (target, seed): the answers, a probe on the vision tower, and one
    on the decoder's last token."""

    answers: Runs
    tower: Runs
    decoder: Runs

    def __post_init__(self) -> None:
        shapes = {name: {key: np.shape(row) for key, row in runs.items()} for name, runs in vars(self).items()}
        if len({str(sorted(shape.items())) for shape in shapes.values()}) > 1:
            raise ValueError(f"answers and probes are not about the same images: {shapes}")

    def terms(self) -> dict[str, Rows]:
        """What each cause adds to the error of each image, -1, 0 or 1, and the `error` itself."""
        rows = {
            key: [np.asarray(runs[key], dtype=np.float64) for runs in (self.answers, self.tower, self.decoder)]
            for key in self.answers
        }
        return {
            "visual": {key: 1 - tower for key, (_, tower, _) in rows.items()},
            "mapping": {key: tower - decoder for key, (_, tower, decoder) in rows.items()},
            "semantic": {key: decoder - answer for key, (answer, _, decoder) in rows.items()},
            "error": {key: 1 - answer for key, (answer, _, _) in rows.items()},
        }


@dataclass(frozen=True)
class Diagnosis:
    """Shares of all images, 0 to 1, with 95 % intervals over seeds and images: the error that is explained, and what
    each cause adds to it. `cause` is None where no cause explains more than every other one, or there is too little
    error; `why` says which."""

    error: Interval
    causes: Mapping[str, Interval]
    cause: str | None
    why: str


def diagnose(evidence: Evidence, reference: Evidence | None = None) -> Diagnosis:
    """The causes of a model's error, or of what it has beyond that of a reference on the same images."""
    terms = evidence.terms()
    if reference is not None:
        before = reference.terms()
        terms = {name: _less(rows, before[name]) for name, rows in terms.items()}
    intervals = {name: _interval(rows) for name, rows in terms.items()}
    causes = {name: intervals[name] for name in CAUSES}
    first = max(CAUSES, key=lambda name: causes[name].mean)
    ahead = {name: _interval(_less(terms[first], terms[name])) for name in CAUSES if name != first}
    error = intervals["error"]
    if error.low < LEAST:
        return Diagnosis(error, causes, None, f"the error is not surely above {100 * LEAST:g} % of the images")
    close = [name for name, gap in ahead.items() if gap.low <= 0]
    if close:
        return Diagnosis(error, causes, None, f"{first} is not surely ahead of {' and '.join(close)}")
    return Diagnosis(error, causes, first, f"{first} explains more than any other cause")


def _less(first: Runs, second: Runs) -> Rows:
    """First minus second, image by image. ValueError where they are not about the same images."""
    if {key: np.shape(row) for key, row in first.items()} != {key: np.shape(row) for key, row in second.items()}:
        raise ValueError("the reference has answered other images")
    return {key: np.asarray(row, dtype=np.float64) - np.asarray(second[key]) for key, row in first.items()}


def _interval(rows: Runs) -> Interval:
    return percentile_interval(bootstrap_means(rows, bootstrap_generator()), mean_over_targets(rows))
