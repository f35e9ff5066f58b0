"""`throughline predict MODEL IMAGE…`: label, confidence and chain of single images or whole folders."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from throughline.cli.options import ModelName, Shown, add_model_options, add_settings, open_chosen
from throughline.cli.progress import progress, say
from throughline.cli.text import counted, json_text
from throughline.core.errors import Interrupted, ThroughlineError, UsageError
from throughline.core.files import content_hash, require_writable
from throughline.core.settings import Settings
from throughline.core.table import tabulate
from throughline.core.untrusted import shown_path
from throughline.domains.folders import hash_files
from throughline.domains.listing import find_images
from throughline.domains.tables import csv_text
from throughline.evaluation import answer_table
from throughline.evaluation.saved_model import ModelRecord, find_record, require_class_names
from throughline.mllm.checkpoints import fingerprint_checkpoint
from throughline.reporting.text import to_terminal

if TYPE_CHECKING:  # brings torch
    from throughline.evaluation.image_answers import ImageAnswer

STDOUT = "-"
CHAINS_SHOWN = 3
"""With more images the table would drown in chains; --csv and --json have all of them."""

OPTIONS = ("no_chain", "min_confidence", "require_agreement", "tiles", "dtype", "quantization")
"""What answers depend on beside the model, the classes and the images."""


class Asking(Settings):
    """What the images are asked, and where the answers go."""

    model: ModelName
    images: Annotated[tuple[Path, ...], Shown("IMAGE|FOLDER", positional=True, several="+")]
    """Image files, or folders that are searched for them."""
    classes: Annotated[tuple[str, ...] | None, Shown("A,B,C")] = None
    """Classes to choose from (default: those of the fitted model; a plain checkpoint needs this option)."""
    no_chain: bool = False
    """Give label and confidence only, without the slow reasoning path."""
    min_confidence: Annotated[float, Shown("P")] = Field(default=0.0, ge=0, le=1)
    """Write `unknown` as the label if its confidence is below this."""
    require_agreement: bool = False
    """Write `unknown` as the label if the chain concludes in another class or in none."""
    csv: Annotated[str | None, Shown("FILE")] = None
    """Write a CSV file with image,label,confidence,reasoning_label,agree,outcome,chain, one row at a time; the same
    command continues it; - is stdout (default: a table in the terminal, which cannot be continued)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    add_settings(parser, Asking)
    add_model_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Answers every image; afterwards a ThroughlineError if some could not be read."""
    images, record = _checked(arguments)
    table = Path(arguments.csv) if arguments.csv not in (None, STDOUT) else None
    rows = _open_table(arguments, images, record) if table is not None else {}
    if rows:
        say(f"{len(rows):,} of {counted(len(images), 'image')} already have an answer in {table}")
    answers = []
    try:
        for answer in _answers(arguments, [*images.values()], {*rows}) if len(rows) < len(images) else ():
            answers.append(answer)
            rows[answer.image] = answer.cells()
            if table is not None:
                answer_table.add_row(table, rows[answer.image])
    except KeyboardInterrupt:
        if table is None:
            raise Interrupted("interrupted: without --csv FILE the same command starts from the beginning") from None
        raise
    if table is not None and [*rows] != [*images]:
        answer_table.write_table(table, (rows[name] for name in images))
    if arguments.json:
        print(json_text([answer.to_json() for answer in answers]))
    elif arguments.csv is None:
        print(_table(answers, chains=not arguments.no_chain), end="")
    _refuse_faults(answers)
    return 0


def _checked(arguments: argparse.Namespace) -> tuple[dict[str, Path], ModelRecord | None]:
    """The images by name and the model's record; a ThroughlineError for what is at fault without a model loaded."""
    if arguments.json and arguments.csv == STDOUT:
        raise UsageError("--json and --csv - both write to stdout", do="give --csv a file")
    if arguments.require_agreement and arguments.no_chain:
        raise UsageError("--require-agreement needs chains", do="leave out --no-chain")
    images = {shown_path(image): image for image in find_images(arguments.images)}
    if arguments.csv not in (None, STDOUT):
        require_writable(Path(arguments.csv))
    if arguments.classes is not None:
        require_class_names(arguments.classes)
    record = find_record(arguments.model, arguments.hub)
    if record is None and arguments.classes is None:
        raise UsageError(
            f"{arguments.model} is a plain checkpoint, without classes", do="name them with --classes a,b,c"
        )
    holds_back = arguments.min_confidence or arguments.require_agreement
    unknown = answer_table.UNKNOWN
    if holds_back and unknown in (arguments.classes or getattr(record, "classes", ())):
        raise UsageError(f"a class has the name {unknown}, which is used for uncertain answers", do="rename the class")
    return images, record


def _open_table(
    arguments: argparse.Namespace, images: dict[str, Path], record: ModelRecord | None
) -> dict[str, answer_table.Row]:
    """The rows of the CSV file, which is of answers of this model with these options."""
    contents = (content if isinstance(content, str) else None for content in hash_files(images.values()))
    asked = {
        "model": content_hash(record.inputs) if record is not None else fingerprint_checkpoint(arguments.model),
        "classes": content_hash(arguments.classes),
        **{name: getattr(arguments, name) for name in OPTIONS},
    }
    return answer_table.open_table(Path(arguments.csv), asked, dict(zip(images, contents, strict=True)))


def _answers(arguments: argparse.Namespace, images: Sequence[Path], answered: set[str]) -> Iterator[ImageAnswer]:
    """About all images but those answered before; rows for stdout are printed on the way."""
    from throughline.evaluation.image_answers import predict

    to_stdout = arguments.csv == STDOUT
    print(csv_text([answer_table.COLUMNS]) if to_stdout else "", end="")
    model = open_chosen(arguments, arguments.classes)
    with progress("answering", "images") as report_progress:
        chains = not arguments.no_chain
        for answer in predict(model, images, chains=chains, answered=answered, on_progress=report_progress):
            sure = answer.or_unknown(arguments.min_confidence, arguments.require_agreement)
            print(csv_text([sure.cells()]) if to_stdout else "", end="", flush=to_stdout)
            yield sure


def _table(answers: Sequence[ImageAnswer], chains: bool) -> str:
    columns: dict[str, Callable[[ImageAnswer], str]] = {
        "image": lambda answer: answer.image,
        "label": lambda answer: answer.label or f"({answer.outcome})",
        "confidence %": lambda answer: "" if answer.confidence is None else f"{100 * answer.confidence:.1f}",
    }
    if chains:
        columns |= {
            "reasoning label": lambda answer: answer.reasoning_label or "",
            "agree": lambda answer: {None: "", True: "yes", False: "no"}[answer.agree],
            "chain": lambda answer: str(answer.outcome),
        }
    text = to_terminal(tabulate(counted(len(answers), "image"), answers, columns))
    shown = [answer for answer in answers if answer.chain]
    if len(answers) <= CHAINS_SHOWN:
        return text + "".join(f"\n{answer.image}\n{answer.chain}\n" for answer in shown)
    return text + ("chains: --csv FILE or --json\n" if shown else "")


def _refuse_faults(answers: Sequence[ImageAnswer]) -> None:
    faults = [answer for answer in answers if answer.fault]
    for answer in faults[1:]:
        print(f"note: {answer.fault}", file=sys.stderr)
    if faults:
        count = f"{len(faults)} of {len(answers)} images could not be read"
        raise ThroughlineError(f"{count}, all others have an answer: {faults[0].fault}")
