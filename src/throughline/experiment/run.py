"""An experiment from config to results: prepare images and chains, plan, work, derive the results.

Called by the verbs `run` and `demo`. The same call on the same folder continues where an earlier one was stopped.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from throughline.core.errors import UnitsFailed
from throughline.core.files import write_atomically
from throughline.domains.samples import ImageSet
from throughline.experiment.config import RunConfig, resolved_yaml
from throughline.experiment.costs import Cost, estimate_costs
from throughline.experiment.engine.local import Progress, run_units
from throughline.experiment.engine.worker import EXECUTORS, Job
from throughline.experiment.environment import describe_environment
from throughline.experiment.plan import PlannedSet, plan
from throughline.experiment.preparation import (
    CHAINS,
    IMAGES,
    draw_images,
    gather_chains,
    has_chains,
    image_warnings,
    of_sources,
    place_of,
    preview_images,
    require_chain_source,
    require_server,
)
from throughline.mllm.checkpoints import checkpoint_source, fingerprint_checkpoint, resolve_revision
from throughline.runs.folder import (
    CONFIG,
    begin_unit,
    find_stale,
    is_done,
    locked,
    record_environment,
    refuse_stale,
    remove_pixels,
    set_aside,
    write_results,
)
from throughline.runs.unit import Unit


@dataclass(frozen=True)
class Preview:
    """A run before it begins. Hashes in the units' names are not final: images and chains may not exist yet."""

    config: RunConfig
    sets: tuple[ImageSet, ...]
    units: tuple[Unit, ...]
    costs: dict[str, Cost]
    warnings: tuple[str, ...]

    @property
    def total(self) -> Cost:
        """Of all units."""
        return sum(self.costs.values(), Cost())


@dataclass(frozen=True)
class FinishedRun:
    """A run folder in which every unit of the plan is done, or was tried. `worked` counts the units done by this
    call."""

    folder: Path
    sets: tuple[ImageSet, ...]
    units: tuple[Unit, ...]
    worked: int
    failed: UnitsFailed | None = None
    """Why units are not done; the same call does those alone."""


def preview_run(config: RunConfig) -> Preview:
    """Finds every fault that can be found in seconds and without writing; raises ThroughlineError for the first. Brings
    torch only where the config asks for a GPU or names layers for LoRA.

    What only the machine that computes must have, a server's program, is not looked for.
    """
    sets = preview_images(config)
    source = require_model(config)
    # Chains that are not built yet stand in by a word, so that methods which need some are found to have some.
    planned = [
        PlannedSet(data, images, dict.fromkeys(images.domains, "unknown") if has_chains(config) else None)
        for data, images in zip(config.image_sets, sets, strict=True)
    ]
    units = plan(config, planned, source)
    require_chain_source(config, "set them with --set chains.teacher=null --set chains.journal=FILE.jsonl")
    warnings = tuple(line for images in sets for line in image_warnings(images))
    return Preview(config, sets, units, estimate_costs(units, config, sets), warnings)


def require_model(config: RunConfig) -> str:
    """What the checkpoint is opened from. Raises ThroughlineError for one that is none, for a GPU that is not here, and
    for LoRA on layers that the checkpoint, where it lies on this machine, has not got."""
    source = checkpoint_source(config.model.checkpoint, config.model.hub)
    for model in dict.fromkeys(config.at(config.data, levels).model for levels in config.combinations()):
        if model.device == "cuda":
            from throughline.mllm.devices import pick_device  # brings torch

            pick_device(model.device)
        if {*model.lora.vision, *model.lora.decoder} - {"*"}:
            from throughline.mllm.lora import adapted_modules
            from throughline.mllm.shapes import open_outline

            with contextlib.suppress(OSError, ValueError, KeyError):  # still on the hub, or at fault: loading will say
                adapted_modules(open_outline(source, model.tiles, model.revision)[0], model.lora)
    return source


def run_experiment(
    config: RunConfig,
    run_folder: Path,
    *,
    redo_stale: bool = False,
    fail_fast: bool = False,
    executors: Mapping[str, str] = EXECUTORS,
    report_progress: Callable[[str], None] = lambda line: None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> FinishedRun:
    """Does whatever of the run is not done yet and writes `results.jsonl` anew after each unit.

    Units that fail stop no others, unless `fail_fast`. Raises ThroughlineError for faulty input before anything is
    written and for stale units unless `redo_stale`; Interrupted after Ctrl-C.
    """
    preview = preview_run(config)
    for warning in preview.warnings:
        report_progress(warning)
    require_server(config)
    config = with_commit(config)
    with locked(run_folder):
        planned = _prepared(config, preview.sets, run_folder, report_progress)
        sets = tuple(each.images for each in planned)
        model = config.model
        units = plan(config, planned, fingerprint_checkpoint(model.checkpoint, model.revision))
        stale = find_stale(run_folder, units)
        if redo_stale:
            set_aside(run_folder, stale)
        else:
            refuse_stale(stale)
        write_atomically(run_folder / CONFIG, resolved_yaml(config))
        record_environment(run_folder, describe_environment())
        job = Job(config, sets, run_folder, executors, fail_fast)
        worked, failed = [], None

        def finished(unit: Unit) -> None:
            worked.append(unit)
            write_results(run_folder, units)

        try:
            execute_units(units, job, finished, on_progress)
            remove_pixels(run_folder)
        except UnitsFailed as error:
            failed = error
        write_results(run_folder, units)
        for unit in units:
            if not is_done(run_folder, unit):
                begin_unit(run_folder, unit)  # whoever reads the folder sees what is missing
    return FinishedRun(run_folder, sets, units, len(worked), failed)


def execute_units(
    units: Sequence[Unit],
    job: Job,
    finished: Callable[[Unit], None] = lambda unit: None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> None:
    """Has the units executed that are not done in the job's folder; UnitsFailed where that did not go well."""
    costs = estimate_costs(units, job.config, job.sets)
    done = {unit.name for unit in units if is_done(job.run_folder, unit)}
    run_units(units, job, done=done, costs=costs, finished=finished, on_progress=on_progress)


def _prepared(
    config: RunConfig, sets: Sequence[ImageSet], run_folder: Path, report_progress: Callable[[str], None]
) -> list[PlannedSet]:
    """Every image set on disk, with the hashes of its accepted chains."""
    planned = []
    for position, (data, previewed) in enumerate(zip(config.image_sets, sets, strict=True)):
        images = previewed
        if data.drawn is not None:
            report_progress("drawing images")
            images = draw_images(data, previewed.name, run_folder / place_of(IMAGES, position))
        chains = None
        if has_chains(config):
            report_progress("preparing chains")
            chains = gather_chains(config, of_sources(data, images), run_folder / place_of(CHAINS, position))
        planned.append(PlannedSet(data, images, chains))
    return planned


def with_commit(config: RunConfig) -> RunConfig:
    """The config with the commit that a checkpoint on the hub has now; a local checkpoint has none."""
    model = config.model
    commit = resolve_revision(model.checkpoint, model.hub, model.revision)
    return config.model_copy(update={"model": model.model_copy(update={"revision": commit})})
