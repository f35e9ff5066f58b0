"""Export of a chain store: the accepted chains with their images inside as Parquet, in shards that `datasets` loads and
the Hub's viewer pages through, with a dataset card, and as the JSONL of `trainer_formats`. The folder appears whole or
not at all. Called by `throughline chains export`.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from throughline.chains.formats import ChainFormat
from throughline.chains.parsing import parse_chain
from throughline.chains.records import Candidate, Usage
from throughline.chains.store import ChainStore
from throughline.core.errors import ThroughlineError
from throughline.core.files import canonical_json, readable_os_errors, require_free_folder, whole_folder, write_json
from throughline.domains.samples import ImageSet, Sample
from throughline.questions.question_set import make_question_set
from throughline.teaching.exports.card import card_text
from throughline.teaching.exports.selection import MARKED, ExportPlan, ExportSummary, select
from throughline.teaching.exports.trainer_formats import DATASET_INFO, IMAGES, JSONL, TRAINERS, write_trainer_files

CARD, MARKER, DATA = "README.md", "throughline-export.json", "data"
# The viewer fetches whole row groups to show a page of 100 rows; large images end a group earlier.
ROW_GROUP_ROWS, ROW_GROUP_BYTES = 100, 64_000_000


def export_chains(
    store: Path,
    folder: Path,
    plan: ExportPlan,
    *,
    shard_bytes: int = 400_000_000,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> ExportSummary:
    """Writes the chains of `store` (a folder of journals, or one journal) that the plan selects into `folder`.

    A Parquet shard holds about `shard_bytes` of images and texts; `on_progress` gets (samples done, of how many).
    The folder appears whole, at the end: a killed export leaves what stood there before. ThroughlineError when it
    holds anything but an export, when nothing is accepted, and when images or store cannot be read or change
    meanwhile.
    """
    folder = folder.resolve()  # a rename would replace a symbolic link, not the folder behind it
    _require_free(folder)
    images, format = plan.images, plan.format
    chains, chosen, summary = select(store, folder, plan)
    features = _features_of(images.classes, format)
    with whole_folder(folder, replace=True) as draft, readable_os_errors(folder):
        rows = (
            _row_of(candidate, sample, content, features, plan, chains.prompts)
            for sample, content, candidate in _chains_with_images(chains, chosen, images, on_progress)
        )
        shards, content_bytes = _write_shards(draft / DATA, features, rows, shard_bytes)
        texts = (
            (images.samples[place], candidate.text)
            for place, candidate in zip(chosen["place"], chains.read(chosen.index), strict=True)
        )
        questions = make_question_set(images.classes, format, names=images.names)
        jsonl_rows, marked = write_trainer_files(draft / JSONL, texts, questions, plan.with_labels)
        summary = replace(
            summary,
            shards=tuple(f"{DATA}/{path.name}" for path in shards),
            jsonl_rows=jsonl_rows,
            left_out=summary.left_out | {MARKED: sorted(marked)},
        )
        card = card_text(plan, summary, chosen, chains.prompts, features, shards, content_bytes)
        (draft / CARD).write_text(card, "utf-8")
        write_json(draft / MARKER, _marker(plan, summary))
    return summary


def _chains_with_images(
    chains: ChainStore, chosen: Any, images: ImageSet, on_progress: Callable[[int, int], None]
) -> Iterator[tuple[Sample, bytes, Any]]:
    """Sample, the bytes of its image file, candidate; a file with several chains is read once."""
    candidates = zip(chosen["place"], chains.read(chosen.index), strict=True)
    total = chosen["place"].nunique()
    for done, (place, of_sample) in enumerate(groupby(candidates, itemgetter(0)), start=1):
        sample = images.samples[place]
        content = _image_bytes(sample)
        for _, candidate in of_sample:
            yield sample, content, candidate
        on_progress(done, total)


def _image_bytes(sample: Sample) -> bytes:
    """The image file's own bytes: nothing is decoded or written anew."""
    try:
        content = sample.path.read_bytes()
    except OSError as error:
        raise ThroughlineError(f"cannot read the image: {error.strerror}", sample.path, "export again") from error
    if hashlib.sha256(content).hexdigest() != sample.image_sha256:
        raise ThroughlineError("the image changed while it was exported", sample.path, "export again")
    return content


def _marker(plan: ExportPlan, summary: ExportSummary) -> dict[str, Any]:
    """What a program may want to know of the export, and which files are its own."""
    return {
        "kind": "throughline chains export",
        "schema": 1,
        "format": plan.format.name,
        "classes": list(plan.images.classes),
        "names": dict(plan.images.names),
        "rule": plan.rule,
        "every_accepted": plan.every_accepted,
        "with_labels": plan.with_labels,
        "chains": summary.chains,
        "images": summary.images,
        "jsonl_rows": summary.jsonl_rows,
        "files": [CARD, MARKER, *summary.shards] + [f"{JSONL}/{name}" for name in (*TRAINERS, DATASET_INFO, IMAGES)],
    }


def _require_free(folder: Path) -> None:
    """Raises a ThroughlineError unless the folder is absent, empty, or an export with nothing else in it."""
    if not (folder / MARKER).is_file():
        require_free_folder(folder)
        return
    written = set(json.loads((folder / MARKER).read_text())["files"])
    held = {path.name for path in folder.iterdir()} - {DATA, JSONL}
    held |= {f"{part}/{path.name}" for part in (DATA, JSONL) for path in (folder / part).glob("*")}
    for name in sorted(held - written):
        raise ThroughlineError(
            f"the folder holds {name}, which no export wrote", folder, "move it away, or name another folder"
        )


# the Parquet -----------------------------------------------------------------------------------------------------


def _features_of(classes: Sequence[str], format: ChainFormat) -> Any:
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


def _row_of(
    candidate: Candidate, sample: Sample, content: bytes, features: Any, plan: ExportPlan, prompts: Mapping[str, str]
) -> dict[str, Any]:
    """A row of `features` for an accepted candidate: its own fields, but for those that say more here.

    `content` is the image file's bytes; `prompts` are texts by SHA-256, as far as they are known.
    """
    images, format = plan.images, plan.format
    parsed = parse_chain(candidate.text, format, images.classes, candidate.finish_reason, images.names)
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


def _write_shards(
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
