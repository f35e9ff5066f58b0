"""`throughline predict MODEL IMAGE…`: label, confidence and chain of single images or whole folders."""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from throughline.cli.options import ModelName, Shown, add_model_options, add_settings, open_chosen
from throughline.cli.progress import progress
from throughline.cli.text import counted, json_text
from throughline.core.errors import ThroughlineError, UsageError
from throughline.core.settings import Settings

if TYPE_CHECKING:
    from throughline.evaluation.image_answers import ImageAnswer

STDOUT = "-"
CHAINS_SHOWN = 3
"""With more images the table would drown in chains; --csv and --json have all of them."""


class Asking(Settings):
    """What the images are asked, and where the answers go."""

    model: ModelName
    images: Annotated[tuple[Path, ...], Shown("IMAGE|FOLDER", positional=True, several="+")]
    """Image files, or folders that are walked for them."""
    classes: Annotated[tuple[str, ...] | None, Shown("A,B,C")] = None
    """Classes to choose from, zero-shot (default: those the model was fitted on; needed for a checkpoint)."""
    no_chain: bool = False
    """Label and confidence only, without the slow reasoning path."""
    csv: Annotated[str | None, Shown("FILE")] = None
    """Write image,label,confidence,reasoning_label,agree,outcome,chain; - is stdout (default: a table)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    add_settings(parser, Asking)
    add_model_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Answers every image; afterwards a ThroughlineError if some could not be read."""
    if arguments.json and arguments.csv == STDOUT:
        raise UsageError("--json and --csv - both want stdout", do="give --csv a file")
    from throughline.core.files import require_writable, write_atomically
    from throughline.domains.listing import find_images
    from throughline.evaluation.saved_model import find_record, require_class_names

    # Everything that can be at fault without a model is found before one is loaded.
    images = find_images(arguments.images)
    if arguments.csv not in (None, STDOUT):
        require_writable(Path(arguments.csv))
    if arguments.classes is not None:
        require_class_names(arguments.classes)
    elif find_record(arguments.model, arguments.hub) is None:
        raise UsageError(
            f"{arguments.model} is a plain checkpoint, without classes", do="name them with --classes a,b,c"
        )
    answers = []
    streamed = arguments.csv == STDOUT
    if streamed:
        print(_csv([_columns()]), end="")
    for answer in _answers(arguments, images):
        answers.append(answer)
        if streamed:
            print(_csv([answer.cells()]), end="", flush=True)
    if arguments.csv is not None and not streamed:
        write_atomically(Path(arguments.csv), _csv([_columns(), *(answer.cells() for answer in answers)]))
    if arguments.json:
        print(json_text([answer.to_json() for answer in answers]))
    elif arguments.csv is None:
        print(_table(answers, chains=not arguments.no_chain), end="")
    _refuse_faults(answers)
    return 0


def _answers(arguments: argparse.Namespace, images: Sequence[Path]) -> Iterator[ImageAnswer]:
    from throughline.evaluation.image_answers import predict

    model = open_chosen(arguments, arguments.classes)
    with progress("answering", "images") as report_progress:
        yield from predict(model, images, chains=not arguments.no_chain, on_progress=report_progress)


def _columns() -> tuple[str, ...]:
    from throughline.evaluation.image_answers import COLUMNS

    return COLUMNS


def _csv(rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _table(answers: Sequence[ImageAnswer], chains: bool) -> str:
    from throughline.core.table import tabulate
    from throughline.reporting.text import to_terminal

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
        raise ThroughlineError(f"{count}, all others are answered: {faults[0].fault}")
