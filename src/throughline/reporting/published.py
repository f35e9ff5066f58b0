"""The paper's tables of accuracies beside a run's own numbers (see `analysis.paper`). Called by `page`."""

from collections.abc import Mapping

from throughline.analysis.paper import DATASETS, NOTE, PAPER, SARR_NOTE, dataset_of
from throughline.core.table import MISSING, Table
from throughline.reporting.results import Group, Summary
from throughline.reporting.tables import average_cell
from throughline.runs.order import in_order
from throughline.training.methods import METHODS

_ORDER = tuple(DATASETS)

# Main table: accuracy averaged over targets, in percent; (method, backbone, PACS, VLCS, OfficeHome, TerraIncognita).
_MAIN: tuple[tuple[str, str, tuple[float, float, float, float]], ...] = (
    ("CORAL", "ResNet-50", (86.20, 78.80, 68.70, 47.60)),
    ("SMOS", "ResNet-50", (89.40, 79.80, 71.60, 55.40)),
    ("SWAD", "ViT-B/16", (91.30, 79.40, 76.90, 45.40)),
    ("CLIP", "ViT-B/16", (96.20, 81.70, 82.00, 33.40)),
    # the table calls its backbone ViT-B/16; it is an ensemble of many models
    ("SIMPLE+", "ViT-B/16, as labelled", (99.00, 82.70, 87.70, 59.00)),
    ("CLIP-LoRA", "ViT-B/16", (97.10, 83.10, 83.90, 55.70)),
    ("DGCLDTP", "ViT-B/16", (97.03, 84.79, 87.65, 63.27)),
    ("zero-shot", "GPT-4o", (97.83, 85.41, 90.12, 60.49)),
    ("zero-shot", "InternVL3-8B", (96.26, 85.67, 85.10, 46.84)),
    ("RD-MLDG", "InternVL3-8B", (98.13, 87.03, 91.73, 70.65)),
)

# Rows of it under our methods' names, and the ablation of the two datasets that it was made on.
_OURS = {"zero_shot": "zero-shot", "mtct_sarr": "RD-MLDG"}
_ABLATION: Mapping[str, Mapping[str, float]] = {
    "officehome": {"cls": 89.39, "reasoning": 88.76, "mtct": 90.58, "sarr": 90.91},
    "terraincognita": {"cls": 66.69, "reasoning": 64.56, "mtct": 67.19, "sarr": 65.29},
}


def published_ablation(group: Group, summaries: Mapping[str, Mapping[str, Summary]]) -> Table | None:
    """The run's methods beside the paper's rows of that name; None for a dataset that the paper does not have.

    `summaries` by answer path, of the split that DomainBed reports where there is one.
    """
    dataset = dataset_of(group.dataset)
    if dataset is None:
        return None
    column = _ORDER.index(dataset)
    printed = {name: values[column] for name, backbone, values in _MAIN if backbone == "InternVL3-8B"}
    published = {ours: printed[name] for ours, name in _OURS.items()} | dict(_ABLATION.get(dataset, {}))
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
    column = _ORDER.index(dataset)
    rows = tuple((name, backbone, f"{printed[column]:.2f}") for name, backbone, printed in _MAIN)
    return Table(
        title=f"{DATASETS[dataset]}: published results of other methods",
        columns=("method", "model", "published"),
        rows=rows,
        notes=(f"Accuracy in percent, mean over targets, from summaries of {PAPER}; not measured by us.",),
    )
