"""`throughline fit DIR --out MODEL`: trains the final model on all domains; the same call continues a stopped one."""

import argparse
from pathlib import Path
from typing import Annotated

from pydantic import Field

from throughline.cli.options import Shown, Source, add_settings, given_settings
from throughline.cli.progress import run_progress
from throughline.cli.text import json_text
from throughline.core.files import write_atomically
from throughline.core.settings import Settings
from throughline.experiment.config import RunConfig
from throughline.training.methods import METHODS

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


class Fitting(Settings):
    """What the final model learns from, and where it goes."""

    images: Source
    out: Annotated[Path, Shown("MODEL")]
    """Folder for the model."""
    chains: Annotated[str | None, Shown("JOURNAL|describer")] = None
    """Reasoning chains: a store (folder of journal-*.jsonl, or one such file), or `describer` for drawn images."""
    preset: Annotated[str | None, Shown("NAME|FILE.yaml")] = None
    """Config from which model and training are taken, such as demo or paper/pacs (default: demo for the pocket
    checkpoint, otherwise the paper's values)."""
    run: Annotated[Path | None, Shown("RUN")] = None
    """A finished run on the same images; its held-out results are written into the model card."""
    seed: int = Field(default=0, ge=0)
    """Whole number; seed of the training."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options. Those without a default of their own take the preset's value."""
    add_settings(parser, Fitting)
    parser.add_argument(
        "--method", choices=METHOD_CHOICES, help="method to train (default: cls without --chains, mtct_sarr with)"
    )
    add_settings(parser.add_argument_group("model"), RunConfig, MODEL_KEYS, "the preset's, or {}")
    add_settings(parser.add_argument_group("training"), RunConfig, TRAINING_KEYS, "the preset's, or {}")
    parser.add_argument("--json", action="store_true", help="print the model's record as JSON on stdout")


def run(arguments: argparse.Namespace) -> int:
    """Fits, or says that the model is there already."""
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
        from throughline.mllm.checkpoints import checkpoint_name
        from throughline.reporting.cards import held_out_section

        model, content = checkpoint_name(config.model.checkpoint), preview_images(config)[0].fingerprint()
        held_out = held_out_section(arguments.run, model, config.methods[0], content)
    with run_progress() as reporter:
        fitted = fit_model(
            config, arguments.out, report_progress=reporter.report_step, on_progress=reporter.report_units
        )
    record = fitted.record
    if held_out is not None:
        write_atomically(fitted.folder / "README.md", model_card(record, held_out))
    if arguments.json:
        print(json_text(record.to_json()))
        return 0
    images = sum(record.images.by_domain.values())
    done = (
        f"fitted {record.method} on {images:,} images of {len(record.domains)} domains, {len(record.classes)} classes"
    )
    print(f"{done}: {fitted.folder}" if fitted.worked else f"nothing to do, this model is finished: {fitted.folder}")
    hub = " --hub" if record.checkpoint.hub else ""
    print(f"ask it with: throughline predict {fitted.folder} IMAGE{hub}")
    return 0
