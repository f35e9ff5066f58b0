"""`throughline fit DIR --out MODEL`: trains the final model on all domains; the same call continues a stopped one."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from throughline.cli.options import SOURCE_HELP, add_settings, given_settings, whole
from throughline.experiment.config import RunConfig
from throughline.training.methods import METHODS

SUMMARY = "train the final model on all domains of a folder"

METHOD_CHOICES = tuple(name for name, method in METHODS.items() if method.trains and method.steps_like is None)

MODEL_KEYS = ("model.checkpoint", "model.hub", "model.tiles", "model.dtype", "model.quantization", "model.device")
TRAINING_KEYS = (
    "training.stage.epochs",
    "training.stage.batch",
    "training.stage.micro_batch",
    "training.stage.auto_batch",
    "training.stage.lr",
    "training.rounds",
    "threads",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options. Those without a default of their own take the preset's value."""
    parser.add_argument("images", type=Path, metavar="DIR", help=SOURCE_HELP)
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
    parser.add_argument("--seed", type=whole, default=0, help="whole number of the draws in training")
    add_settings(parser.add_argument_group("model"), RunConfig, MODEL_KEYS, "the preset's, or {}")
    add_settings(parser.add_argument_group("training"), RunConfig, TRAINING_KEYS, "the preset's, or {}")
    parser.add_argument("--json", action="store_true", help="print the model's record as JSON on stdout")


def run(arguments: argparse.Namespace) -> int:
    """Fits, or says that the model is there already."""
    from throughline.cli.progress import run_progress
    from throughline.core.files import write_atomically
    from throughline.evaluation.model_card import model_card
    from throughline.experiment.final_model import fit_config, fit_model

    config = fit_config(
        arguments.images,
        method=arguments.method,
        chains=arguments.chains,
        seed=arguments.seed,
        preset=arguments.preset,
        changes=given_settings(arguments, (*MODEL_KEYS, *TRAINING_KEYS)),
    )
    held_out = None
    if arguments.run is not None:  # what is at fault with the run is said before the training
        from throughline.experiment.preparation import preview_images
        from throughline.reporting.cards import held_out_section

        held_out = held_out_section(arguments.run, config.methods[0], preview_images(config)[0].fingerprint())
    with run_progress() as reporter:
        fitted = fit_model(
            config, arguments.out, report_progress=reporter.report_step, on_progress=reporter.report_units
        )
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
