"""`throughline ood`: how far models fall on images of other domains, where the class is lost, and what examples mend.

Every subcommand is a run (`throughline run`) whose factors it makes: the same folder, resume, tables and page.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from throughline.cli.options import Shown, Subcommands, add_subcommands
from throughline.cli.run import run_and_report, show_forecast
from throughline.core.settings import AnswerPath, Settings
from throughline.core.table import Table
from throughline.domains.folders import is_table
from throughline.experiment.config import RunConfig
from throughline.experiment.config_files import make_config, read_mapping
from throughline.mllm.checkpoints import POCKET, checkpoint_name
from throughline.ood import factors
from throughline.ood.factors import Levels
from throughline.reporting.text import to_terminal
from throughline.runs.reader import Run, read_run


class Asking(Settings):
    """Which models are asked about which images."""

    source: Annotated[str, Shown("CONFIG|DIR", positional=True)]
    """A config, or labelled images: folder <domain>/<class>/<image>, .csv or .parquet."""
    model: Annotated[tuple[str, ...], Shown("CHECKPOINT|NAME@URL", several="append")] = ()
    """A checkpoint, or a model behind an OpenAI-compatible endpoint such as gpt-4o@https://api.openai.com/v1; may be
    given several times (default: the config's, or pocket)."""
    hub: bool = False
    """Allow the download of checkpoints from the Hugging Face Hub."""
    answers: tuple[AnswerPath, ...] = ("label", "likelihood", "contrast")
    """Answer paths; of a model behind an endpoint, only label and reasoning."""
    per_class: int | None = Field(default=None, ge=1)
    """Images of each class and domain to ask about, the same for every model (default: the config's, or all)."""
    set: Annotated[tuple[str, ...], Shown("KEY=VALUE", several="append")] = ()
    """Change a value of the config; may be given several times."""
    out: Annotated[Path | None, Shown("RUN")] = None
    """Folder of the run; an unfinished run in it is resumed (default: runs/NAME)."""
    dry_run: bool = False
    """Print the config, the units and their estimated cost, and run nothing."""


class ZeroShot(Asking):
    """Ask models about images as they are: accuracy by domain and class, with intervals and differences."""

    prompt: tuple[str, ...] = ("ours",)
    """Wordings of the label question: ours, paper (arXiv 2402.06599), text files with {options} in them, or YAML files
    of wordings by name (frame, descriptions, label)."""
    options: tuple[Literal["fixed", "shuffled"], ...] = ("fixed",)
    """Order of the classes in the question: fixed, or shuffled for each image."""


class Corrupt(Asking):
    """Ask models about images as they are and under corruptions or occlusions of growing severity."""

    kind: tuple[str, ...] = ("all",)
    """Kinds, as `throughline data corrupt` names them; all are the 19 of ImageNet-C."""
    severity: tuple[float, ...] = (1, 3, 5)
    """Severities, 1 to 5; of occlusions shares of the image, 0 to 1."""
    seed: int = Field(default=0, ge=0)
    """Seed of what is random in a view."""


class Probe(Asking):
    """Fit linear probes on vision tower, projector and every layer of the decoder beside the answers, on the same
    images."""

    per_class: int | None = Field(default=10, ge=1)
    """Images of each class and domain to ask about; probes learn from the others."""


class Diagnose(Probe):
    """Say how much of the error each cause explains: a vision tower that lacks the class, a way to the answer that
    loses it, words that stand for other classes. With intervals; no verdict where causes cannot be told apart."""

    reference: Annotated[str | None, Shown("CHECKPOINT")] = None
    """The model that this one was before it changed: what is explained is the error that was added."""


class InContext(Asking):
    """Ask behind labelled examples: more of them, from other domains, and controls."""

    shots: tuple[int, ...] = (0, 1, 2, 4, 8)
    """Numbers of examples."""
    examples: tuple[str, ...] = ("target", "sources", "shuffled", "text", "blank", "knn", "retrieval")
    """Kinds of examples: target, sources (other domains), nearest, spread, ordinal (layout); controls: shuffled
    (labels), text (without images), blank (grey images), knn (vote of the nearest of them), retrieval (label of the
    nearest of all), lora (an adapter trained on them)."""
    shares: Annotated[tuple[str, ...], Shown("CLASS=N,CLASS=N", several="append")] = ()
    """Label shift: examples of the target domain with these shares of the classes; may be given several times."""
    spurious: tuple[Annotated[float, Field(ge=0, le=1)], ...] = ()
    """Spurious correlation: examples of the other domains, so often of the domain that goes with their class."""
    draws: int = Field(default=3, ge=1)
    """How many times examples are drawn."""
    orders: int = Field(default=1, ge=1)
    """In how many orders each draw is shown."""
    neighbours: int = Field(default=1, ge=1)
    """How many of the examples vote in knn."""
    epochs: float = Field(default=30, gt=0)
    """Passes over the examples in lora."""
    per_class: int | None = Field(default=10, ge=1)
    """Images of each class and domain to ask about; examples come from the others."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The subcommands and their options."""
    commands: Subcommands = {
        "zero-shot": (ZeroShot, lambda own: _run(own, factors.asking(own.prompt, own.options))),
        "corrupt": (Corrupt, lambda own: _run(own, {"view": factors.view_levels(own.kind, own.severity, own.seed)})),
        "probe": (Probe, lambda own: _run(own, {}, "probe")),
        "diagnose": (Diagnose, _diagnose),
        "icl": (InContext, lambda own: _run(own, {"examples": _example_levels(own)})),
    }
    add_subcommands(parser, commands, json_of=tuple(commands))


def run(arguments: argparse.Namespace) -> int:
    """Runs the chosen subcommand."""
    return int(arguments.act(arguments))


def _shifts(arguments: argparse.Namespace, run: Run) -> Iterable[Table]:
    from throughline.reporting.groups import groups
    from throughline.reporting.robustness import robustness_tables, shift_tables

    return (*shift_tables(groups(run)), *robustness_tables(groups(run)))


def _verdicts(arguments: argparse.Namespace, run: Run) -> Iterable[Table]:
    from throughline.reporting.groups import groups
    from throughline.reporting.probes import diagnosis_table

    every = groups(run)
    reference = next((own for own in every if own.model == checkpoint_name(arguments.reference or "")), None)
    return filter(None, (diagnosis_table(group, reference) for group in every if group is not reference))


def _example_levels(own: argparse.Namespace) -> Levels:
    settings = {"knn": {"vote": own.neighbours}, "lora": {"epochs": own.epochs}}
    kinds = factors.example_kinds(own.examples, own.shares, own.spurious, **settings)
    return factors.example_levels(own.shots, kinds, own.draws, own.orders)


def _run(
    arguments: argparse.Namespace,
    varied: dict[str, Levels],
    *more_methods: str,
    tables: Callable[[argparse.Namespace, Run], Iterable[Table]] = _shifts,
) -> int:
    """The run with these factors; `tables` are printed once it is finished."""
    varied = {name: levels for name, levels in varied.items() if len(levels) > 1 or any(levels.values())}
    methods = ["zero_shot", *more_methods]
    return run_asking(arguments, asking_config(arguments, f"ood-{arguments.command}", varied, methods), tables)


def run_asking(
    arguments: argparse.Namespace,
    config: RunConfig,
    tables: Callable[[argparse.Namespace, Run], Iterable[Table]],
    trained_in: Path | None = None,
) -> int:
    """The run of a config, with what was `trained_in` another run, or its forecast; `tables` are printed once it is
    finished."""
    folder = folder_of(arguments, config)
    if arguments.dry_run:
        return show_forecast(config, trained_in or folder, as_json=arguments.json)
    run_and_report(config, folder, as_json=arguments.json, trained_in=trained_in)
    for table in tables(arguments, read_run(folder)):
        print(to_terminal(table), end="", file=sys.stderr if arguments.json else sys.stdout)
    return 0


def _diagnose(arguments: argparse.Namespace) -> int:
    """Probes of all models in one run, the reference among them; then the verdicts."""
    if arguments.reference is not None:
        arguments.model = tuple(dict.fromkeys((*(arguments.model or (POCKET,)), arguments.reference)))
    return _run(arguments, {}, "probe", tables=_verdicts)


def folder_of(arguments: argparse.Namespace, config: RunConfig) -> Path:
    """The folder of the run."""
    return arguments.out or Path("runs") / config.name


def asking_config(
    arguments: argparse.Namespace, name: str, varied: dict[str, Levels], methods: Sequence[str] = ()
) -> RunConfig:
    """The config that is named, or one called `name` about the images that are, with these factors beside its own;
    without `methods` with those of the config."""
    source: str = arguments.source
    values: dict[str, Any] = {"name": name, "data": {"images": source}, "methods": ["zero_shot"]}
    if not (Path(source).is_dir() or is_table(Path(source))):
        values = read_mapping(source)
    changes: dict[str, Any] = {
        **({"methods": [*methods]} if methods else {}),
        "factors": {**(values.get("factors") or {}), **varied},
        "evaluation.answering.answers": list(arguments.answers),
    }
    if arguments.model:
        changes["model"] = [{"checkpoint": name, "hub": arguments.hub} for name in arguments.model]
    if arguments.per_class is not None:
        changes["evaluation.sample.per_class"] = arguments.per_class
    return make_config(values, source, arguments.set, changes)
