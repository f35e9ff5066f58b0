"""Token tables written by hand."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from throughline.analysis.tokens import with_probability

Row = tuple[str, str, int, str, float, float]
"""Sample, source, token id, kind, probability, entropy."""


def table_of(rows: Sequence[Row]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["sample_id", "source", "token_id", "kind", "probability", "entropy"])
    text = [f"t{number}" for number in table["token_id"]]
    return with_probability(table.assign(text=text, stage="", nll=-np.log(table["probability"])))
