"""The figures of the analyses: token probabilities before and after, what training reached by step, perplexity by
round, distance between domains. Called by `analysis_page`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from throughline.analysis.records import Analysis, Buckets, Divergence, Mismatch
from throughline.reporting.folds import KIND, MEASURED, WHOSE, by_state, last_of_unit, mean_curves, together
from throughline.reporting.plotting import COLOURS, DASHES, INK, MARKERS, Plot, house_style, legend_above, panels
from throughline.reporting.summaries import METHOD_ORDER, in_order
from throughline.training.methods import METHODS

_STYLES: dict[str, dict[str, Any]] = {
    method: {"color": COLOURS[number % 8], "linestyle": DASHES[number % 4], "marker": MARKERS[number % 8]}
    for number, method in enumerate(METHOD_ORDER)
}
_UNKNOWN: dict[str, Any] = {"color": COLOURS[6], "linestyle": ":", "marker": "*"}


def probability_figures(analysis: Analysis) -> tuple[Plot, ...]:
    """One per source and kind of tokens: a panel per method, the base behind it. Counts of all folds together."""
    buckets = [one for fold in analysis.folds for one in fold.buckets]
    kinds = dict.fromkeys((one.source, one.kind) for one in buckets)
    found = [_probabilities([b for b in buckets if (b.source, b.kind) == key], *key) for key in kinds]
    return tuple(one for one in found if one is not None)


def _probabilities(buckets: Sequence[Buckets], source: str, kind: str) -> Plot | None:
    after = by_state(last_of_unit([one for one in buckets if one.state.method is not None], lambda one: one.state))
    before = _summed(one for one in buckets if one.state.method is None)
    if before is None or not after:
        return None
    edges = np.linspace(0, 1, len(before) + 1)
    rows: list[tuple[object, ...]] = [("base", *row) for row in _rows(edges, before)]
    with house_style():
        figure, places = panels(len(after), 2.0, sharex=True, sharey=True)
        for axes, (name, found) in zip(places, after.items(), strict=True):
            counts = _summed(found)
            assert counts is not None
            axes.stairs(_shares(before), edges, fill=True, color=COLOURS[6], alpha=0.45, label="base")
            axes.stairs(_shares(counts), edges, color=COLOURS[0], linewidth=1.6, label="after training")
            for border in (0.25, 0.75):
                axes.axvline(border, color=INK, linewidth=0.6, linestyle=":", alpha=0.6)
            axes.set_title(name, fontsize=10)
            rows += [(name, *row) for row in _rows(edges, counts)]
        places[0].set_ylabel("tokens (%)")
        figure.supxlabel("probability of the token that stands there", fontsize=9)
        legend_above(figure, places)
    description = f"Token probabilities before and after training: {WHOSE[source]}, {KIND[kind]}"
    columns = ("weights", "from", "to", "tokens")
    return Plot(f"probabilities-{source}-{kind}", description, figure, columns, tuple(rows))


def optimisation_figure(analysis: Analysis) -> Plot | None:
    """Class probability and loss by optimiser step, the methods on one axis: a panel per part; means over folds."""
    curves = [one for fold in analysis.folds for one in fold.curves]
    lines = mean_curves(curves)
    if not lines:
        return None
    kinds = list(dict.fromkeys((measure, part) for measure, part, _ in lines))
    methods = in_order((method for *_, method in lines), METHOD_ORDER)
    rows: list[tuple[object, ...]] = []
    with house_style():
        figure, places = panels(len(kinds), 2.6, columns=2)
        for axes, (measure, part) in zip(places, kinds, strict=True):
            for method in methods:
                if (measure, part, method) in lines:
                    steps, values = lines[measure, part, method]
                    style = {**_STYLES.get(method, _UNKNOWN), "markersize": 4, "markevery": max(1, len(steps) // 6)}
                    axes.plot(steps, values, linewidth=1.3, label=method, **style)
                    rows += [(measure, part, method, x, y) for x, y in zip(steps, values, strict=True)]
            axes.set_title(f"{MEASURED[measure]}: {part}", fontsize=10)
            if measure == "class_probability":
                axes.set_ylim(0, 1)
        figure.supxlabel("optimiser step", fontsize=9)
        legend_above(figure, places, columns=min(4, len(methods)))
    description = "Probability of the class and loss over the optimiser steps of each method"
    return Plot("optimisation", description, figure, ("measure", "part", "method", "step", "value"), tuple(rows))


def perplexity_figure(analysis: Analysis) -> Plot | None:
    """By round of each family, teacher's chains left and own chains right, on one logarithmic axis."""
    found = [one for fold in analysis.folds for one in fold.mismatch]
    families = [name for name in in_order((m.state.method or "" for m in found), METHOD_ORDER) if _is_family(name)]
    if not families:
        return None
    rounds = max(one.state.round or 0 for one in found)
    rows: list[tuple[object, ...]] = []
    with house_style():
        figure, places = panels(2, 3.2, columns=2, sharey=True)
        for axes, source in zip(places, ("teacher", "self"), strict=True):
            for family in families:
                points = _points([one for one in found if one.source == source], family)
                if points:
                    xs, middles, lows, highs = zip(*points, strict=True)
                    errors = np.array([np.subtract(middles, lows), np.subtract(highs, middles)]).clip(0)
                    style = {**_STYLES.get(family, _UNKNOWN), "markersize": 5}
                    axes.errorbar(xs, middles, yerr=errors, capsize=2, linewidth=1.3, label=family, **style)
                    rows += [(family, source, x, *rest) for x, *rest in points]
            axes.set_title(WHOSE[source], fontsize=10)
            axes.set_xticks(range(-1, rounds + 1), ["base", "start", *map(str, range(1, rounds + 1))])
            axes.set_xlabel("round of self-labelling")
        places[0].set_yscale("log")
        places[0].yaxis.set_major_formatter(LogFormatter())
        places[0].yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.4)))
        places[0].set_ylabel("perplexity")
        legend_above(figure, places)
    whiskers = "95 % intervals over images" if len(analysis.folds) == 1 else "standard error over folds"
    description = f"Perplexity of teacher's and own chains by round of self-labelling; whiskers: {whiskers}"
    columns = ("method", "chains", "round", "perplexity", "low", "high")
    return Plot("perplexity", description, figure, columns, tuple(rows))


def divergence_figure(analysis: Analysis) -> Plot | None:
    """A panel per kind and encoder: a bar per pair of domains, a mark where chance alone would put it, p at its end."""
    found = [one for one in analysis.divergence if one.pairs]
    if not found:
        return None
    most = max(len(one.pairs) for one in found)
    down = -(-len(found) // 2)
    rows: list[tuple[object, ...]] = []
    with house_style():
        figure = Figure(figsize=(7.5, down * (0.9 + 0.26 * most) + 0.4), layout="constrained")
        places = np.atleast_1d(figure.subplots(down, 2, squeeze=False)).ravel()
        for axes in places[len(found) :]:
            axes.set_visible(False)
        for axes, one in zip(places, found, strict=False):
            _draw_divergence(axes, one, several=len({other.encoder for other in found}) > 1)
            rows += [
                (one.encoder, one.of, one.source, pair.first, pair.second, pair.distance, pair.expected, pair.p_value)
                for pair in one.pairs
            ]
        legend_above(figure, places[: len(found)])
    description = "Distance between domains by pair, with what chance alone gives and the permutation test's p"
    columns = ("encoder", "of", "source", "first", "second", "distance", "expected", "p")
    return Plot("divergence", description, figure, columns, tuple(rows))


def _draw_divergence(axes: Any, one: Divergence, several: bool) -> None:
    places = range(len(one.pairs))
    distances = [pair.distance for pair in one.pairs]
    expected = [pair.expected for pair in one.pairs]
    axes.barh(places, distances, color=COLOURS[5], height=0.7, label="distance")
    axes.plot(
        expected, places, marker="|", markersize=13, markeredgewidth=2, color=COLOURS[1], linestyle="none",
        label="expected by chance",
    )  # fmt: skip
    for place, pair in zip(places, one.pairs, strict=True):
        axes.annotate(
            f"p {pair.p_value:.3f}", (max(pair.distance, pair.expected), place), xytext=(6, 0),
            textcoords="offset points", va="center", fontsize=7,
        )  # fmt: skip
    axes.set_yticks(places, [f"{pair.first} – {pair.second}" for pair in one.pairs], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.3 * max([*distances, *expected, 1e-9]))
    axes.tick_params(axis="x", labelsize=8)
    axes.set_title(one.of + (f", {one.encoder}" if several else ""), fontsize=10)


def _points(found: Sequence[Mismatch], family: str) -> list[tuple[int, float, float, float]]:
    """Round, perplexity and the ends of its whisker: -1 for the base, 0 for where the rounds start."""
    start = METHODS[family].starts_from
    numbered = [
        (-1 if one.state.method is None else one.state.round if one.state.method == family else 0, one)
        for one in found
        if one.state.method in {None, family} or (one.state.method == start and one.state.round is None)
    ]
    points = []
    for number, pairs in sorted(together(numbered, lambda pair: pair[0] or 0).items()):
        ones = [one.perplexity for _, one in pairs]
        middle = float(np.mean([one.mean for one in ones]))
        if len(ones) == 1:
            points.append((number, middle, ones[0].low, ones[0].high))
        else:
            error = float(np.std([one.mean for one in ones]) / np.sqrt(len(ones)))
            points.append((number, middle, middle - error, middle + error))
    return points


def _is_family(method: str) -> bool:
    return method in METHODS and METHODS[method].self_labelled


def _summed(found: Iterable[Buckets]) -> np.ndarray[Any, np.dtype[np.float64]] | None:
    counts = [one.histogram for one in found]
    return np.sum(counts, axis=0).astype(np.float64) if counts else None


def _shares(counts: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return 100 * counts / max(1.0, float(counts.sum()))


def _rows(edges: Any, counts: Any) -> list[tuple[float, float, int]]:
    return [(float(a), float(b), int(n)) for a, b, n in zip(edges[:-1], edges[1:], counts, strict=True)]
