"""What RD-MLDG published (arXiv 2602.23777), always marked as published. Its numbers are InternVL3-8B's on real images.

They come from summaries; the paper's text was not available to check them against, and every table says so.
"""

import re

PAPER = "RD-MLDG, arXiv 2602.23777"
NOTE = (
    f"Published: {PAPER}, InternVL3-8B, from summaries of the paper; not measured by us. Numbers of another model or "
    "of other images are not comparable with it."
)
SARR_NOTE = (
    "`sarr` here: own chains only, starting from `reasoning`; the losses of the published row are open in the paper."
)
ROUNDS_NOTE = (
    f"Published: {PAPER}, TerraIncognita, InternVL3-8B: 70.06 after one round, 70.59 after two (p < 0.01), 70.65 after "
    "three (p about 0.07), 70.50 to 70.60 beyond."
)
DATASETS = {"pacs": "PACS", "vlcs": "VLCS", "officehome": "OfficeHome", "terraincognita": "TerraIncognita"}


def dataset_of(name: str) -> str | None:
    """The paper's dataset that a run's dataset is called after, None for any other."""
    plain = re.sub(r"[^a-z]", "", name.lower())
    return plain if plain in DATASETS else None
