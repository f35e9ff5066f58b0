"""A manifest: which images are asked about, fixed with the hash of each file before a model sees any of them.

It is an image table, so everything that reads images reads it, and compares the files with it; or the table of
multiple-choice questions that VLMEvalKit asks from, a TSV file, which reads back as the same images. `throughline data
sample` writes both; every run writes manifests of its own (`experiment.manifest`).

The TSV has the fields of open-compass/VLMEvalKit, `docs/en/Development.md`; there `build_prompt` of
`vlmeval/dataset/image_mcq.py` takes options by the letters A to Z, and `report_acc` counts by `category` and by
`l2-category`: here class and domain.
"""

import string
from collections.abc import Iterable, Sequence
from pathlib import Path

from throughline.core.errors import ThroughlineError
from throughline.core.files import write_atomically
from throughline.domains.samples import ImageSet, Sample, in_words
from throughline.domains.tables import OPTIONAL, Row, beside, csv_text, image_table


def manifest_rows(images: ImageSet, samples: Iterable[Sample]) -> list[Row]:
    """A row of the image table for each of these samples of an image set, with the sample's id for its path."""
    return [
        {
            "image": sample.id,
            "domain": sample.domain,
            "label": "|".join(sample.labels),
            "group": sample.group or "",
            "class_name": "|".join(images.names.get("|".join(sample.labels), ())),
            "parent_id": sample.parent_id or "",
            "image_sha256": sample.image_sha256,
            "labels": "|".join(sample.labels) if sample.task == "multi" else "",
        }
        for sample in samples
    ]


def write_manifest(images: ImageSet, samples: Iterable[Sample], out: Path, question: str) -> None:
    """Lists samples of an image set in `out`: an image table, or, where it ends in .tsv, multiple-choice questions of
    VLMEvalKit's form that ask `question`.

    Raises a ThroughlineError where `out` is there already, where images do not lie below its folder, and for more
    classes than VLMEvalKit has letters.
    """
    rows = beside(out, images.root, manifest_rows(images, samples))
    is_choice = out.suffix.lower() == ".tsv"
    write_atomically(out, question_table(rows, images, question) if is_choice else image_table(rows))


# the form of VLMEvalKit ----------------------------------------------------------------------------------------------

QUESTIONS = {"image": "image_path", "domain": "l2-category", "label": "category", "answer": "answer"}
"""Its columns by the names of the image table; the first one tells it from others."""
LETTERS = string.ascii_uppercase


def question_table(rows: Sequence[Row], images: ImageSet, question: str) -> str:
    """Rows of the image table as questions with the classes as options, in their order, by display name where they have
    one. What the form has no place for, groups and hashes, stands in columns behind it.

    Raises a ThroughlineError for more classes than there are letters.
    """
    classes, names = images.classes, images.names
    if len(classes) > len(LETTERS):
        what = f"the form has {len(LETTERS)} options, A to Z, and there are {len(classes)} classes"
        raise ThroughlineError(what, do="name a .csv, which has no such limit")
    if any(row["labels"] for row in rows):
        raise ThroughlineError("the form has one answer, and images here may have several labels", do="name a .csv")
    options = dict(zip(LETTERS, (in_words(names.get(label, [label])[0]) for label in classes), strict=False))
    optional = [name for name in OPTIONAL if any(row.get(name) for row in rows)]
    head = ["index", "image_path", "question", *options, "answer", "category", "l2-category", "split", *optional]
    body = (
        [
            *(str(index), row["image"], question, *options.values()),
            *(LETTERS[classes.index(row["label"])], row["label"], row["domain"], "all"),
            *(row.get(name, "") for name in optional),
        ]
        for index, row in enumerate(rows)
    )
    return csv_text([head, *body], "\t")


def require_answer(table: Path, number: int, row: Row) -> None:
    """Raises a ThroughlineError for a row whose answer is not its class: in a table of other questions the category is
    something else."""
    option, name = row.get(row.get("answer", "")), (row.get("class_name") or row["label"]).split("|")[0]
    if "answer" in row and option != in_words(name):
        what = f"row {number} is answered by {option!r}, and its category is {row['label']!r}"
        raise ThroughlineError(what, table, "what is read of this form are images by class: throughline data sample")
