"""Is a confidence calibrated, and what does refusing doubtful answers buy: reliability of the likelihood path, risk
over coverage, and the other way to abstain: to answer only where label and reasoning path agree. Called by the
pages."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from throughline.chains.outcomes import Outcome
from throughline.core.plot import Panel, Plot, Series
from throughline.core.table import MISSING, Table
from throughline.metrics.calibration import (
    Abstention,
    RiskCoverage,
    abstention,
    expected_calibration_error,
    reliability,
    risk_coverage_curve,
)
from throughline.reporting.groups import Group, Setup

BINS = 15
"""Of the reliability diagram and of the calibration error beside it."""


@dataclass(frozen=True)
class Confidence:
    """A setup's answers of all targets and seeds together."""

    setup: Setup
    samples: int
    failed: int
    """How many of them have no confidence, since the likelihood path failed on them, as on an unreadable image."""
    likelihood: tuple[NDArray[np.float64], NDArray[np.bool_]] | None
    """Confidence and whether it is right, `(answers,)` each, of the likelihood path; None where it was not asked."""
    agreement: Abstention | None
    """Answering only where label and reasoning path name one class; None where a path was not asked."""

    @property
    def curve(self) -> RiskCoverage | None:
        """Risk over coverage by the likelihood path's confidence."""
        return None if self.likelihood is None else risk_coverage_curve(*self.likelihood)

    @property
    def shares(self) -> tuple[float | None, ...]:
        """What stands under SHARES; None where a path was not asked."""
        curve, point = self.curve, self.agreement
        ece = None if self.likelihood is None else expected_calibration_error(*self.likelihood, BINS)
        of_curve = (ece, curve.area, curve.risk_at(1.0)) if curve else (None, None, None)
        of_point = (point.coverage, point.risk) if point else (None, None)
        return (*of_curve, *of_point, curve.risk_at(point.coverage) if curve and point else None)


SHARES = (
    *("calibration error (ECE)", "area under risk–coverage (AURC)", "error, all answered"),
    *("answered if paths agree", "error of these", "error of as many most confident"),
)


def confidences(group: Group) -> tuple[Confidence, ...]:
    """One entry for each setup that has either way to abstain."""
    entries = []
    for name in group.final_setups():
        rows = group.predictions[group.predictions["setup"] == name]
        samples = len(rows.drop_duplicates(["unit", "sample_id"]))
        asked = rows[rows["answer"] == "likelihood"]
        sure, failed = asked[asked["confidence"].notna()], int((asked["outcome"] == Outcome.ERROR).sum())
        likelihood = sure["confidence"].to_numpy(np.float64).clip(0, 1), sure["correct"].to_numpy(bool)
        found = likelihood if 0 < len(sure) == samples - failed else None
        entries.append(Confidence(group.setups[name], samples, failed, found, _agreement(rows, samples)))
    return tuple(entry for entry in entries if entry.likelihood or entry.agreement)


def confidence_table(entries: Sequence[Confidence]) -> Table | None:
    """Calibration error, and both ways to abstain beside each other; None without any setup."""
    if not entries:
        return None
    failed = sum(entry.failed for entry in entries if entry.likelihood)
    return Table(
        title="Calibration and abstention",
        columns=("method", *entries[0].setup.levels, "answers", *SHARES),
        rows=tuple((*entry.setup.cells, str(entry.samples), *map(_percent, entry.shares)) for entry in entries),
        notes=(
            "All in percent, over all targets and seeds; every answer has the same weight. ECE, expected calibration "
            f"error: mean gap between confidence and share of right answers, {BINS} bins of equal width. AURC, area "
            "under the risk–coverage curve: mean error of the likelihood path over all coverages. Lower is better.",
            "Two ways to abstain: answer only if label and reasoning path name the same class, or only if the "
            "likelihood path is most confident. The last two columns compare both ways at the same coverage.",
            *([f"Answers of the likelihood path that failed, which have no confidence: {failed:,}."] * (failed > 0)),
        ),
    )


def reliability_figure(entries: Sequence[Confidence]) -> Plot | None:
    """A panel for each setup: share of right answers over confidence; None without a likelihood path."""
    panels, rows = [], []
    middles = ((np.arange(BINS) + 0.5) / BINS).tolist()
    for entry in entries:
        if entry.likelihood is None:
            continue
        bins = reliability(*entry.likelihood, BINS)
        filled = bins.counts > 0
        shares = (bins.counts / bins.counts.sum()).tolist()
        series = (
            Series("share of answers", middles, shares, kind="bars", colour=5, width=0.9 / BINS, alpha=0.5),
            Series("perfectly calibrated", (0, 1), (0, 1), colour=None, dash=2, width=0.8),
            Series("share right", bins.confidence[filled].tolist(), bins.accuracy[filled].tolist(), marker=0),
        )
        panels.append(Panel(series, entry.setup.name, x_limits=(0, 1), y_limits=(0, 1)))
        numbers = zip(middles, bins.counts, bins.confidence, bins.accuracy, strict=True)
        rows += [(entry.setup.name, *of_bin) for of_bin in numbers]
    if not panels:
        return None
    return Plot(
        "reliability",
        "Reliability diagram: share of right answers by confidence of the likelihood path, for each method",
        tuple(panels),
        ("method", "bin", "answers", "confidence", "right"),
        tuple(rows),
        height=2.3,
        x_label="confidence of the likelihood path",
        shared="xy",
    )


def abstention_figure(entries: Sequence[Confidence]) -> Plot | None:
    """Error over coverage: a line for each setup by confidence, a mark where its label and reasoning path agree."""
    if not entries:
        return None
    series, rows = [], []
    for number, entry in enumerate(entries):
        name, curve, point = entry.setup.name, entry.curve, entry.agreement
        if curve is not None:
            # 200 points say all that an eye sees, of a hundred thousand answers too
            picked = np.unique(np.linspace(0, len(curve.risk) - 1, 200).round().astype(int))
            shares, risks = curve.coverage[picked].tolist(), curve.risk[picked].tolist()
            x, y = ([100 * share for share in line] for line in (shares, risks))
            series.append(Series(name, x, y, colour=number, dash=number // 4))
            rows += [(name, "confidence", share, risk) for share, risk in zip(shares, risks, strict=True)]
        if point is not None and not math.isnan(point.risk):
            x, y = [100 * point.coverage], [100 * point.risk]
            series.append(Series(f"{name}, paths agree", x, y, kind="points", colour=number, marker=number))
            rows.append((name, "paths agree", point.coverage, point.risk))
    panel = Panel(
        tuple(series),
        x_label="answered (%)",
        y_label="wrong among answered (%)",
        x_limits=(0, 102),
        y_limits=(0, None),
    )
    return Plot(
        "abstention",
        "Error by share of images answered: above a confidence (lines), or if label and reasoning path agree (marks)",
        (panel,),
        ("method", "rule", "coverage", "risk"),
        tuple(rows),
        height=4.0,
        legend="beside",
    )


def _agreement(rows: pd.DataFrame, samples: int) -> Abstention | None:
    """Answering where both paths name one class, of a setup's answers; None unless both answered every sample."""
    keys = ["unit", "sample_id"]
    label, reasoning = (rows[rows["answer"] == answer] for answer in ("label", "reasoning"))
    both = label.merge(reasoning[[*keys, "predicted"]], on=keys, suffixes=("", "_reasoned"))
    if not samples or len(both) != samples:
        return None
    same = both["predicted"].notna() & (both["predicted"] == both["predicted_reasoned"])
    return abstention(same.to_numpy(bool), both["correct"].to_numpy(bool))


def _percent(value: float | None) -> str:
    return MISSING if value is None or math.isnan(value) else f"{100 * value:.1f}"
