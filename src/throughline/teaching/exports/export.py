"""Export of a chain store: the accepted chains with their images as Parquet that `datasets` loads and the Hub's viewer
shows, with a dataset card, and as the JSONL of `trainer_formats`. The folder appears whole or not at all. Called by
`throughline chains export`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from throughline.chains.formats import ChainFormat
from throughline.core.errors import ThroughlineError
from throughline.core.files import canonical_json, readable_os_errors, whole_folder, write_atomically, write_json
from throughline.domains.samples import ImageSet, Sample
from throughline.questions.question_set import make_question_set
from throughline.teaching.exports.card import card_text, front_matter
from throughline.teaching.exports.parquet import Shards, features_of, row_of
from throughline.teaching.exports.records import ExportPlan, ExportSummary, LeftOut, Spent
from throughline.teaching.exports.selection import Selection, select
from throughline.teaching.exports.trainer_formats import DATASET_INFO, IMAGES, TRAINERS, TrainerFiles

CARD, MARKER, DATA, JSONL = "README.md", "throughline-export.json", "data", "jsonl"


def export_chains(
    store: Path,
    folder: Path,
    images: ImageSet,
    *,
    rule: str = "correct",
    format: ChainFormat,
    every_accepted: bool = False,
    with_labels: bool = False,
    licence: str | None = None,
    measured: str | None = None,
    shard_bytes: int = 400_000_000,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> ExportSummary:
    """Writes the chains of `store` (a folder of journals, or one journal) that `rule` accepts into `folder`.

    For each sample the first accepted candidate (lowest round and candidate number, then the first read), or all of
    them with `every_accepted`; none that a judge model did not agree with. `with_labels` adds the label question to
    the JSONL; `licence` is the Hub's identifier (`cc-by-4.0`); `measured` is a section of the card, in Markdown; a
    Parquet shard holds about `shard_bytes` of images and texts; `on_progress` gets (samples done, of how many).

    The folder appears whole, at the end: a killed export leaves what stood there before. ThroughlineError when it
    holds anything but an export, when nothing is accepted, and when images or store cannot be read or change
    meanwhile.
    """
    folder = folder.resolve()  # a rename would replace a symbolic link, not the folder behind it
    _require_free(folder)
    plan = ExportPlan(images, format, rule, every_accepted, with_labels, licence, measured)
    selection = select(store, folder, plan)
    if not selection.chosen:
        judge = " and by the judge" if selection.summary.vetoed else ""
        raise ThroughlineError(
            f"none of {selection.summary.spent.answers:,} answers is accepted by rule {rule} in format "
            f"{format.name}{judge}",
            store,
            "name a store about these images, or another rule or format",
        )
    with whole_folder(folder, replace=True) as draft, readable_os_errors(folder):
        summary = _write(draft, plan, selection, shard_bytes, on_progress)
        _flush(draft)
    return summary


def _write(
    draft: Path, plan: ExportPlan, selection: Selection, shard_bytes: int, on_progress: Callable[[int, int], None]
) -> ExportSummary:
    """Fills the draft of the export's folder."""
    classes, format, prompts = plan.images.classes, plan.format, selection.store.prompts
    features, teachers = features_of(classes, format), Counter[tuple[str, str, str]]()
    candidates = selection.store.read(selection.exported.index)
    with (
        Shards(draft / DATA, features, shard_bytes) as shards,
        TrainerFiles(draft / JSONL, make_question_set(classes, format), plan.with_labels) as trainers,
    ):
        for done, (sample, rows) in enumerate(selection.chosen, start=1):
            content = _image_bytes(sample)
            for _ in rows:
                candidate = next(candidates)
                shards.write(row_of(candidate, sample, content, classes, format, prompts))
                trainers.write(sample, content, candidate.text)
                teachers[candidate.model, candidate.source, canonical_json(candidate.params)] += 1
            on_progress(done, len(selection.chosen))
    summary = replace(
        selection.summary,
        chains=teachers.total(),
        shards=shards.name_all(),
        jsonl_rows=trainers.rows,
        spent_on_exported=Spent.on(selection.exported),
        marked=LeftOut.of(sample_id for sample_id, _ in trainers.left_out),
    )
    parquet_bytes = sum((draft / name).stat().st_size for name in summary.shards)
    head = front_matter(
        summary.chains, features, f"{DATA}/*.parquet", shards.content_bytes, parquet_bytes, plan.licence
    )
    write_atomically(draft / CARD, head + card_text(plan, selection, summary, teachers, JSONL))
    write_json(draft / MARKER, _marker(plan, summary))
    return summary


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
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ThroughlineError("a file is in the way of the export", folder, "name a folder")
    held = {path.name for path in folder.iterdir()}
    if not held:
        return
    try:
        written = set(json.loads((folder / MARKER).read_text())["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ThroughlineError(
            "the folder is not empty and no export of ours", folder, "name an empty folder"
        ) from error
    inside = {f"{part}/{path.name}" for part in (DATA, JSONL) if part in held for path in (folder / part).iterdir()}
    foreign = sorted((held - {DATA, JSONL} | inside) - written)
    if foreign:
        raise ThroughlineError(
            f"the folder holds {foreign[0]}, which no export wrote", folder, "move it away, or name another folder"
        )


def _flush(folder: Path) -> None:
    """Makes the disk hold the files before the rename, for a power cut. Not the JSONL's images: they are links to files
    that the disk holds, or copies of them."""
    for path in (*(folder / DATA).iterdir(), *(folder / JSONL).glob("*.json*")):
        with path.open("r+b") as file:
            os.fsync(file.fileno())
