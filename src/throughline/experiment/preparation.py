"""Image sets and chains of a run, made or read before any unit starts. Workers read the chains back from the folder.

`preview_images` writes nothing: it serves `--dry-run` and the check that a run can work before its folder appears.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from throughline.chains.formats import FORMATS
from throughline.chains.journal import require_journals
from throughline.core.errors import ThroughlineError
from throughline.core.files import read_json_lines, write_json_lines
from throughline.domains.checks import quick_check
from throughline.domains.folders import is_table, read_images
from throughline.domains.samples import ImageSet, Sample
from throughline.drawn import is_drawn
from throughline.experiment.config import DataConfig, DrawnConfig, RunConfig
from throughline.questions.class_names import class_name_defects
from throughline.runs.folder import ACCEPTED, JOURNAL
from throughline.teaching.server_process import ServeCommand
from throughline.training.methods import method_table

if TYPE_CHECKING:
    from throughline.drawn.scenes import Scene

CHAINS = "chains"
Chains = Mapping[str, Sequence[str]]
"""Accepted chain texts by sample id."""


def preview_images(config: RunConfig) -> tuple[ImageSet, ...]:
    """Every image set without writing any. Those of a world not drawn yet have no content: their hashes mean nothing.

    Raises ThroughlineError for what cannot be read, and for two sets of one name.
    """
    sets = tuple(_preview_set(data).with_names(data.names) for data in config.image_sets)
    names = [images.name for images in sets]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ThroughlineError(f"two image sets are called {twice}", "data", "give each its own name, data.name")
    return sets


def image_warnings(images: ImageSet) -> Iterator[str]:
    """What is doubtful about images that are to be trained on or asked about.

    ThroughlineError for one class only, and for class names that answers cannot be told by.
    """
    for defect in (*quick_check(images), *class_name_defects(images.classes, images.names)):
        if defect.severity == "error":
            raise ThroughlineError(defect.what, images.root)
        yield f"warning: {images.name}: {defect.what} (more: throughline data check)"


def _preview_set(data: DataConfig) -> ImageSet:
    source = Path(data.images or "")
    if data.drawn is not None:
        images = _undrawn(data.drawn, data.set_name)
    elif is_table(source) and not source.is_file():
        raise ThroughlineError("no such table of images", source, "give a folder, .csv or .parquet")
    else:
        images = read_images(source, name=dataset_name(data.set_name, source))
    return grouped(images, data)


def grouped(images: ImageSet, data: DataConfig) -> ImageSet:
    """The images in groups where the config makes some. ThroughlineError for images that were not drawn."""
    if data.group_by is None:
        return images
    from throughline.drawn.scenes import combination_of

    scenes = scenes_of(data, images.root)
    return replace(images, samples=tuple(replace(s, group=combination_of(scenes[s.id])) for s in images.samples))


def scenes_of(data: DataConfig, root: Path) -> "dict[str, Scene]":
    """What is in the drawn images of a set at `root`, by id, whether they are drawn already or not. ThroughlineError
    for images that were not drawn."""
    from throughline.drawn.scenes import read_scenes
    from throughline.drawn.world import planned_scenes

    if data.drawn is None:
        return read_scenes(root)
    planned = planned_scenes(per_class=data.drawn.per_class, seed=data.drawn.seed)
    return {name: scene for name, _, scene in planned}


def dataset_name(name: str, images: Path) -> str:
    """What results call the images; a drawn world is called so wherever it lies, since tables and pages say what it is
    no evidence of."""
    is_world = is_drawn(images) and not name.startswith("drawn")
    return f"drawn-{name}" if is_world else name


def draw_images(data: DataConfig, name: str, root: Path) -> ImageSet:
    """Writes the drawn world to `root`, or completes it there, and reads it back."""
    from throughline.drawn.world import write_world  # brings PIL

    assert data.drawn is not None
    write_world(root, per_class=data.drawn.per_class, seed=data.drawn.seed, size=data.drawn.size)
    return grouped(read_images(root, name=name).with_names(data.names), data)


def has_chains(config: RunConfig) -> bool:
    """Whether the config names a source of chains, and any method learns from them or from their images alone."""
    named = config.chains.teacher is not None or config.chains.journal is not None
    methods = method_table(config.methods).values()
    return named and (config.chains.coverage == "shared" or any(method.needs_chains for method in methods))


def require_chain_source(config: RunConfig, remedy: str) -> None:
    """Raises a ThroughlineError when the journal is not there, or, with the remedy, when the describer has no scenes to
    describe."""
    if not has_chains(config):
        return
    if config.chains.journal is not None:
        require_journals(Path(config.chains.journal))
    elif config.chains.teacher == "describer":
        for data in config.image_sets:
            if data.images is not None and not is_drawn(Path(data.images)):
                raise ThroughlineError("the describer knows drawn images only", data.images, remedy)


def require_server(config: RunConfig) -> None:
    """Raises a ThroughlineError when rounds are to be served by a program that is not there."""
    serve = config.training.sampler.serve
    if serve is not None and any(method.self_labelled for method in method_table(config.methods).values()):
        ServeCommand(serve).require_program()


def of_sources(data: DataConfig, images: ImageSet) -> ImageSet:
    """The images of the domains that at least one fold trains on: no other is shown to a teacher."""
    targets = set(images.domains if data.targets == "all" else data.targets)
    sources = images.domains if len(targets) > 1 else set(images.domains) - targets
    return replace(images, samples=tuple(sample for sample in images.samples if sample.domain in sources))


def gather_chains(config: RunConfig, images: ImageSet, store: Path | None = None) -> Chains:
    """The accepted chains of these images in the config's journal, or, without one, among those that the describer
    writes into `store`: as many of each image as the first stage learns from. ThroughlineError where there are none."""
    from throughline.teaching.building import accepted_chains, build_chains
    from throughline.teaching.plan import BuildPlan
    from throughline.teaching.teachers import Describer

    settings, chain_format = config.chains, FORMATS[config.chains.format]
    question = config.question_set(images.classes, images.names).reasoning  # says what is wrong with names
    if settings.journal is not None:
        journals = require_journals(Path(settings.journal))
    else:
        assert store is not None
        seed = config.data.drawn.seed if config.data.drawn is not None else 0
        plan = BuildPlan(images, chain_format, settings.rule, settings.candidates, settings.per_image)
        build_chains(plan, Describer(images.root, chain_format, question, seed, settings.part_mistakes), store)
        journals = [store / JOURNAL]
    accepted = accepted_chains(journals, images, chain_format, settings.rule)
    if not accepted:
        raise ThroughlineError(
            "no chain of a source image is accepted",
            settings.journal or store,
            f"look at the verdicts of rule {settings.rule} with `throughline chains stats`",
        )
    return {name: texts[: settings.per_image] for name, texts in accepted.items()}


def write_accepted_chains(store: Path, chains: Chains) -> None:
    """For the workers, which read them with `read_accepted_chains`."""
    rows = ({"sample_id": name, "text": text} for name, texts in chains.items() for text in texts)
    write_json_lines(store / ACCEPTED, rows)


def read_accepted_chains(store: Path) -> dict[str, tuple[str, ...]]:
    """What `write_accepted_chains` wrote; empty where the run has none."""
    path = store / ACCEPTED
    chains: dict[str, tuple[str, ...]] = {}
    for row in read_json_lines(path) if path.is_file() else ():
        chains[row["sample_id"]] = (*chains.get(row["sample_id"], ()), row["text"])
    return chains


def _undrawn(drawn: DrawnConfig, name: str) -> ImageSet:
    from throughline.drawn.concepts import CLASSES
    from throughline.drawn.world import planned_scenes

    samples = tuple(
        Sample(id, Path(), style, (scene.cls,), "")
        for id, style, scene in planned_scenes(per_class=drawn.per_class, seed=drawn.seed)
    )
    return ImageSet(
        name, Path("the drawn world"), tuple(sorted({s.domain for s in samples})), tuple(sorted(CLASSES)), samples
    )
