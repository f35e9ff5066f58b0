"""What RD-MLDG published (arXiv 2602.23777), to stand beside a run's own numbers, always marked as published. Its
numbers are InternVL3-8B's on real images; we know them second-hand, from digests that we did not check against the
paper's body, and say so. Called by `page` and `analysis_tables`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from throughline.reporting.summaries import METHOD_ORDER, Group, MethodSummary, in_order
from throughline.reporting.tables import MISSING, Table, average_cell

PAPER = "RD-MLDG, arXiv 2602.23777"
NOTE = (
    f"Published: {PAPER}, InternVL3-8B, known to us from digests; not measured by us, and not comparable with another "
    "model or other images."
)
SARR_NOTE = (
    "`sarr` here: own chains only, from where `reasoning` ended; which losses the published row used we do not know."
)

_NAMES = {"pacs": "PACS", "vlcs": "VLCS", "officehome": "OfficeHome", "terraincognita": "TerraIncognita"}
_ORDER = tuple(_NAMES)

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

# The same rows under our methods' names, and the ablation of the two datasets that it was made on.
_OURS: Mapping[str, Mapping[str, float]] = {
    "pacs": {"zero_shot": 96.26, "mtct_sarr": 98.13},
    "vlcs": {"zero_shot": 85.67, "mtct_sarr": 87.03},
    "officehome": {
        "zero_shot": 85.10, "cls": 89.39, "reasoning": 88.76, "mtct": 90.58, "sarr": 90.91, "mtct_sarr": 91.73
    },
    "terraincognita": {
        "zero_shot": 46.84, "cls": 66.69, "reasoning": 64.56, "mtct": 67.19, "sarr": 65.29, "mtct_sarr": 70.65
    },
}  # fmt: skip

ROUNDS_NOTE = (
    f"Published: {PAPER}, TerraIncognita, InternVL3-8B: 70.06 after one round, 70.59 after two (p < 0.01), 70.65 after "
    "three (p about 0.07), 70.50 to 70.60 beyond."
)


def dataset_of(name: str) -> str | None:
    """The paper's dataset that a run's dataset is called after, None for any other."""
    plain = re.sub(r"[^a-z]", "", name.lower())
    return plain if plain in _NAMES else None


def published_ablation(group: Group, summaries: Mapping[str, Sequence[MethodSummary]]) -> Table | None:
    """The run's methods beside the paper's rows of that name; None for a dataset that the paper does not have.

    `summaries` by answer path, of the split that DomainBed reports where there is one.
    """
    dataset = dataset_of(group.dataset)
    if dataset is None:
        return None
    ours = {answer: {row.method: row for row in rows} for answer, rows in summaries.items()}
    methods = in_order([*_OURS[dataset], *(name for rows in ours.values() for name in rows)], METHOD_ORDER)
    rows = []
    for method in methods:
        printed = _OURS[dataset].get(method)
        cells = [average_cell(found.get(method)) for found in ours.values()]
        rows.append((method, MISSING if printed is None else f"{printed:.2f}", *cells))
    return Table(
        title=f"{_NAMES[dataset]}: this run beside the paper",
        columns=("method", "published, InternVL3-8B", *(f"here, {answer} path" for answer in ours)),
        rows=tuple(rows),
        notes=(NOTE, f"Here: {group.model}. Which answer path the paper's table uses is not known to us.", SARR_NOTE),
    )


def published_methods(group: Group) -> Table | None:
    """The paper's main table for the run's dataset; None for a dataset that it does not have."""
    dataset = dataset_of(group.dataset)
    if dataset is None:
        return None
    column = _ORDER.index(dataset)
    rows = tuple((name, backbone, f"{printed[column]:.2f}") for name, backbone, printed in _MAIN)
    return Table(
        title=f"{_NAMES[dataset]}: published results of other methods",
        columns=("method", "model", "published"),
        rows=rows,
        notes=(
            f"Accuracy in percent, averaged over targets, of {PAPER}, known to us from digests; not measured by us.",
        ),
    )
