"""Accepted chains as Parquet with the images inside, in shards that `datasets` loads and the Hub's viewer pages
through. Called by `export`, a chain at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from throughline.chains.formats import ChainFormat
from throughline.chains.parsing import parse_chain
from throughline.chains.records import Candidate, Usage
from throughline.core.files import canonical_json
from throughline.domains.samples import Sample

# The viewer fetches whole row groups to show a page of 100 rows; large images end a group earlier.
ROW_GROUP_ROWS, ROW_GROUP_BYTES = 100, 64_000_000


def features_of(classes: Sequence[str], format: ChainFormat) -> Any:
    """The columns, as `datasets.Features`.

    `label` is a ClassLabel: the Hub's viewer then counts and filters it by class name, whatever the number of classes
    (a string column it takes for classes only while the values are few, and for text beyond), and the class list in
    its order comes with the data, classes without a chain included. `domain` is a string: domains are few.
    """
    from datasets import ClassLabel, Features, Image, Value

    text, number = Value("string"), Value("int64")
    return Features(
        {
            "image": Image(),
            **dict.fromkeys(("sample_id", "image_sha256", "domain"), text),
            "label": ClassLabel(names=list(classes)),
            **dict.fromkeys(("format", "chain", *map(str.lower, format.stages), "concluded"), text),
            **dict.fromkeys(("model", "source"), text),
            **dict.fromkeys(("round", "candidate", "seed"), number),
            **dict.fromkeys(("prompt", "prompt_sha256", "params", "key"), text),
            **dict.fromkeys(("prompt_tokens", "completion_tokens"), number),
            "cost": Value("float64"),
        }
    )


def row_of(
    candidate: Candidate,
    sample: Sample,
    content: bytes,
    classes: Sequence[str],
    format: ChainFormat,
    prompts: Mapping[str, str],
) -> dict[str, Any]:
    """A row of `features_of` for an accepted candidate.

    `content` is the image file's bytes; `prompts` are texts by SHA-256, as far as they are known.
    """
    parsed = parse_chain(candidate.text, format, classes, candidate.finish_reason)
    if parsed.chain is None:
        raise AssertionError("no rule accepts a text that is no chain")
    usage = candidate.usage or Usage()
    return {
        "image": {"bytes": content, "path": sample.path.name},
        "sample_id": sample.id,
        "image_sha256": sample.image_sha256,
        "domain": sample.domain,
        "label": classes.index(sample.label),
        "format": format.name,
        "chain": candidate.text,
        **{name.lower(): text for name, text in zip(format.stages, parsed.chain.stages, strict=True)},
        "concluded": parsed.label,
        "model": candidate.model,
        "source": candidate.source,
        "round": _int64(candidate.round),
        "candidate": _int64(candidate.candidate),
        "seed": _int64(candidate.seed),
        "prompt": prompts.get(candidate.prompt_sha256),
        "prompt_sha256": candidate.prompt_sha256,
        "params": canonical_json(candidate.params),
        "key": candidate.key,
        "prompt_tokens": _int64(usage.prompt_tokens),
        "completion_tokens": _int64(usage.completion_tokens),
        "cost": usage.cost,
    }


def _int64(value: int | None) -> int | None:
    """A journal of another's hand may hold a number that no column can."""
    return value if value is not None and -(2**63) <= value < 2**63 else None


class Shards:
    """Parquet files of about `shard_bytes` each in a new `folder`, written a row group at a time; a context manager."""

    def __init__(self, folder: Path, features: Any, shard_bytes: int) -> None:
        self.content_bytes = 0
        """Of images and chains, over all shards."""
        self._folder, self._shard_bytes = folder, shard_bytes
        self._schema = features.arrow_schema
        self._paths: list[Path] = []
        self._writer: Any = None
        self._rows: list[dict[str, Any]] = []
        self._group_bytes = self._file_bytes = 0
        folder.mkdir()

    def write(self, row: dict[str, Any]) -> None:
        """Appends a row of `row_of`; first ends the shard or the row group that would grow too large by it."""
        size = len(row["image"]["bytes"]) + len(row["chain"])
        if self._file_bytes and self._file_bytes + size > self._shard_bytes:
            self._end_file()
        if len(self._rows) >= ROW_GROUP_ROWS or self._group_bytes + size > ROW_GROUP_BYTES:
            self._end_group()
        self._rows.append(row)
        self._group_bytes += size
        self._file_bytes += size
        self.content_bytes += size

    def name_all(self) -> tuple[str, ...]:
        """Gives the closed shards their names, which say of how many; paths relative to the folder's parent."""
        names = []
        for number, path in enumerate(self._paths):
            name = f"train-{number:05d}-of-{len(self._paths):05d}.parquet"
            path.rename(self._folder / name)
            names.append(f"{self._folder.name}/{name}")
        return tuple(names)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._end_file()
        elif self._writer is not None:
            self._writer.close()

    def _end_group(self) -> None:
        import pyarrow
        from pyarrow import parquet

        if not self._rows:
            return
        if self._writer is None:
            self._paths.append(self._folder / f"{len(self._paths):05d}.parquet")
            self._writer = parquet.ParquetWriter(
                self._paths[-1],
                self._schema,
                compression="zstd",
                # equal for thousands of rows; of images and chains no two are equal
                use_dictionary=["domain", "label", "format", "model", "source", "prompt", "prompt_sha256", "params"],
                write_page_index=True,  # the viewer finds a page of rows without reading the group
                use_content_defined_chunking=True,  # the Hub stores again only what an export changed
            )
        self._writer.write_table(pyarrow.Table.from_pylist(self._rows, schema=self._schema))
        self._rows, self._group_bytes = [], 0

    def _end_file(self) -> None:
        self._end_group()
        if self._writer is not None:
            self._writer.close()
        self._writer, self._file_bytes = None, 0
