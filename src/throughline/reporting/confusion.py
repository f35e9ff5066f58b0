"""Which classes are taken for which, for every target and setup: counts from the predictions, a heat map for each
target, and what the page's own table is drawn from. Called by `page`."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from throughline.core.plot import Panel, Plot
from throughline.core.table import Table
from throughline.core.untrusted import one_line
from throughline.reporting.groups import Group
from throughline.runs.order import ANSWER_ORDER, ordered

# Beyond it a table is no longer read, and the page lists the commonest mix-ups instead.
LARGEST_TABLE = 40
MOST_MIXUPS = 8


@dataclass(frozen=True)
class Confusion:
    """One target, setup and answer path, summed over seeds."""

    target: str
    method: str
    answer: str
    classes: tuple[str, ...]
    counts: NDArray[np.int64]
    """`(classes, classes + 1)`: a row for each true class, the last column no answer."""

    @property
    def cells(self) -> NDArray[np.int64]:
        """`(cells, 3)`: true, given and count of those that are not zero."""
        return np.column_stack([np.argwhere(self.counts), self.counts[self.counts > 0]])


def confusions(group: Group) -> tuple[Confusion, ...]:
    """Every target, setup and answer path that has predictions, with one class list for all. An image with several
    labels counts under the one that was named, or under its first; of several classes named the first
    right one counts, or the first."""
    rows = group.predictions[group.predictions["labels"].map(len) > 0]
    given = [_named(*answer) for answer in zip(rows["predicted"], rows["labels"], strict=True)]
    true = [name if name in labels else labels[0] for name, labels in zip(given, rows["labels"], strict=True)]
    rows = rows.assign(given=pd.Series(given, rows.index, object), true=true)
    classes = tuple(sorted({*rows["labels"].explode(), *rows["given"].dropna()}))
    number = {name: place for place, name in enumerate(classes)}
    tables = []
    rows = ordered(rows, target=(), setup=group.setups, answer=ANSWER_ORDER)
    for (target, setup, answer), ours in rows.groupby(["target", "setup", "answer"], observed=True):
        counts = np.zeros((len(classes), len(classes) + 1), dtype=np.int64)
        columns = [number.get(name, len(classes)) for name in ours["given"]]
        np.add.at(counts, (ours["true"].map(number).to_numpy(), columns), 1)
        tables.append(Confusion(target, setup, answer, classes, counts))
    return tuple(tables)


def confusion_data(tables: Sequence[Confusion]) -> dict[str, Any]:
    """For the page's script: for each table the cells that are not zero, as true, given, count, and so on."""
    return {
        "classes": [one_line(name) for name in tables[0].classes] if tables else [],
        "largest": LARGEST_TABLE,
        "tables": [
            {
                "target": one_line(table.target),
                "method": table.method,
                "answer": table.answer,
                "cells": np.ravel(table.cells).tolist(),
            }
            for table in tables
        ],
    }


def confusion_figures(tables: Sequence[Confusion], answer: str, setups: Collection[str]) -> tuple[Plot, ...]:
    """One figure for each target, a panel for each of the `setups`: the share of each class (row) that was given each
    answer (column) on an answer path. The numbers of all setups and paths are in its file."""
    targets = dict.fromkeys(table.target for table in tables)
    figures = (
        _figure([table for table in tables if table.target == target], answer, setups, f"confusion-{number}")
        for number, target in enumerate(targets, start=1)
    )
    return tuple(figure for figure in figures if figure.panels)


def mixups_table(tables: Sequence[Confusion], setup: str, answer: str) -> Table | None:
    """The most frequent confusions of a setup on an answer path, all targets and seeds together; None without any."""
    ours = [table for table in tables if (table.method, table.answer) == (setup, answer)]
    if not ours:
        return None
    counts = np.sum([table.counts for table in ours], axis=0)
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    names = [*map(one_line, ours[0].classes), "no class"]
    rows = []
    for place in np.argsort(-wrong, axis=None, kind="stable")[:MOST_MIXUPS]:
        true, given = divmod(int(place), len(names))
        count, total = int(wrong[true, given]), int(counts[true].sum())
        if count:
            rows.append((names[true], names[given], str(count), str(total), f"{100 * count / total:.1f}"))
    return Table(
        f"Most frequent confusions of {setup}, {answer} path",
        ("true class", "answer", "times", "of", "share, %"),
        tuple(rows),
        ("All held-out domains and seeds together.",),
    )


def _named(predicted: object, labels: Collection[str]) -> str | None:
    """The one class of an answer that counts; None where it names none."""
    named = (predicted,) if isinstance(predicted, str) else predicted if isinstance(predicted, tuple) else ()
    return next((name for name in named if name in labels), next(iter(named), None))


def _figure(tables: Sequence[Confusion], answer: str, setups: Collection[str], name: str) -> Plot:
    target, classes = tables[0].target, tables[0].classes
    named = list(enumerate(classes)) if len(classes) <= 15 else []
    panels = tuple(
        Panel(
            title=table.method,
            heat=(table.counts / np.maximum(table.counts.sum(axis=1, keepdims=True), 1)).tolist(),
            rulers=[len(classes) - 0.5],  # the column of those that named no class stands apart
            x_ticks=[*named, (len(classes), "none")],
            y_ticks=named,
        )
        for table in tables
        if table.answer == answer and table.method in setups
    )
    rows = [
        (table.target, table.method, table.answer, classes[true], (*classes, None)[given], count)
        for table in tables
        for true, given, count in table.cells.tolist()
    ]
    return Plot(
        name,
        f"Share of each class of {target} (rows) answered as each class (columns), by method, on the {answer} path",
        panels,
        ("target", "method", "answer", "true", "given", "count"),
        tuple(rows),
        height=3.4,
        across=2,
        x_label=f"answer on the {answer} path",
        y_label="true class",
        shared="xy",
    )
