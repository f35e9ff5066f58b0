"""Options of the verbs that open a model, `predict` and `evaluate`: where its base lies and how it is loaded."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from throughline.cli.parsing import positive_int

if TYPE_CHECKING:
    from throughline.evaluation.saved_model import Base

MODEL_HELP = "folder made by `throughline fit`; or a checkpoint, zero-shot: `pocket`, a folder, with --hub a hub name"


def add_base_arguments(parser: argparse.ArgumentParser) -> None:
    """The options behind `base_of`."""
    parser.add_argument("--batch", type=positive_int, metavar="N", help="images asked together (default: the model's)")
    parser.add_argument(
        "--checkpoint", metavar="DIR", help="where the base of a fitted model lies (default: as it was when fitted)"
    )
    parser.add_argument("--hub", action="store_true", help="allow the download of the base from the Hugging Face hub")
    parser.add_argument(
        "--tiles", type=positive_int, metavar="N", help="most tiles an image is cut into (default: the model's, or 1)"
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="type of the weights in memory (default: the model's, or float32)",
    )
    parser.add_argument(
        "--quantization",
        choices=("none", "nf4"),
        help="nf4: the decoder's weights in 4 bits (default: the model's, or none)",
    )
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="where to compute; auto: a GPU if there is one",
    )


def base_of(arguments: argparse.Namespace) -> Base:
    """What the options say about the base."""
    from throughline.evaluation.saved_model import Base

    return Base(
        arguments.checkpoint, arguments.hub, arguments.tiles, arguments.dtype, arguments.quantization, arguments.device
    )
