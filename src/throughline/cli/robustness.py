"""`throughline drift robustness`: how far answers hold when images, prompts and chains are interfered with.

A run over the levels of one factor, as the subcommands of `ood` are; what the levels show is made before it begins.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from pydantic import Field

from throughline.cli.ood import Asking, asking_config, folder_of, run_asking
from throughline.cli.options import Shown
from throughline.cli.progress import say
from throughline.core.errors import ThroughlineError
from throughline.core.settings import AnswerPath
from throughline.core.table import Table
from throughline.domains.samples import ImageSet
from throughline.experiment.config import RunConfig
from throughline.ood.factors import Levels
from throughline.runs.folder import CONFIG, hold_run
from throughline.runs.reader import REDUCED_PREDICTIONS, Run

PLACE = "interference"
"""In the folder of the run: images and chains made for it."""


class Robustness(Asking):
    """Ask what a run has trained, the methods of a config, or models, under interference: severest corruptions, covered
    parts, another style, hints at a wrong class, chains begun wrongly; beside a blank image and that of another
    class."""

    source: Annotated[str, Shown("RUN|CONFIG|DIR", positional=True)]
    """Folder of a finished run, whose adapters are asked; a config, whose methods are trained first; or labelled
    images: folder <domain>/<class>/<image>, .csv or .parquet."""
    out: Annotated[Path | None, Shown("RUN")] = None
    """Folder of the run; an unfinished run in it is resumed (default: runs/NAME; of a finished run robustness/ in its
    folder)."""
    answers: tuple[AnswerPath, ...] = ("reasoning", "likelihood")
    """Answer paths; only the reasoning path has chains that can be begun and held against the concept graph."""
    kind: tuple[str, ...] = ("gaussian_noise", "motion_blur", "fog", "contrast")
    """Corruptions at severity 5, as `throughline data corrupt` names them; all are the 19 of ImageNet-C."""
    style: tuple[str, ...] = ("neon",)
    """Styles in which drawn scenes are drawn anew; a source domain shows what the held-out style costs."""
    pairs: Path | None = None
    """Folder of preference pairs about the images, whose chains are begun (default: made of drawn images)."""
    graph: Path | None = None
    """Concept graph of the classes, YAML or CSV (default: that of drawn images)."""
    combinations: bool = False
    """Drawn images: train and ask twice, with any combinations of class and free parts, and with unseen ones."""
    seed: int = Field(default=0, ge=0)
    """Seed of what is random in the interference."""


def robustness(arguments: argparse.Namespace) -> int:
    """Runs it."""
    from throughline.drift.interference import FACTOR, HINT
    from throughline.experiment.run import preview_run

    trained_in, factors = None, {FACTOR: {HINT: {"evaluation.misled": "hint"}}}  # trains as all levels do
    if (Path(arguments.source) / CONFIG).is_file():
        trained_in = Path(arguments.source)
        if (trained_in / REDUCED_PREDICTIONS).is_file():
            raise ThroughlineError("a reduced run has no weights to ask", trained_in, "name the whole run, or a config")
        arguments.source, arguments.out = str(trained_in / CONFIG), arguments.out or trained_in / "robustness"
    if arguments.combinations:
        arguments.set = [*arguments.set, "data.group_by=combinations"]
        rules = {"any": "domainbed", "unseen": "concepts"}
        factors["combinations"] = {name: {"data.split_rule": rule} for name, rule in rules.items()}
    plain = asking_config(arguments, "drift-robustness", factors)
    if len(plain.image_sets) > 1:
        raise ThroughlineError("the config has several image sets", arguments.source, "keep one")
    (images,) = preview_run(plain, trained_in).sets  # what is at fault is said before levels are painted
    with contextlib.ExitStack() as stack:
        if arguments.dry_run:  # nothing is left of it
            place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        else:
            place = folder_of(arguments, plain) / PLACE
            with hold_run(place.parent):
                place.mkdir(exist_ok=True)
        factors[FACTOR] = _levels(arguments, plain, images, place)
        return run_asking(arguments, asking_config(arguments, plain.name, factors), _tables, trained_in)


def _levels(arguments: argparse.Namespace, config: RunConfig, images: ImageSet, place: Path) -> Levels:
    from throughline.chains.formats import FORMATS
    from throughline.chains.graph_files import read_graph
    from throughline.chains.pairs import read_pairs
    from throughline.drawn import is_drawn
    from throughline.drawn.concepts import GRAPH
    from throughline.drawn.world import read_size
    from throughline.drift.interference import Subject, make_levels
    from throughline.drift.pairs import DrawnWorld
    from throughline.experiment.preparation import scenes_of

    data = config.data
    targets = images.domains if data.targets == "all" else data.targets
    asked = config.evaluation.chosen([sample for target in targets for sample in images.in_domain(target)])
    pairs = read_pairs(arguments.pairs, images) if arguments.pairs else ()
    images, format, world = replace(images, samples=asked), FORMATS[config.chains.format], None
    if data.drawn is not None or is_drawn(images.root):
        size = data.drawn.size if data.drawn is not None else read_size(images.root)
        world = DrawnWorld(images, scenes_of(data, images.root), place, format, arguments.seed, size)
    graph = read_graph(arguments.graph) if arguments.graph else GRAPH if world else None
    subject = Subject(images, format, arguments.seed, world, graph, pairs)
    return make_levels(subject, place, arguments.kind, arguments.style, "reasoning" in arguments.answers, say)


def _tables(arguments: argparse.Namespace, run: Run) -> Iterable[Table]:
    from throughline.chains.graph_files import read_graph
    from throughline.reporting.groups import groups
    from throughline.reporting.interference import interference_tables

    graph = read_graph(arguments.graph) if arguments.graph else None
    return [table for group in groups(run) for table in interference_tables(group, graph)]
