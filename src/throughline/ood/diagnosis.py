"""Why a model is wrong about images: the features of its tower lack the class (*visual*), what they have is lost on the
way to an answer (*mapping*), or its answers tell the classes apart by the wrong words (*semantic*).

The three hypotheses of arXiv 2402.06599, like for like: the same images and classes behind every number. With A the
accuracy of the answers, R that of the same answers with each word read as the class that it most often stands for, and
T that of a linear probe on the vision tower:

    1 - A  =  (1 - T)  +  (T - R)  +  (R - A)
    error  =  visual   +  mapping  +  semantic

With a reference, of which the model is a changed copy, the same terms of that one are taken off: what is explained is
the error that was added. T is then the reference's own probe on the features of both. What stands behind the tower
reads features where they were; a probe that is fitted anew finds classes that nothing behind it can use any more.

A cause is named where it explains more than each other one, by the paired interval; two are where both surely add to
the error, more than the third, and are as large as each other as far as can be told. None is named where the answers
say far more than the probe reads: then it has learnt from too few images, or what stands behind the tower has changed
with it.
"""

from collections.abc import Mapping, Sequence
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
FOLDS = 5
"""Of images: how the words of one are read is learnt from the others."""
LEAST = 0.1
"""Of all images: where the error that is explained is smaller, there is nothing to explain; and where the answers say
more than the probe by more than this, the probe is not what the model sees."""


@dataclass(frozen=True)
class Evidence:
    """Right or wrong for each image asked about, by (target, seed): the answers, these read anew (`reread`), and a
    probe on the vision tower."""

    answers: Runs
    reread: Runs
    tower: Runs

    def __post_init__(self) -> None:
        shapes = {name: {key: np.shape(row) for key, row in runs.items()} for name, runs in vars(self).items()}
        if len({str(sorted(shape.items())) for shape in shapes.values()}) > 1:
            raise ValueError(f"answers and probes are not about the same images: {shapes}")

    def terms(self) -> dict[str, Rows]:
        """What each cause adds to the error of each image, -1, 0 or 1, and the `error` itself."""
        rows = {
            key: [np.asarray(runs[key], dtype=np.float64) for runs in (self.answers, self.reread, self.tower)]
            for key in self.answers
        }
        return {
            "visual": {key: 1 - tower for key, (_, _, tower) in rows.items()},
            "mapping": {key: tower - reread for key, (_, reread, tower) in rows.items()},
            "semantic": {key: reread - answer for key, (answer, reread, _) in rows.items()},
            "error": {key: 1 - answer for key, (answer, _, _) in rows.items()},
        }


@dataclass(frozen=True)
class Diagnosis:
    """Shares of all images, 0 to 1, with 95 % intervals over seeds and images: the error that is explained, and what
    each cause adds to it. `named` has the cause that explains most, or two, the larger first; it is empty where causes
    cannot be told apart or there is too little error; `why` says which."""

    error: Interval
    causes: Mapping[str, Interval]
    named: tuple[str, ...]
    why: str


def reread(said: Sequence[str | None], true: Sequence[str], folds: Sequence[int]) -> NDArray[np.bool_]:
    """Right or wrong of each answer once its word is read as the class that it stands for: one class a word, so that
    the answers of the other folds are right as often as can be. A word that these say nothing of keeps its meaning; an
    answer without a class stays wrong."""
    from scipy.optimize import linear_sum_assignment

    place = {name: number for number, name in enumerate(sorted({*true, *filter(None, said)}))}
    words, classes = (np.array([place.get(name or "", -1) for name in names]) for names in (said, true))
    right = np.zeros(len(true), dtype=bool)
    for fold in set(folds):
        held_out = np.asarray(folds) == fold
        learnt = ~held_out & (words >= 0)
        counts = np.eye(len(place)) / 2
        np.add.at(counts, (words[learnt], classes[learnt]), 1)
        _, meant = linear_sum_assignment(counts, maximize=True)
        right[held_out] = (words[held_out] >= 0) & (meant[words[held_out]] == classes[held_out])
    return right


def diagnose(evidence: Evidence, reference: Evidence | None = None) -> Diagnosis:
    """The causes of a model's error, or of what it has beyond that of a reference on the same images."""
    terms = evidence.terms()
    unread = _interval(terms["mapping"]).high < -LEAST
    if reference is not None:
        before = reference.terms()
        terms = {name: _less(rows, before[name]) for name, rows in terms.items()}
    error, *shares = (_interval(terms[name]) for name in ("error", *CAUSES))
    causes = dict(zip(CAUSES, shares, strict=True))
    first, second, third = sorted(CAUSES, key=lambda name: -causes[name].mean)

    def ahead(larger: str, smaller: str) -> bool:
        return _interval(_less(terms[larger], terms[smaller])).low > 0

    if error.low < LEAST:
        return Diagnosis(error, causes, (), f"the error is not surely above {100 * LEAST:g} % of the images")
    if unread:
        return Diagnosis(error, causes, (), "the answers say more than a probe reads in the tower")
    if ahead(first, second) and ahead(first, third):
        return Diagnosis(error, causes, (first,), f"{first} explains more than any other cause")
    if ahead(first, third) and ahead(second, third) and causes[second].low > 0:
        return Diagnosis(error, causes, (first, second), f"{first} and {second} explain more than {third}")
    close = [name for name in (second, third) if not ahead(first, name)]
    return Diagnosis(error, causes, (), f"{first} is not surely ahead of {' and '.join(close)}")


def _less(first: Runs, second: Runs) -> Rows:
    """First minus second, image by image. ValueError where they are not about the same images."""
    if {key: np.shape(row) for key, row in first.items()} != {key: np.shape(row) for key, row in second.items()}:
        raise ValueError("the reference has answered other images")
    return {key: np.asarray(row, dtype=np.float64) - np.asarray(second[key]) for key, row in first.items()}


def _interval(rows: Runs) -> Interval:
    return percentile_interval(bootstrap_means(rows, bootstrap_generator()), mean_over_targets(rows))
