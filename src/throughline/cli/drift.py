"""`throughline drift`: counterfactuals that turn training against reasoning drift."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from throughline.cli.drift_graph import Asked, Graph, add_teacher_options, pairs_by_graph, run_graph
from throughline.cli.drift_measure import Measure, run_measure
from throughline.cli.options import Shown, Subcommands, add_model_options, add_settings, add_subcommands
from throughline.cli.robustness import Robustness, robustness
from throughline.core.errors import UsageError
from throughline.core.settings import ModelSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from throughline.chains.pairs import Pair
    from throughline.domains.samples import ImageSet
    from throughline.drawn.scenes import Scene

Source = Literal["thinking", "perception", "deciding_mask", "random_image", "random_answer", "mask", "crop", "noise"]


class Pairs(Asked):
    """Make preference pairs: chains and images that differ in the part that decides between two classes, and the other
    kinds of rejected sides that these are compared with. About drawn images they are exact; about other images they
    follow from a concept graph and accepted chains."""

    images: Annotated[Path, Shown("DIR", positional=True)]
    """Drawn images (`throughline data draw`); or with --graph any images by domain and class."""
    out: Annotated[Path, Shown("DIR")]
    """Folder for the pairs and the images made for them; a config names it as `chains.pairs`."""
    source: tuple[Source, ...] = ("thinking", "perception")
    """Kinds of rejected sides: thinking (another chain), perception (another image), random_image, random_answer, or
    part of the image taken away by a mask, a crop, or noise, or by a deciding_mask over the deciding part (drawn images
    only)."""
    format: Literal["five_stage", "four_stage", "think_answer"] = "five_stage"
    """Format of the chains."""
    seed: int = Field(default=0, ge=0)
    """Seed of the describer's wording and of what is random."""
    graph: Annotated[Path | None, Shown("FILE")] = None
    """Concept graph (YAML or CSV) of the classes, for images that were not drawn; needs --chains (default: none)."""
    chains: Annotated[Path | None, Shown("STORE")] = None
    """Chain store with accepted chains about the images (default: none)."""
    model: str | None = None
    """Keep only perception pairs whose chain this model finds less likely with the counterfactual image than with the
    true one: a checkpoint, or a folder made by `fit` (default: keep all)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The subcommands and their options."""
    commands: Subcommands = {
        "measure": (Measure, run_measure),
        "graph": (Graph, run_graph),
        "pairs": (Pairs, _pairs),
        "robustness": (Robustness, robustness),
    }
    parsers = add_subcommands(parser, commands, json_of=("robustness",))
    add_model_options(parsers["measure"])
    for name in ("graph", "pairs"):
        add_teacher_options(parsers[name])
    add_settings(parsers["pairs"], ModelSettings, ["hub", "device"])


def run(arguments: argparse.Namespace) -> int:
    """Runs the chosen subcommand."""
    code: int = arguments.act(arguments)
    return code


def _pairs(arguments: argparse.Namespace) -> int:
    from throughline.chains.pairs import write_pairs
    from throughline.core.files import whole_folder
    from throughline.domains.folders import read_images
    from throughline.drawn.scenes import read_scenes

    for name in ("chains", "model", "teacher") if arguments.graph is None else ():
        if getattr(arguments, name):
            raise UsageError(f"--{name} has no effect without a concept graph", do="add --graph FILE")
    scenes = read_scenes(arguments.images) if arguments.graph is None else {}
    images = read_images(arguments.images)
    with whole_folder(arguments.out) as folder:
        pairs = (
            _about_drawn(arguments, images, scenes, folder)
            if arguments.graph is None
            else pairs_by_graph(arguments, images)
        )
        write_pairs(folder, pairs)
    named = len({pair.chosen.sample.id for pair in pairs})
    print(f"{len(pairs):,} pairs about {named:,} of {len(images.samples):,} images in {arguments.out}", end="; ")
    print(f"next: throughline run CONFIG --set methods=mtct,cfp --set chains.pairs={arguments.out}")
    return 0


def _about_drawn(
    arguments: argparse.Namespace, images: ImageSet, scenes: Mapping[str, Scene], folder: Path
) -> list[Pair]:
    from throughline.chains.formats import FORMATS
    from throughline.cli.progress import progress
    from throughline.drawn.world import read_size
    from throughline.drift.pairs import DrawnWorld, make_pairs

    format = FORMATS[arguments.format]
    world = DrawnWorld(images, scenes, folder, format, arguments.seed, read_size(arguments.images))
    with progress("making pairs", "images") as report:
        return list(make_pairs(world, arguments.source, lambda done: report(done, len(images.samples))))
