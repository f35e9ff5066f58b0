"""Which classes are taken for which, for every target and method: counts from the predictions, a heat map a target, and
what the page's own table is drawn from. Called by `page`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from throughline.metrics.accuracy import NO_ANSWER, confusion_counts
from throughline.reporting.answers import UnitAnswers
from throughline.reporting.plotting import INK, Plot, house_style, panels
from throughline.reporting.summaries import ANSWER_ORDER, METHOD_ORDER, in_order
from throughline.reporting.untrusted import one_line

# Beyond it a table is no longer read, and the page lists the commonest mix-ups instead.
LARGEST_TABLE = 40
_BLUE = (0x00 / 255, 0x72 / 255, 0xB2 / 255)


@dataclass(frozen=True)
class Confusion:
    """One target, method and answer path, summed over seeds."""

    target: str
    method: str
    answer: str
    classes: tuple[str, ...]
    counts: NDArray[np.int64]
    """`(classes, classes + 1)`: a row per true class, the last column no answer."""


def confusions(units: Sequence[UnitAnswers]) -> tuple[Confusion, ...]:
    """Every target, method and answer path that has predictions, with one class list for all. An image with several
    labels counts under the one that was named, or under its first."""
    classes = tuple(
        sorted(
            {label for unit in units for labels in unit.labels for label in labels}
            | {name for unit in units for path in unit.predicted.values() for name in path if name is not None}
        )
    )
    number = {name: place for place, name in enumerate(classes)}
    found: dict[tuple[str, str, str], NDArray[np.int64]] = {}
    for unit in units:
        for answer, said in unit.predicted.items():
            pairs = zip(said, unit.labels, strict=True)
            true = [number[name if name in labels else labels[0]] for name, labels in pairs if labels]
            given = [
                NO_ANSWER if name is None else number[name]
                for name, labels in zip(said, unit.labels, strict=True)
                if labels
            ]
            key = unit.target, unit.method, answer
            counts = confusion_counts(true, given, len(classes))
            found[key] = found[key] + counts if key in found else counts
    methods = in_order((method for _, method, _ in found), METHOD_ORDER)
    answers = in_order((answer for *_, answer in found), ANSWER_ORDER)
    order = sorted(found, key=lambda key: (key[0], methods.index(key[1]), answers.index(key[2])))
    return tuple(Confusion(*key, classes, found[key]) for key in order)


def confusion_data(tables: Sequence[Confusion]) -> dict[str, Any]:
    """For the page's script: per table the cells that are not zero, as true, given, count, and so on."""
    return {
        "classes": [one_line(name) for name in tables[0].classes] if tables else [],
        "largest": LARGEST_TABLE,
        "tables": [
            {
                "target": one_line(table.target),
                "method": table.method,
                "answer": table.answer,
                "cells": [
                    int(value)
                    for true, given in zip(*np.nonzero(table.counts), strict=True)
                    for value in (true, given, table.counts[true, given])
                ],
            }
            for table in tables
        ],
    }


def confusion_figures(tables: Sequence[Confusion]) -> tuple[Plot, ...]:
    """One figure per target, a panel per method: the share of each class (row) that was given each answer (column), on
    the likelihood path where it was asked, else on the first there is."""
    return tuple(
        _figure([table for table in tables if table.target == target], target, f"confusion-{number}")
        for number, target in enumerate(dict.fromkeys(table.target for table in tables), start=1)
    )


def _figure(tables: Sequence[Confusion], target: str, name: str) -> Plot:
    answers = {table.answer for table in tables}
    answer = "likelihood" if "likelihood" in answers else tables[0].answer
    shown = [table for table in tables if table.answer == answer]
    classes = shown[0].classes
    with house_style():
        figure, found = panels(len(shown), 2.6, sharex=True, sharey=True)
        for axes, table in zip(found, shown, strict=True):
            totals = np.maximum(table.counts.sum(axis=1, keepdims=True), 1)
            pixels = np.empty((*table.counts.shape, 4))
            pixels[..., :3] = _BLUE
            pixels[..., 3] = table.counts / totals
            axes.imshow(pixels, interpolation="nearest")
            # the column of those that named no class stands apart
            axes.axvline(len(classes) - 0.5, color=INK, linewidth=0.6, linestyle=":")
            axes.set_title(table.method, fontsize=10)
            places = range(len(classes)) if len(classes) <= 15 else ()
            axes.set_xticks([*places, len(classes)], [*(classes if places else ()), "none"], rotation=90, fontsize=6)
            axes.set_yticks(places, classes if places else (), fontsize=6)
        figure.supxlabel(f"answer on the {answer} path", fontsize=9)
        figure.supylabel("true class", fontsize=9)
    rows = [
        (table.target, table.method, table.answer, classes[true], (*classes, None)[given], int(count))
        for table in tables
        for (true, given), count in np.ndenumerate(table.counts)
        if count
    ]
    description = f"What each class of {target} was taken for, by method, on the {answer} path"
    return Plot(name, description, figure, ("target", "method", "answer", "true", "given", "count"), tuple(rows))
