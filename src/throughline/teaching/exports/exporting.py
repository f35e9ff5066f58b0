"""Export of a chain store: the accepted chains with their images as Parquet that `datasets` loads and the Hub's viewer
shows, with a dataset card, and as the JSONL of `trainer_formats`. The folder appears whole or not at all. Called by
`throughline chains export`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from throughline.chains.formats import ChainFormat
from throughline.core.errors import ThroughlineError
from throughline.core.files import told_in_one_line, write_atomically, write_json
from throughline.domains.samples import ImageSet, Sample
from throughline.questions.question_set import make_question_set
from throughline.teaching.exports.dataset_card import Exported, card_text, front_matter
from throughline.teaching.exports.parquet import Shards, features_of, row_of
from throughline.teaching.exports.records import ExportPlan, ExportSummary, LeftOut
from throughline.teaching.exports.selecting import Chosen, Survey
from throughline.teaching.exports.trainer_formats import DATASET_INFO, IMAGES, TRAINERS, TrainerFiles, how_to_train

if sys.platform != "win32":
    import fcntl

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
    told: Callable[[int, int], None] = lambda done, total: None,
) -> ExportSummary:
    """Writes the chains of `store` (a folder of journals, or one journal) that `rule` accepts into `folder`.

    For each sample the first accepted candidate (lowest round and candidate number, then the first read), or all of
    them with `every_accepted`; none that a judge model did not agree with. `with_labels` adds the label question to
    the JSONL; `licence` is the Hub's identifier (`cc-by-4.0`); `measured` is a section of the
    card, in Markdown; a Parquet shard holds about `shard_bytes` of images and
    texts; `told` gets (samples done, of how many).

    The folder appears whole, at the end: a killed export leaves what stood there before. ThroughlineError when it
    holds anything but an export, when nothing is accepted, and when images or store cannot be read or change
    meanwhile.
    """
    folder = folder.resolve()  # a rename would replace a symbolic link, not the folder behind it
    _require_free(folder)
    plan = ExportPlan(images, format, rule, every_accepted, with_labels, licence, measured)
    survey = Survey(plan)
    survey.read(store)
    chosen = survey.chosen()
    if not chosen:
        judge = " and by the judge" if survey.vetoed else ""
        raise ThroughlineError(
            f"none of {survey.spent.answers:,} answers is accepted by rule {rule} in format {format.name}{judge}",
            store,
            "name a store about these images, or another rule or format",
        )
    with _whole_or_absent(folder) as draft:
        return _write(draft, folder, plan, survey, chosen, shard_bytes, told)


def _write(
    draft: Path,
    folder: Path,
    plan: ExportPlan,
    survey: Survey,
    chosen: Chosen,
    shard_bytes: int,
    told: Callable[[int, int], None],
) -> ExportSummary:
    """Fills the draft, which will be `folder`."""
    classes, format = plan.images.classes, plan.format
    features, exported = features_of(classes, format), Exported()
    with (
        Shards(draft / DATA, features, shard_bytes) as shards,
        TrainerFiles(draft / JSONL, make_question_set(classes, format), plan.with_labels) as trainers,
    ):
        for done, (sample, candidates) in enumerate(survey.read_again(chosen), start=1):
            content = _image_bytes(sample)
            for candidate in candidates:
                shards.write(row_of(candidate, sample, content, classes, format, survey.prompts))
                trainers.write(sample, content, candidate.text)
            exported.add(sample, candidates)
            told(done, len(chosen))
    summary = ExportSummary(
        folder=folder,
        rule=plan.rule,
        chains=exported.spent.answers,
        images=len(chosen),
        asked=len(survey.asked),
        accepted=survey.accepted(),
        shards=shards.name_all(),
        jsonl_rows=trainers.rows,
        spent=survey.spent,
        spent_on_exported=exported.spent,
        failed=len(survey.failed),
        duplicates=survey.duplicates,
        other_format=survey.other_format,
        other_classes=survey.other_classes,
        vetoed=survey.vetoed,
        missing=LeftOut.of(survey.missing),
        changed=LeftOut.of(survey.changed),
        problems=LeftOut(survey.problem_count, tuple(survey.problems)),
        marked=LeftOut.of(sample_id for sample_id, _ in trainers.left_out),
    )
    parquet_bytes = sum((draft / name).stat().st_size for name in summary.shards)
    head = front_matter(
        summary.chains, features, f"{DATA}/*.parquet", shards.content_bytes, parquet_bytes, plan.licence
    )
    text = card_text(plan, summary, exported, survey.prompts, how_to_train(JSONL, plan.with_labels))
    write_atomically(draft / CARD, head + text)
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


@contextlib.contextmanager
def _whole_or_absent(folder: Path) -> Iterator[Path]:
    """A draft folder beside `folder` that takes its place when the block ends well, and goes when it does not.

    What a killed export left of its draft is cleared by the next; two at once are refused.
    """
    draft, old = (folder.with_name(f".{folder.name}.{suffix}") for suffix in ("exporting", "replaced"))
    with told_in_one_line(folder):
        draft.mkdir(parents=True, exist_ok=True)
        handle = _locked(draft)
        try:
            for left in draft.iterdir():
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            yield draft
            _flush(draft)
            if old.exists():
                shutil.rmtree(old)
            if folder.exists():
                folder.rename(old)
            draft.rename(folder)
            shutil.rmtree(old, ignore_errors=True)
        except BaseException:
            if old.exists() and not folder.exists():
                old.rename(folder)
            shutil.rmtree(draft, ignore_errors=True)
            raise
        finally:
            if handle is not None:
                os.close(handle)


def _locked(folder: Path) -> int | None:
    if sys.platform == "win32":
        return None
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise ThroughlineError("another export is writing here", folder, "wait for it") from error
    return handle


def _flush(folder: Path) -> None:
    """Makes the disk hold the files before the rename, for a power cut. Not the JSONL's images: they are links to files
    that the disk holds, or copies of them."""
    for path in (*(folder / DATA).iterdir(), *(folder / JSONL).glob("*.json*")):
        with path.open("r+b") as file:
            os.fsync(file.fileno())
