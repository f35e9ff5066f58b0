"""The papers' tables of accuracies beside a run's own numbers: RD-MLDG's (see `analysis.paper`), and those of models as
they are under shift. Called by `page`."""

import re
import tomllib
from collections.abc import Mapping
from importlib import resources

import pandas as pd

from throughline.analysis.paper import DATASETS, NOTE, PAPER, SARR_NOTE, dataset_of
from throughline.core.table import MISSING, Table
from throughline.reporting.estimates import Summary
from throughline.reporting.groups import Group
from throughline.reporting.robustness import is_shifted
from throughline.reporting.tables import average_cell
from throughline.runs.order import in_order
from throughline.training.methods import METHODS

_PRINTED = tomllib.loads(resources.files(__package__).joinpath("published.toml").read_text("utf-8"))
_MAIN = pd.DataFrame(_PRINTED["main"]["rows"], columns=["method", "backbone", *DATASETS])
"""The main table, a column for each dataset."""
_OURS = {"zero_shot": "zero-shot", "mtct_sarr": "RD-MLDG"}
"""Rows of it under our methods' names."""


def published_ablation(group: Group, summaries: Mapping[str, Mapping[str, Summary]]) -> Table | None:
    """The run's methods beside the paper's rows of that name; None for a dataset that the paper does not have.

    `summaries` by answer path, of the split that DomainBed reports where there is one.
    """
    dataset = dataset_of(group.dataset)
    if dataset is None:
        return None
    printed = _MAIN[_MAIN["backbone"] == "InternVL3-8B"].set_index("method")[dataset]
    published = {ours: printed[name] for ours, name in _OURS.items()} | _PRINTED["ablation"].get(dataset, {})
    rows = []
    for method in in_order([*published, *(name for found in summaries.values() for name in found)], METHODS):
        cells = [average_cell(found.get(method)) for found in summaries.values()]
        rows.append((method, f"{published[method]:.2f}" if method in published else MISSING, *cells))
    return Table(
        title=f"{DATASETS[dataset]}: this run and the paper",
        columns=("method", "published, InternVL3-8B", *(f"here, {answer} path" for answer in summaries)),
        rows=tuple(rows),
        notes=(NOTE, f"Here: {group.model}. The answer path of the published numbers is open in the paper.", SARR_NOTE),
    )


def published_methods(group: Group) -> Table | None:
    """The paper's main table for the run's dataset; None for a dataset that it does not have."""
    dataset = dataset_of(group.dataset)
    if dataset is None:
        return None
    printed = _MAIN[["method", "backbone", dataset]].itertuples(index=False, name=None)
    return Table(
        title=f"{DATASETS[dataset]}: published results of other methods",
        columns=("method", "model", "published"),
        rows=tuple((name, backbone, f"{accuracy:.2f}") for name, backbone, accuracy in printed),
        notes=(f"Accuracy in percent, mean over targets, from summaries of {PAPER}; not measured by us.",),
    )


def published_shift(group: Group, summaries: Mapping[str, Mapping[str, Summary]]) -> Table | None:
    """This run, then what was published of models as they are on its data set (arXiv 2402.06599 and 2312.07424); None
    for a data set of which nothing was. A name such as `iwildcam_v2.0_processed` is that of `iwildcam`."""
    name = re.sub(r"_v\d.*|[^a-z0-9]", "", group.dataset.lower())
    published = [tuple(row) for row in _PRINTED["shift"].get(name, ())]
    here = [
        (f"here: {group.model}", f"{setup}, {answer} path", average_cell(row), "this run")
        for answer, by_setup in summaries.items()
        for setup, row in by_setup.items()
        if not is_shifted(row.setup)
    ]
    title, columns = f"{group.dataset}: this run and models under shift", ("model", "asked", "accuracy", "source")
    return Table(title, columns, (*here, *published), (_PRINTED["shift_note"],)) if published else None
