"""Does a confidence mean what it says, and what does refusing doubtful answers buy: reliability of the likelihood path,
risk over coverage, and the other way to abstain: to answer only where label and reasoning path agree. Called by
`page`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from throughline.metrics.calibration import (
    Abstention,
    RiskCoverage,
    abstention,
    expected_calibration_error,
    reliability,
    risk_coverage_curve,
)
from throughline.reporting.answers import UnitAnswers
from throughline.reporting.plotting import COLOURS, DASHES, INK, MARKERS, Plot, house_style, legend_above, panels
from throughline.reporting.tables import MISSING, Table

BINS = 15
"""Of the reliability diagram and of the calibration error beside it."""


@dataclass(frozen=True)
class Confidence:
    """A method's answers of all targets and seeds together."""

    method: str
    samples: int
    confidence: NDArray[np.float64] | None
    correct: NDArray[np.bool_] | None
    """Of the likelihood path; None, both, where it was not asked."""
    agreement: Abstention | None
    """Answering only where label and reasoning path name one class; None where a path was not asked."""

    @property
    def curve(self) -> RiskCoverage | None:
        """Risk over coverage by the likelihood path's confidence."""
        if self.confidence is None or self.correct is None:
            return None
        return risk_coverage_curve(self.confidence, self.correct)


def confidences(units: Sequence[UnitAnswers]) -> tuple[Confidence, ...]:
    """One entry per method that has either way to abstain."""
    found = []
    for method in dict.fromkeys(unit.method for unit in units):
        ours = [unit for unit in units if unit.method == method]
        sure = [unit for unit in ours if unit.confidence is not None]
        whole = len(sure) == len(ours)
        agreements = [_agreement(unit) for unit in ours]
        both = [one for one in agreements if one is not None]
        if not whole and not both:
            continue
        found.append(
            Confidence(
                method=method,
                samples=sum(len(unit.labels) for unit in ours),
                confidence=np.concatenate([u.confidence for u in sure if u.confidence is not None]) if whole else None,
                correct=np.concatenate([unit.correct("likelihood") for unit in sure]) if whole else None,
                agreement=abstention(*(np.concatenate(part) for part in zip(*both, strict=True)))
                if len(both) == len(ours)
                else None,
            )
        )
    return tuple(found)


def confidence_table(found: Sequence[Confidence]) -> Table | None:
    """Calibration error, and both ways to abstain beside each other; None without any method."""
    if not found:
        return None
    rows = []
    for one in found:
        curve = one.curve
        ece = None
        if one.confidence is not None and one.correct is not None:
            ece = expected_calibration_error(one.confidence, one.correct, BINS)
        point = one.agreement
        beside = curve.risk_at(point.coverage) if curve is not None and point is not None else None
        rows.append(
            (
                one.method,
                str(one.samples),
                MISSING if ece is None else f"{100 * ece:.1f}",
                _percent(curve.area if curve else None),
                _percent(curve.risk_at(1.0) if curve else None),
                _percent(point.coverage if point else None),
                _percent(point.risk if point else None),
                _percent(beside),
            )
        )
    return Table(
        title="Calibration and abstention",
        columns=(
            "method",
            "answers",
            "calibration error (ECE)",
            "area under risk–coverage (AURC)",
            "error, all answered",
            "answered where paths agree",
            "error there",
            "error of the most confident, as many",
        ),
        rows=tuple(rows),
        notes=(
            f"All in percent; targets and seeds together, every answer with the same weight. ECE, expected calibration "
            f"error: mean gap between confidence and share right, {BINS} bins of equal width. AURC, area under the "
            "risk–coverage curve: error of the likelihood path, averaged over all coverages. Lower is better in both.",
            "Two ways to abstain: answer only where label and reasoning path name one class, or answer only the images "
            "that the likelihood path is most confident of. The last two columns compare them at the same coverage.",
        ),
    )


def reliability_figure(found: Sequence[Confidence]) -> Plot | None:
    """A panel per method: share of right answers over confidence; None without a likelihood path."""
    shown = [one for one in found if one.confidence is not None]
    if not shown:
        return None
    rows: list[tuple[object, ...]] = []
    with house_style():
        figure, places = panels(len(shown), 2.3, sharex=True, sharey=True)
        for axes, one in zip(places, shown, strict=True):
            assert one.confidence is not None and one.correct is not None
            bins = reliability(one.confidence, one.correct, BINS)
            filled = bins.counts > 0
            middles = (np.arange(BINS) + 0.5) / BINS
            axes.bar(
                middles, bins.counts / bins.counts.sum(), width=0.9 / BINS, color=COLOURS[5], alpha=0.5,
                label="share of answers",
            )  # fmt: skip
            axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":", label="means what it says")
            axes.plot(
                bins.confidence[filled], bins.accuracy[filled], color=COLOURS[0], marker="o", markersize=4,
                label="share right",
            )  # fmt: skip
            axes.set_title(one.method, fontsize=10)
            axes.set_xlim(0, 1)
            axes.set_ylim(0, 1)
            rows += [
                (one.method, middle, int(count), _or_none(mean), _or_none(right))
                for middle, count, mean, right in zip(middles, bins.counts, bins.confidence, bins.accuracy, strict=True)
            ]
        figure.supxlabel("confidence of the likelihood path", fontsize=9)
        legend_above(figure, places)
    description = "Reliability diagram: share of right answers over the likelihood path's confidence, by method"
    columns = ("method", "bin", "answers", "confidence", "right")
    return Plot("reliability", description, figure, columns, tuple(rows))


def abstention_figure(found: Sequence[Confidence]) -> Plot | None:
    """Error over coverage: a line per method by confidence, a mark where its label and reasoning path agree."""
    if not found:
        return None
    rows: list[tuple[object, ...]] = []
    with house_style():
        figure, (axes,) = panels(1, 4.0)
        for number, one in enumerate(found):
            colour, marker = COLOURS[number % 8], MARKERS[number % 8]
            curve = one.curve
            if curve is not None:
                # 200 points say all that an eye sees, of a hundred thousand answers too
                picked = np.unique(np.linspace(0, len(curve.risk) - 1, 200).round().astype(int))
                axes.plot(
                    100 * curve.coverage[picked], 100 * curve.risk[picked], color=colour,
                    linestyle=DASHES[number // 4 % 4], linewidth=1.3, label=one.method,
                )  # fmt: skip
                points = zip(curve.coverage[picked], curve.risk[picked], strict=True)
                rows += [(one.method, "confidence", float(share), float(risk)) for share, risk in points]
            if one.agreement is not None and not math.isnan(one.agreement.risk):
                point = one.agreement
                axes.plot(
                    [100 * point.coverage], [100 * point.risk], color=colour, marker=marker, markersize=8,
                    linestyle="none", label=f"{one.method}, paths agree",
                )  # fmt: skip
                rows.append((one.method, "paths agree", point.coverage, point.risk))
        axes.set_xlim(0, 102)
        axes.set_ylim(0, None)
        axes.set_xlabel("answered (%)")
        axes.set_ylabel("wrong among the answered (%)")
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8)
    description = "Error over the share of images answered, by confidence and where label and reasoning path agree"
    return Plot("abstention", description, figure, ("method", "rule", "coverage", "risk"), tuple(rows))


def _agreement(unit: UnitAnswers) -> tuple[NDArray[np.bool_], NDArray[np.bool_]] | None:
    """Where both paths name one class, and whether it is right."""
    if not {"label", "reasoning"} <= unit.predicted.keys():
        return None
    pairs = zip(unit.predicted["label"], unit.predicted["reasoning"], strict=True)
    same = np.array([label is not None and label == reasoned for label, reasoned in pairs], dtype=bool)
    return same, unit.correct("label")


def _percent(value: float | None) -> str:
    return MISSING if value is None or math.isnan(value) else f"{100 * value:.1f}"


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
