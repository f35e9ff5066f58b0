"""Scored tokens as columns, and the Parquet file of one state that they stream into.

A row is a token of an answer under teacher forcing. `experiment.analyses` has them written, one file for each state
of the weights; every analysis reads them back and loads no model.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from throughline.analysis.passages import CLASS
from throughline.analysis.records import Kind, Source
from throughline.core.errors import ThroughlineError

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = pa.schema(
    [
        ("sample_id", pa.string()),
        ("domain", pa.string()),
        ("source", pa.string()),
        ("place", pa.int32()),
        ("token_id", pa.int32()),
        ("text", pa.string()),
        ("stage", pa.string()),
        ("kind", pa.string()),
        ("nll", pa.float32()),
        ("entropy", pa.float32()),
    ]
)


def tokens_of(table: pd.DataFrame, source: Source, kind: Kind = "chain") -> pd.DataFrame:
    """The rows of one source; `class` are those of the class where the answer stands."""
    chosen = table["source"] == source
    return table[chosen & (table["kind"] == CLASS) if kind == "class" else chosen].reset_index(drop=True)


def write_tokens(path: Path, pieces: Iterable[pd.DataFrame]) -> None:
    """Streams rows of `COLUMNS` to `path`, a row group for each piece; the file is there when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with pq.ParquetWriter(partial, COLUMNS, compression="zstd") as writer:
        for piece in pieces:
            writer.write_table(pa.Table.from_pandas(piece, COLUMNS, preserve_index=False))
    partial.replace(path)


def read_tokens(path: Path) -> pd.DataFrame:
    """A file back, a row a token, in the order of samples, sources and places, with the `probability` of the token that
    stands there. `nll` and `entropy` are in nats. Raises ThroughlineError for a file that cannot be read."""
    try:
        table = pq.read_table(path).select(COLUMNS.names).to_pandas()
    except (pa.ArrowException, OSError, KeyError) as error:
        raise ThroughlineError(f"the scored tokens cannot be read ({error})", path, "remove the file") from error
    return with_probability(table.astype({"token_id": np.int64, "nll": np.float64, "entropy": np.float64}))


def with_probability(table: pd.DataFrame) -> pd.DataFrame:
    """With the probability that is behind each `nll`."""
    return table.assign(probability=np.exp(-table["nll"]))


def same_tokens(
    before: pd.DataFrame, after: pd.DataFrame, source: Source, kind: Kind = "chain"
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`tokens_of` both. ValueError unless they are about the same tokens of the same images, in the same order."""
    first, second = tokens_of(before, source, kind), tokens_of(after, source, kind)
    keys = ["sample_id", "source", "token_id"]
    if not first[keys].equals(second[keys]):
        raise ValueError(f"{len(first)} and {len(second)} tokens that are not the same")
    return first, second
