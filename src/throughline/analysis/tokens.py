"""Scored tokens as columns, and the Parquet file of one state that they stream into.

A row is a token of an answer under teacher forcing. `experiment.analyses` has them written, one file for each state
of the weights; every analysis reads them back and loads no model.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from throughline.analysis.passages import CLASS
from throughline.analysis.records import Kind, Source
from throughline.core.errors import ThroughlineError

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

Words = NDArray[np.object_]


@dataclass(frozen=True, eq=False)
class TokenTable:
    """One entry a token `(tokens,)`, in the order of samples, sources and places. `nll` and `entropy` are in nats."""

    sample_id: Words
    source: Words
    token_id: NDArray[np.int64]
    text: Words
    stage: Words
    kind: Words
    nll: NDArray[np.float64]
    entropy: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.nll)

    @property
    def probability(self) -> NDArray[np.float64]:
        """Of the token that stands there."""
        return np.asarray(np.exp(-self.nll), dtype=np.float64)

    @property
    def images(self) -> int:
        """How many the tokens are of."""
        return len(set(self.sample_id))

    def where(self, chosen: NDArray[np.bool_]) -> TokenTable:
        """The rows chosen `(tokens,)`."""
        return TokenTable(**{one.name: getattr(self, one.name)[chosen] for one in fields(self)})

    def of(self, source: Source, kind: Kind = "chain") -> TokenTable:
        """The tokens of one source; `class` are those of the class where the answer stands."""
        chosen = self.source == source
        return self.where(chosen & (self.kind == CLASS) if kind == "class" else chosen)


def write_tokens(path: Path, pieces: Iterable[dict[str, list[Any]]]) -> None:
    """Streams columns to `path`, a row group for each piece; the file is there when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with pq.ParquetWriter(partial, COLUMNS, compression="zstd") as writer:
        for piece in pieces:
            writer.write_table(pa.table(piece, schema=COLUMNS))
    partial.replace(path)


def read_tokens(path: Path) -> TokenTable:
    """A file back. Raises ThroughlineError for one that cannot be read."""
    try:
        table = pq.read_table(path)
        columns = {one.name: table.column(one.name) for one in fields(TokenTable)}
    except (pa.ArrowException, OSError, KeyError) as error:
        raise ThroughlineError(f"the scored tokens cannot be read ({error})", path, "remove the file") from error
    numbers = {"token_id": np.int64, "nll": np.float64, "entropy": np.float64}
    return TokenTable(
        **{
            name: column.to_numpy().astype(numbers[name])
            if name in numbers
            else np.array(column.to_pylist(), dtype=object)
            for name, column in columns.items()
        }
    )


def require_same_tokens(before: TokenTable, after: TokenTable) -> None:
    """ValueError unless both are about the same tokens of the same images, in the same order."""
    same = len(before) == len(after) and all(
        bool((getattr(before, name) == getattr(after, name)).all()) for name in ("sample_id", "source", "token_id")
    )
    if not same:
        raise ValueError(f"{len(before)} and {len(after)} tokens that are not the same")
