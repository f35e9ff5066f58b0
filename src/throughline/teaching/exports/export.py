"""Export of a chain store: the accepted chains with their images as Parquet that `datasets` loads and the Hub's viewer
shows, with a dataset card, and as the JSONL of `trainer_formats`. The folder appears whole or not at all. Called by
`throughline chains export`.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from throughline.chains.store import ChainStore
from throughline.core.errors import ThroughlineError
from throughline.core.files import readable_os_errors, require_free_folder, whole_folder, write_atomically, write_json
from throughline.domains.samples import ImageSet, Sample
from throughline.questions.question_set import make_question_set
from throughline.teaching.exports.card import card_text
from throughline.teaching.exports.parquet import features_of, row_of, write_shards
from throughline.teaching.exports.selection import MARKED, ExportPlan, ExportSummary, select
from throughline.teaching.exports.trainer_formats import DATASET_INFO, IMAGES, TRAINERS, write_trainer_files

CARD, MARKER, DATA, JSONL = "README.md", "throughline-export.json", "data", "jsonl"


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
    features = features_of(images.classes, format)
    with whole_folder(folder, replace=True) as draft, readable_os_errors(folder):
        rows = (
            row_of(candidate, sample, content, features, format, chains.prompts)
            for sample, content, candidate in _chains_with_images(chains, chosen, images, on_progress)
        )
        shards, content_bytes = write_shards(draft / DATA, features, rows, shard_bytes)
        texts = (
            (images.samples[place], candidate.text)
            for place, candidate in zip(chosen["place"], chains.read(chosen.index), strict=True)
        )
        questions = make_question_set(images.classes, format)
        jsonl_rows, marked = write_trainer_files(draft / JSONL, texts, questions, plan.with_labels)
        summary = replace(
            summary,
            shards=tuple(f"{DATA}/{path.name}" for path in shards),
            jsonl_rows=jsonl_rows,
            left_out=summary.left_out | {MARKED: sorted(marked)},
        )
        card = card_text(plan, summary, chosen, chains.prompts, features, shards, content_bytes, JSONL)
        write_atomically(draft / CARD, card)
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
