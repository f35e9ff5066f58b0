"""Linear probes beside the answers on the same images: a figure from the vision tower to the last layer, and why the
answers are wrong. Called by `page` and by the verb `ood`."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from throughline.core.plot import Panel, Plot, Series
from throughline.core.table import Table
from throughline.ood.diagnosis import CAUSES, FOLDS, Diagnosis, Evidence, diagnose, reread
from throughline.ood.probe import read_by
from throughline.reporting.estimates import same_samples, summarise
from throughline.reporting.groups import Group, Right, Setup
from throughline.reporting.tables import drawn_notes, share_cell
from throughline.runs.unit import PROBE

TOWER, PROJECTOR, LAYER = f"{PROBE}: tower", f"{PROBE}: projector", f"{PROBE}: layer "
ANSWERED = "zero_shot"
"""The only method that answers and trains nothing."""


def probes_beside(group: Group) -> Group | None:
    """The probes on the same images and model; None where there are none."""
    probes = replace(group, probes=True)
    return probes if len(probes.final) else None


def probe_figure(group: Group) -> Plot | None:
    """Accuracy of the probes by point of the model, one panel for each place they look at, with what the model answers
    as level lines; None without probes."""
    probes = probes_beside(group)
    if probes is None:
        return None
    rows: list[tuple[object, ...]] = []
    panels = []
    for where in ("image", "last"):
        points = [point for point in _points(probes) if not point.startswith(LAYER) or point.endswith(where)]
        places = list(range(len(points)))
        series = []
        for number, (name, setup) in enumerate(probes.setups.items()):
            values = [_average(probes, point, name) for point in points]
            series.append(Series(name, places, values, colour=number, marker=number))
            named = (point.removeprefix(f"{PROBE}: ") for point in points)
            rows += [(name, point, round(value, 2)) for point, value in zip(named, values, strict=True)]
            asked = setup.of_method(ANSWERED)
            for dash, answer in enumerate(group.answers, start=1):
                said = _average(group, answer, asked)
                series.append(Series(f"{asked}, {answer} path", (0, places[-1]), (said, said), colour=dash, dash=dash))
                rows.append((asked, f"{answer} path", round(said, 2)))
        names = [re.sub(r".*: (layer (?=\d))?|, .*", "", point).replace("projector", "\nprojector") for point in points]
        title = {"image": "mean over the image's tokens", "last": "the prompt's last token"}[where]
        panels.append(Panel(tuple(series), title, x_ticks=list(zip(places, names, strict=True))))
    return Plot(
        "probes",
        "Accuracy of linear probes from the vision tower to the decoder's last layer; level lines: the model's answers",
        tuple(panels),
        ("setup", "point", "accuracy, %"),
        tuple(dict.fromkeys(rows)),
        across=1,
        x_label="vision tower, projector, layers of the decoder",
        y_label="accuracy, %",
        shared="y",
    )


def diagnosis_table(group: Group, reference: Group | None = None) -> Table | None:
    """What each cause explains of the error, one row for each answer path and combination of levels; None without
    probes. With a reference, another model on the same images, of the error beyond that one's."""
    rows = []
    for setup in group.setups.values():
        for answer in group.answers if setup.method == ANSWERED else ():
            found = evidence_of(group, setup, answer, reference)
            before = None if reference is None else evidence_of(reference, setup, answer)
            if found is not None and (reference is None or before is not None):
                rows.append((*setup.cells, answer, *_cells(diagnose(found, before))))
    if not rows:
        return None
    beyond = "" if reference is None else f" beyond that of {reference.model}"
    notes = (
        "Points with 95 % intervals over seeds and images. Visual: what a linear probe on the vision tower lacks; "
        "beside a reference, that one's own probe, where both towers have one width. Mapping: what the answers lack "
        "of that, even with each word read as the class that it most often stands for. Semantic: what this reading "
        "mends. Refused: no cause is surely ahead of every other one, the answers say more than the probe reads, or "
        "there is too little error.",
        *drawn_notes(group.drawn),
    )
    columns = (*group.heads, "answer path", "error", *CAUSES, "verdict")
    return Table(f"{group.title} · causes of the error{beyond}", columns, tuple(rows), notes)


def _average(group: Group, answer: str, setup: str) -> float:
    """In percent; NaN where a domain is missing."""
    row = summarise(group, "all", answer).get(setup)
    return np.nan if row is None or row.average is None else 100 * row.average.mean


def _points(probes: Group) -> list[str]:
    """From the vision tower to the decoder's last layer."""

    def place(point: str) -> tuple[int, str]:
        known = {TOWER: -2, PROJECTOR: -1}
        return (known[point], "") if point in known else (int(re.findall(r"\d+", point)[0]), point)

    return sorted(probes.answers, key=place)


def evidence_of(group: Group, setup: Setup, answer: str, reference: Group | None = None) -> Evidence | None:
    """Answers and probes of one combination of levels on the images that all are about; None where one is missing. With
    a reference, the probes are that one's on the features of this model's tower, where both have one width."""
    probes = probes_beside(group)
    if probes is None:
        return None
    answers, tower = group.right(setup.name, answer), probes.right(setup.of_method(PROBE), TOWER)
    if not tower or not same_samples(answers, tower):
        return None
    if reference is not None:
        tower = _read_by(reference, probes, setup.of_method(PROBE), tower)
    return Evidence(answers, _reread(group, setup.name, answer), tower)


def _reread(group: Group, setup: str, answer: str) -> Right:
    """The answers of all targets and seeds, their words read anew; the images of each target are dealt to folds."""
    rows = group.predictions[(group.predictions["setup"] == setup) & (group.predictions["answer"] == answer)]
    folds = rows.groupby(["target", "seed"]).cumcount() % FOLDS
    said = [name if isinstance(name, str) else None for name in rows["predicted"]]
    right = rows.assign(right=reread(said, [labels[0] for labels in rows["labels"]], folds.tolist()))
    return {key: own.set_index("sample_id")["right"] for key, own in right.groupby(["target", "seed"])}


def _read_by(reference: Group, probes: Group, setup: str, tower: Right) -> Right:
    """What the reference's probe reads in the tower's features of each target and seed; `tower` where it cannot."""
    theirs, ours = (_folders(of, setup) for of in (replace(reference, probes=True), probes))
    read = {}
    for (target, seed), own in tower.items():
        place = theirs.get((target, seed))
        right = None if place is None else read_by(place, ours[target, seed], "tower", list(own.index), seed)
        read[target, seed] = own if right is None else pd.Series(right, own.index)
    return read


def _folders(probes: Group, setup: str) -> dict[tuple[str, int], Path]:
    """Of the units that probed, by target and seed."""
    rows = probes.final[probes.final["setup"] == setup].drop_duplicates("unit")
    names = zip(rows["target"], rows["seed"], rows["unit"], strict=True)
    return {(target, seed): probes.run.units[unit].folder for target, seed, unit in names}


def _cells(found: Diagnosis) -> tuple[str, ...]:
    shares = (found.error, *(found.causes[name] for name in CAUSES))
    return (*map(share_cell, shares), " and ".join(found.named) or f"refused: {found.why}")
