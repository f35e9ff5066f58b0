"""Where in a chain a measure changes for good, by the drift detectors of `river` (extra `drift`).

Chains have 50 to 200 tokens and river's defaults wait for thousands: windows are shorter here, and a series is scaled
to 0..1 first, as ADWIN and the thresholds want it. A detector notices a change some tokens late; the change is then put
where the mean of what came since the last one differs most before and after.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from throughline.core.errors import ThroughlineError, extra

if TYPE_CHECKING:
    import pandas as pd

Detector = Literal["adwin", "kswin", "page_hinkley"]


def changes_in(rows: pd.DataFrame, detector: Detector) -> dict[tuple[str, str], list[int]]:
    """The change points of entropy + JSD of each chain, by image and key, of the rows of `measures.SCHEMA`."""
    series = (rows["entropy"] + rows["jsd"]).groupby([rows["sample_id"], rows["chain"]], sort=False)
    return {key: change_points(own, detector) for key, own in series}


def change_points(series: ArrayLike, detector: Detector) -> list[int]:
    """The places at which the values `(n,)` begin to be others."""
    noticing = make_detector(detector)
    values = np.asarray(series, dtype=np.float64)
    scaled = (values - values.min()) / (np.ptp(values) or 1) if len(values) else values
    places, start = list[int](), 0
    for place, value in enumerate(scaled.tolist()):
        noticing.update(value)
        if noticing.drift_detected and place > start:
            since = scaled[start : place + 1]
            before = np.arange(1, len(since))  # of k values before a change, the likelihood ratio of two means
            sums = np.cumsum(since - since.mean())[:-1]
            start += 1 + int(np.argmax(np.abs(sums) / np.sqrt(before * (len(since) - before))))
            places.append(start)
    return places


def make_detector(name: Detector) -> Any:
    """A detector of river. ThroughlineError where that is missing."""
    try:
        from river import drift
    except ImportError as error:
        what = f"change points are found by river, which cannot be loaded ({error})"
        raise ThroughlineError(what, do=f"{extra('drift')}, or leave --detector out") from error
    if name == "adwin":
        return drift.ADWIN(delta=0.05, clock=1, min_window_length=5, grace_period=5)
    if name == "kswin":
        return drift.KSWIN(alpha=0.001, window_size=30, stat_size=8, seed=0)
    return drift.PageHinkley(min_instances=5, delta=0.1, threshold=1.5)
