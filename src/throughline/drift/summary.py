"""What the measures of many chains come to: where in a chain the decision falls, and whether drift tells wrong
conclusions better than the model's confidence does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from throughline.metrics.auroc import auroc_intervals
from throughline.metrics.intervals import Interval, bootstrap_generator, clustered_interval

if TYPE_CHECKING:
    import pandas as pd

CHAIN = ["sample_id", "chain"]
CONFIDENCE = "1 - confidence"
TRACE = "largest entropy + JSD"
"""The trace score of arXiv 2602.02863 with lambda = 1, over the whole vocabulary instead of its likeliest tokens."""
LATE = "largest NLL in the last third"
"""An early surprise may be put right, a late one is not (arXiv 2602.02863)."""
Changes = Mapping[tuple[str, str], Sequence[int]]
"""The change points of chains, by image and key."""


@dataclass(frozen=True)
class StageRow:
    """At the end of a stage, of the chains that conclude in a class: the share `decided`, of which the readings at the
    ends of stages are that class from here on, and the share of which the reading is `right`."""

    stage: str
    chains: int
    decided: Interval
    right: Interval


@dataclass(frozen=True)
class ScoreRow:
    """The AUROC of a score for wrong conclusions, and how much it is above that of `CONFIDENCE`."""

    score: str
    auroc: Interval
    gain: Interval


@dataclass(frozen=True)
class Summary:
    """`wrong` counts chains that conclude in another class than the image's, or in none. No `scores` where all are
    wrong or none is."""

    images: int
    chains: int
    wrong: int
    stages: tuple[StageRow, ...]
    scores: tuple[ScoreRow, ...]


def summarise(rows: pd.DataFrame, classes: Sequence[str], changes: Changes | None = None) -> Summary:
    """Of the rows of `measures.SCHEMA`, with change points where they were looked for; intervals are over images."""
    scores = trace_scores(rows, classes)
    if changes is not None:
        scores["number of change points"] = [len(changes[key]) for key in scores.index]
    wrong, images = scores.pop("wrong"), scores.index.get_level_values("sample_id")
    areas = auroc_intervals(wrong, dict(scores.dropna(axis=1).items()), images, CONFIDENCE, bootstrap_generator())
    score_rows = tuple(ScoreRow(name, *intervals) for name, intervals in areas.items())
    return Summary(images.nunique(), len(scores), int(wrong.sum()), _stages(rows, classes), score_rows)


def trace_scores(rows: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """A row for each chain: whether its conclusion is `wrong`, and scores that are higher the more there is to doubt.
    `CONFIDENCE` is by the probability, where the answer begins, of the class that is then concluded."""
    import pandas as pd

    read = rows[rows["answers"].notna()]
    last = read.drop_duplicates(CHAIN, keep="last").set_index(CHAIN)
    believed = [
        answers[classes.index(concluded)] if concluded in classes else 0.0
        for answers, concluded in zip(last["answers"], last["concluded"], strict=True)
    ]
    chains = rows.assign(trace=rows["entropy"] + rows["jsd"]).groupby(CHAIN, sort=False)
    late = rows[rows["place"] >= chains["place"].transform("max") * 2 / 3]
    scores = {
        CONFIDENCE: 1 - pd.Series(believed, last.index),
        TRACE: chains["trace"].max(),
        "mean entropy": chains["entropy"].mean(),
        "mean NLL": chains["nll"].mean(),
        LATE: late.groupby(CHAIN, sort=False)["nll"].max(),
        "sum of the answer's JSD": chains["answer_jsd"].sum(),
        "little use of the image": -chains["image_kl"].mean(),
    }
    first = chains[["label", "concluded"]].first()
    return first.assign(wrong=first["concluded"] != first["label"], **scores)[["wrong", *scores]]


def _stages(rows: pd.DataFrame, classes: Sequence[str]) -> tuple[StageRow, ...]:
    ends = rows[rows["answers"].notna() & rows["concluded"].notna() & (rows["ended"].notna() | (rows["place"] == 0))]
    said = [classes[int(np.argmax(answers))] for answers in ends["answers"]]
    ends = ends.assign(right=said == ends["label"], agrees=(said == ends["concluded"]).astype(int))
    ends["decided"] = ends[::-1].groupby(CHAIN)["agrees"].cummin()
    found = []
    for stage, own in ends.assign(ended=ends["ended"].fillna("no stage")).groupby("ended", sort=False):
        by_image = own.groupby("sample_id")
        shares = [
            clustered_interval(by_image[name].sum(), by_image[name].count(), bootstrap_generator())
            for name in ("decided", "right")
        ]
        found.append(StageRow(str(stage), len(own), *shares))
    return tuple(found)
