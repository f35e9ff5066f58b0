"""`throughline fit DIR --out MODEL`: trains the final model on all domains; the same call continues a stopped one."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

from throughline.cli.parsing import positive_int
from throughline.training.methods import METHODS

SUMMARY = "train the final model on all domains of a folder"

METHOD_CHOICES = tuple(name for name, method in METHODS.items() if method.trains and method.steps_like is None)

# Option: key of the config that it changes.
CHANGES = {
    "checkpoint": "model.checkpoint",
    "hub": "model.hub",
    "tiles": "model.tiles",
    "dtype": "model.dtype",
    "quantization": "model.quantization",
    "device": "model.device",
    "epochs": "training.stage.epochs",
    "batch": "training.stage.batch",
    "micro_batch": "training.stage.micro_batch",
    "lr": "training.stage.lr",
    "rounds": "training.rounds",
    "auto_batch": "training.stage.auto_batch",
    "threads": "threads",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options. Those without a default of their own take the preset's value."""
    parser.add_argument(
        "images",
        type=Path,
        metavar="DIR",
        help="folder <domain>/<class>/<image>, or .csv/.parquet with columns image, domain, label[, group]",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="MODEL", help="folder of the model")
    parser.add_argument(
        "--method", choices=METHOD_CHOICES, help="what is trained (default: cls without --chains, mtct_sarr with)"
    )
    parser.add_argument(
        "--chains",
        metavar="JOURNAL|describer",
        help="reasoning chains: a journal (JSONL), a folder of them, or `describer` for a drawn world (default: none)",
    )
    parser.add_argument(
        "--preset",
        metavar="NAME|FILE.yaml",
        help="config whose model and training are taken, e.g. demo, paper/pacs (default: demo for the pocket "
        "checkpoint, else the paper's values)",
    )
    parser.add_argument(
        "--run",
        type=Path,
        metavar="RUN",
        help="a finished run on the same images: its held-out results go into the model's card (default: none)",
    )
    parser.add_argument("--seed", type=_whole, default=0, help="whole number of the draws in training")
    _add_model_arguments(parser)
    _add_training_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the model's record as JSON on stdout")


def _add_model_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    group.add_argument(
        "--checkpoint", help="base: `pocket`, a folder, or with --hub a hub name (default: the preset's, or pocket)"
    )
    group.add_argument("--hub", action="store_true", default=None, help="allow the download from the hub")
    group.add_argument(
        "--tiles", type=positive_int, metavar="N", help="most tiles an image is cut into (default: the preset's, or 1)"
    )
    group.add_argument(
        "--dtype", choices=("float32", "bfloat16"), help="weights in memory (default: the preset's, or float32)"
    )
    group.add_argument(
        "--quantization",
        choices=("none", "nf4"),
        help="nf4: the decoder's weights in 4 bits, for less memory (default: the preset's, or none)",
    )
    group.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), help="where to compute (default: the preset's, or auto)"
    )
    group.add_argument(
        "--threads", type=positive_int, metavar="N", help="CPU threads; changes last bits (default: the preset's, or 1)"
    )


def _add_training_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("training")
    group.add_argument("--epochs", type=_positive, metavar="X", help="passes a stage (default: the preset's, or 3)")
    group.add_argument(
        "--batch", type=positive_int, metavar="N", help="samples behind one step (default: the preset's, or 128)"
    )
    group.add_argument(
        "--micro-batch",
        type=positive_int,
        metavar="N",
        help="samples in one forward pass: memory, not the result (default: the preset's, or 8)",
    )
    group.add_argument("--lr", type=_positive, metavar="X", help="peak learning rate (default: the preset's, or 5e-4)")
    group.add_argument(
        "--rounds", type=positive_int, metavar="N", help="rounds of self-labelling (default: the preset's, or 3)"
    )
    group.add_argument(
        "--auto-batch",
        action="store_true",
        default=None,
        help="halve the micro-batch when GPU memory runs out",
    )


def run(arguments: argparse.Namespace) -> int:
    """Fits, or says that the model is there already."""
    from throughline.cli.watching import watching
    from throughline.core.files import write_atomically
    from throughline.evaluation.model_card import model_card
    from throughline.experiment.fitting import fit_config, fit_model

    chosen = {key: getattr(arguments, option) for option, key in CHANGES.items()}
    config = fit_config(
        arguments.images,
        method=arguments.method,
        chains=arguments.chains,
        seed=arguments.seed,
        preset=arguments.preset,
        changes={key: value for key, value in chosen.items() if value is not None},
    )
    held_out = None
    if arguments.run is not None:  # what is at fault with the run is said before the training
        from throughline.experiment.preparation import preview_images
        from throughline.reporting.cards import held_out_section

        held_out = held_out_section(arguments.run, config.methods[0], preview_images(config).fingerprint())
    with watching() as watcher:
        fitted = fit_model(config, arguments.out, told=watcher.told, on_progress=watcher.progressed)
    record = fitted.record
    if held_out is not None:
        write_atomically(fitted.folder / "README.md", model_card(record, held_out))
    if arguments.json:
        print(json.dumps(record.to_json(), indent=2))
        return 0
    images = sum(record.images.by_domain.values())
    done = (
        f"fitted {record.method} on {images:,} images of {len(record.domains)} domains, {len(record.classes)} classes"
    )
    print(f"{done}: {fitted.folder}" if fitted.worked else f"nothing to do, this model is there: {fitted.folder}")
    hub = " --hub" if record.checkpoint.hub else ""
    print(f"ask it with: throughline predict {fitted.folder} IMAGE{hub}")
    return 0


def _whole(text: str) -> int:
    if not text.strip().isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 0")
    return int(text)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return value
