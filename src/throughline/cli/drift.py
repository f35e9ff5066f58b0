"""`throughline drift`: counterfactuals that turn training against reasoning drift."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from throughline.cli.options import Shown, Subcommands, add_subcommands
from throughline.core.settings import Settings

Source = Literal["thinking", "perception", "random_image", "random_answer", "mask", "crop", "noise"]


class Pairs(Settings):
    """Make preference pairs about drawn images: chains and images that differ in the part that decides between two
    classes, and the other kinds of rejected sides that these are compared with."""

    images: Annotated[Path, Shown("DIR", positional=True)]
    """Drawn images (`throughline data draw`)."""
    out: Annotated[Path, Shown("DIR")]
    """Folder for the pairs and the images made for them; a config names it as `chains.pairs`."""
    source: tuple[Source, ...] = ("thinking", "perception")
    """Kinds of rejected sides: thinking (another chain), perception (another image), random_image, random_answer, or
    part of the image taken away by a mask, a crop, or noise."""
    format: Literal["five_stage", "four_stage", "think_answer"] = "five_stage"
    """Format of the chains."""
    seed: int = Field(default=0, ge=0)
    """Seed of the describer's wording and of what is random."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The subcommands and their options."""
    commands: Subcommands = {"pairs": (Pairs, _pairs)}
    add_subcommands(parser, commands, json_of=())


def run(arguments: argparse.Namespace) -> int:
    """Runs the chosen subcommand."""
    code: int = arguments.act(arguments)
    return code


def _pairs(arguments: argparse.Namespace) -> int:
    from throughline.chains.formats import FORMATS
    from throughline.chains.pairs import write_pairs
    from throughline.cli.progress import progress
    from throughline.core.files import whole_folder
    from throughline.domains.folders import read_images
    from throughline.drawn.scenes import read_scenes
    from throughline.drawn.world import read_size
    from throughline.drift.pairs import DrawnWorld, make_pairs

    out, format = arguments.out, FORMATS[arguments.format]
    scenes, images = read_scenes(arguments.images), read_images(arguments.images)
    with whole_folder(out) as folder, progress("making pairs", "images") as report:
        world = DrawnWorld(images, scenes, folder, format, arguments.seed, read_size(arguments.images))
        pairs = list(make_pairs(world, arguments.source, lambda done: report(done, len(images.samples))))
        write_pairs(folder, pairs)
    named = len({pair.chosen.sample.id for pair in pairs})
    print(f"{len(pairs):,} pairs about {named:,} of {len(images.samples):,} images in {out}", end="; ")
    print(f"next: throughline run CONFIG --set methods=mtct,cfp --set chains.pairs={out}")
    return 0
