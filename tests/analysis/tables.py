"""Token tables written by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from throughline.analysis.tokens import TokenTable

Row = tuple[str, str, int, str, float, float]
"""Sample, source, token id, kind, probability, entropy."""


def table_of(rows: Sequence[Row]) -> TokenTable:
    columns = list(zip(*rows, strict=True))
    return TokenTable(
        sample_id=np.array(columns[0], dtype=object),
        source=np.array(columns[1], dtype=object),
        token_id=np.array(columns[2]),
        text=np.array([f"t{i}" for i in columns[2]], dtype=object),
        stage=np.array([""] * len(rows), dtype=object),
        kind=np.array(columns[3], dtype=object),
        nll=-np.log(np.array(columns[4], dtype=float)),
        entropy=np.array(columns[5], dtype=float),
    )
