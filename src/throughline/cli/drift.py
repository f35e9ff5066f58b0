"""`throughline drift`: measures of reasoning drift, and the counterfactuals that turn training against it."""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from throughline.cli.drift_graph import Graph, add_teacher_options, run_graph, text_teacher
from throughline.cli.drift_measure import Measure, run_measure
from throughline.cli.options import Shown, Subcommands, add_model_options, add_settings, add_subcommands, given_settings
from throughline.cli.robustness import Robustness, robustness
from throughline.core.errors import UsageError
from throughline.core.settings import ModelSettings, Settings

if TYPE_CHECKING:
    from throughline.chains.pairs import Pair
    from throughline.domains.samples import ImageSet

Source = Literal["thinking", "perception", "deciding_mask", "random_image", "random_answer", "mask", "crop", "noise"]


class Pairs(Settings):
    """Make preference pairs: chains and images that differ in the part that decides between two classes, and the other
    kinds of rejected sides that these are compared with. About drawn images they are exact; about other images they
    follow from a concept graph and accepted chains."""

    images: Annotated[Path, Shown("DIR", positional=True)]
    """Drawn images (`throughline data draw`); or with --graph any images by domain and class."""
    out: Annotated[Path, Shown("DIR")]
    """Folder for the pairs and the images made for them; a config names it as `chains.pairs`."""
    source: tuple[Source, ...] = ("thinking", "perception")
    """Kinds of rejected sides: thinking (another chain; with --graph a teacher rewrites it), perception (another
    image), random_image, random_answer, or part of the image taken away by a mask, a crop, or noise, or by a
    deciding_mask over the deciding part (drawn images only)."""
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
    add_settings(parsers["pairs"], ModelSettings, ["hub", "device"])
    for name in ("graph", "pairs"):
        add_teacher_options(parsers[name])


def run(arguments: argparse.Namespace) -> int:
    """Runs the chosen subcommand."""
    code: int = arguments.act(arguments)
    return code


def _pairs(arguments: argparse.Namespace) -> int:
    from throughline.chains.pairs import write_pairs
    from throughline.core.files import whole_folder
    from throughline.domains.folders import read_images

    for name in ("chains", "model", "teacher") if arguments.graph is None else ():
        if getattr(arguments, name):
            raise UsageError(f"--{name} has no effect without a concept graph", do="add --graph FILE")
    arguments.source = tuple(dict.fromkeys(arguments.source))  # named twice, it is made once
    images = read_images(arguments.images)
    with whole_folder(arguments.out) as folder:
        pairs = _about_drawn(arguments, images, folder) if arguments.graph is None else _by_graph(arguments, images)
        write_pairs(folder, pairs)
    named = len({pair.chosen.sample.id for pair in pairs})
    print(f"{len(pairs):,} pairs about {named:,} of {len(images.samples):,} images in {arguments.out}", end="; ")
    print(f"next: throughline run CONFIG --set methods=mtct,cfp --set chains.pairs={arguments.out}")
    return 0


def _about_drawn(arguments: argparse.Namespace, images: ImageSet, folder: Path) -> list[Pair]:
    from throughline.chains.formats import FORMATS
    from throughline.cli.progress import progress
    from throughline.drawn.scenes import read_scenes
    from throughline.drawn.world import read_size
    from throughline.drift.pairs import DrawnWorld, make_pairs

    scenes, size = read_scenes(arguments.images), read_size(arguments.images)
    world = DrawnWorld(images, scenes, folder, FORMATS[arguments.format], arguments.seed, size)
    with progress("making pairs", "images") as report:
        return list(make_pairs(world, arguments.source, lambda done: report(done, len(images.samples))))


def _by_graph(arguments: argparse.Namespace, images: ImageSet) -> list[Pair]:
    """Pairs about images that were not drawn; prints how many images have none, and why."""
    from throughline.chains.formats import FORMATS
    from throughline.chains.graph_files import read_graph
    from throughline.chains.journal import require_journals
    from throughline.chains.store import require_chains_about
    from throughline.cli.progress import progress
    from throughline.drift.graph_pairs import DescribedImages
    from throughline.drift.reverse_match import likelier_with_true_image
    from throughline.teaching.building import accepted_chains

    if arguments.chains is None:
        raise UsageError("pairs by a concept graph need chains about the images", do="add --chains STORE")
    if "thinking" in arguments.source and not arguments.teacher:
        do = "add --teacher URL, or name the sources without it (--source)"
        raise UsageError("thinking pairs by a concept graph need a teacher who rewrites chains", do=do)
    journals, format, graph = require_journals(arguments.chains), FORMATS[arguments.format], read_graph(arguments.graph)
    require_chains_about(images, arguments.chains)
    chains = accepted_chains(journals, images, format, "correct")
    with (
        text_teacher(arguments) if arguments.teacher else nullcontext() as teacher,
        progress("matching", "pairs") as report,
    ):
        base = ModelSettings(**given_settings(arguments, ("hub", "device")))
        matches = likelier_with_true_image(arguments.model, images, base, report) if arguments.model else None
        described = DescribedImages(images, graph, chains, format, arguments.seed, teacher, matches)
        pairs = described.make_pairs(arguments.source)
    for (source, reason), count in sorted(described.dropped.items()):
        if count:
            print(f"{source}: {count:,} images without a pair: {reason}")
    return pairs
