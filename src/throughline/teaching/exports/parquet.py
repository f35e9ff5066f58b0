"""Accepted chains as Parquet with the images inside, in shards that `datasets` loads and the Hub's viewer pages
through. Called by `export`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

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
    candidate: Candidate, sample: Sample, content: bytes, features: Any, format: ChainFormat, prompts: Mapping[str, str]
) -> dict[str, Any]:
    """A row of `features` for an accepted candidate: its own fields, but for those that say more here.

    `content` is the image file's bytes; `prompts` are texts by SHA-256, as far as they are known.
    """
    parsed = parse_chain(candidate.text, format, features["label"].names, candidate.finish_reason)
    assert parsed.chain is not None, "no rule accepts a text that is no chain"
    values = {
        **dict(candidate),
        **dict(candidate.usage or Usage()),
        "image": {"bytes": content, "path": sample.path.name},
        "sample_id": sample.id,
        "domain": sample.domain,
        "label": features["label"].str2int(sample.label),
        "chain": candidate.text,
        **{name.lower(): text for name, text in zip(format.stages, parsed.chain.stages, strict=True)},
        "concluded": parsed.label,
        "prompt": prompts.get(candidate.prompt_sha256),
        "params": canonical_json(candidate.params),
    }
    # a journal of another's hand may hold a number that no column can
    return {name: None if _is_beyond_int64(values[name]) else values[name] for name in features}


def _is_beyond_int64(value: Any) -> bool:
    return isinstance(value, int) and not -(2**63) <= value < 2**63


def write_shards(
    folder: Path, features: Any, rows: Iterable[dict[str, Any]], shard_bytes: int
) -> tuple[list[Path], int]:
    """Writes `rows` into Parquet files of about `shard_bytes` each in a new `folder`, a row group at a time; gives the
    files, and how many bytes the rows are."""
    import pyarrow
    from pyarrow import parquet

    folder.mkdir()
    paths, content_bytes = list[Path](), 0
    for shard, of_shard in groupby(_placed(rows, shard_bytes), itemgetter(0)):
        paths.append(folder / f"{shard:05d}.parquet")
        with parquet.ParquetWriter(
            paths[-1],
            features.arrow_schema,
            compression="zstd",
            # equal for thousands of rows; of images and chains no two are equal
            use_dictionary=["domain", "label", "format", "model", "source", "prompt", "prompt_sha256", "params"],
            write_page_index=True,  # the viewer finds a page of rows without reading the group
            use_content_defined_chunking=True,  # the Hub stores again only what an export changed
        ) as writer:
            for _, of_group in groupby(of_shard, itemgetter(1)):
                table = pyarrow.Table.from_pylist([row for *_, row in of_group], schema=features.arrow_schema)
                writer.write_table(table)
                content_bytes += table.nbytes
    # the names say of how many
    names = [f"train-{number:05d}-of-{len(paths):05d}.parquet" for number in range(len(paths))]
    return [path.rename(folder / name) for path, name in zip(paths, names, strict=True)], content_bytes


def _placed(rows: Iterable[dict[str, Any]], shard_bytes: int) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """The shard and the row group of each row; a row begins a new one that would make the old one too large."""
    shard = group = in_shard = in_group = group_rows = 0
    for row in rows:
        size = len(row["image"]["bytes"]) + len(row["chain"])
        ends_shard = in_shard > 0 and in_shard + size > shard_bytes
        if ends_shard:
            shard, in_shard = shard + 1, 0
        if ends_shard or group_rows == ROW_GROUP_ROWS or in_group + size > ROW_GROUP_BYTES:
            group, in_group, group_rows = group + 1, 0, 0
        yield shard, group, row
        in_shard, in_group, group_rows = in_shard + size, in_group + size, group_rows + 1
