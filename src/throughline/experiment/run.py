"""An experiment from config to results: prepare images and chains, plan, work, derive the results.

Called by the verbs `run` and `demo`. The same call on the same folder continues where an earlier one was stopped.
"""

import contextlib
import itertools
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from throughline.core.errors import ThroughlineError, UnitsFailed
from throughline.core.files import write_atomically
from throughline.core.nested import flattened
from throughline.domains.samples import ImageSet
from throughline.experiment.config import DataConfig, RunConfig
from throughline.experiment.config_files import resolved_yaml
from throughline.experiment.costs import Cost, estimate_costs
from throughline.experiment.engine.local import Progress, run_units
from throughline.experiment.engine.worker import EXECUTORS, Job
from throughline.experiment.environment import describe_environment
from throughline.experiment.manifest import fix_manifests
from throughline.experiment.plan import WHAT_IS_ASKED, PlannedSet, plan
from throughline.experiment.preparation import (
    CHAINS,
    Chains,
    draw_images,
    gather_chains,
    has_chains,
    image_warnings,
    of_sources,
    preview_images,
    require_chain_source,
    require_server,
    write_accepted_chains,
)
from throughline.mllm.checkpoints import checkpoint_source, fingerprint_checkpoint, resolve_revision
from throughline.runs.folder import (
    CONFIG,
    IMAGES,
    adopt_unit,
    begin_unit,
    find_stale,
    hold_run,
    input_changes,
    is_done,
    listed_changes,
    place_of,
    record_environment,
    refuse_stale,
    remove_pixels,
    set_aside,
    write_results,
)
from throughline.runs.reader import UnitFolder, read_run
from throughline.runs.unit import TIMM, VALIDATE, Unit

CHANGES_NO_WEIGHTS = WHAT_IS_ASKED | {
    *("kind", "answering", "batch", "format", "view_version", "made", "begun"),
    *("versions.answering", "versions.begun and shuffled"),
}
"""Inputs of a unit, by dotted keys or the first part of these, that say how it is asked and change no weights, or only
as another batch rounds."""
NOT_FINAL = {"images", "chains", "pairs", "model.checkpoint"}
"""Those that a preview cannot know: images and chains may not exist yet, and checkpoints are not read."""


@dataclass(frozen=True)
class Preview:
    """A run before it begins. Hashes in the units' names are not final: images and chains may not exist yet."""

    config: RunConfig
    planned: tuple[PlannedSet, ...]
    units: tuple[Unit, ...]
    costs: dict[str, Cost]
    warnings: tuple[str, ...]

    @property
    def sets(self) -> tuple[ImageSet, ...]:
        """The image sets, in the config's order."""
        return tuple(planned.images for planned in self.planned)

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


def preview_run(config: RunConfig, trained_in: Path | None = None) -> Preview:
    """Finds every fault that can be found in seconds and without writing; raises ThroughlineError for the first, such
    as a unit that the run in `trained_in` has not trained. Brings torch only where the config asks for a GPU, names
    layers for LoRA, shows examples or has backbones of timm.

    What only the machine that computes must have, a server's program, is not looked for.
    """
    sets = preview_images(config)
    sources = require_models(config)
    require_chain_source(config, "set them with --set chains.teacher=null --set chains.journal=FILE.jsonl")
    planned = tuple(
        PlannedSet(data, images, _previewed_chains(config, data, images), config.chains.pairs)
        for data, images in zip(config.image_sets, sets, strict=True)
    )
    units = plan(config, planned, *sources)
    if trained_in is not None:
        _find_trained(units, trained_in, NOT_FINAL)
    if any("examples" in unit.inputs for unit in units):  # others hardly fill a context
        from throughline.experiment.context import require_context  # brings torch

        require_context(units, config, sets)
    backbones = {(unit.model.removeprefix(TIMM), "baselines.backbone") for unit in units if unit.model.startswith(TIMM)}
    if any(unit.method == "simple_plus" for unit in units):
        backbones |= {(name, "baselines.simple_plus.pool") for name in config.baselines.simple_plus.pool}
    for backbone, key in sorted(backbones):
        from throughline.baselines.network import require_backbone  # brings torch

        require_backbone(backbone, key)
    warnings = tuple(line for images in sets for line in image_warnings(images))
    return Preview(config, planned, units, estimate_costs(units, config, planned), warnings)


def _previewed_chains(config: RunConfig, data: DataConfig, images: ImageSet) -> Chains | None:
    """Those of a journal. Where none are written yet, every image is taken to have all that are wanted."""
    if not has_chains(config):
        return None
    if config.chains.journal is not None:
        return gather_chains(config, of_sources(data, images))
    return dict.fromkeys(images.by_id, ("",) * config.chains.per_image)


def require_models(config: RunConfig) -> tuple[str, ...]:
    """What each checkpoint is opened from. Raises ThroughlineError for one that is none, for a GPU that is not here,
    and for LoRA on layers that a checkpoint, where it lies on this machine, has not got."""
    sources = {model.checkpoint: checkpoint_source(model.checkpoint, model.hub) for model in config.models}
    every = itertools.product(config.models, config.combinations())
    settings = [config.at(config.data, levels, model=model).model for model, levels in every]
    for model in {model.model_dump_json(): model for model in settings}.values():
        if model.device == "cuda":
            from throughline.mllm.devices import pick_device  # brings torch

            pick_device(model.device)
        if {*model.lora.vision, *model.lora.decoder} - {"*"}:
            from throughline.mllm.lora import adapted_modules
            from throughline.mllm.shapes import open_outline

            with contextlib.suppress(OSError, ValueError, KeyError):  # still on the hub, or at fault: loading will say
                adapted_modules(open_outline(sources[model.checkpoint], model.tiles, model.revision)[0], model.lora)
    return tuple(sources.values())


def run_experiment(
    config: RunConfig,
    run_folder: Path,
    *,
    redo_stale: bool = False,
    fail_fast: bool = False,
    trained_in: Path | None = None,
    executors: Mapping[str, str] = EXECUTORS,
    report_progress: Callable[[str], None] = lambda line: None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> FinishedRun:
    """Does whatever of the run is not done yet and writes `results.jsonl` anew after each unit.

    Units that fail stop no others, unless `fail_fast`. What units only train is taken from the run in `trained_in`
    where one is named. Raises ThroughlineError for faulty input before anything is written, for stale units unless
    `redo_stale`, and for what was trained from other images, chains or weights; Interrupted after Ctrl-C.
    """
    preview = preview_run(config, trained_in)
    for warning in preview.warnings:
        report_progress(warning)
    require_server(config)
    config = with_commits(config)
    with hold_run(run_folder):
        planned = _prepared(config, preview.planned, run_folder, report_progress)
        sets = tuple(each.images for each in planned)
        units = plan(config, planned, *(fingerprint_checkpoint(m.checkpoint, m.revision) for m in config.models))
        stale = find_stale(run_folder, units)
        if redo_stale:
            set_aside(run_folder, stale)
        else:
            refuse_stale(stale)
        trained = {} if trained_in is None else _find_trained(units, trained_in)
        for unit in units:
            if unit.name in trained and not is_done(run_folder, unit):
                adopt_unit(run_folder, unit, trained[unit.name].folder)
        fix_manifests(run_folder, units, config, sets, renew=redo_stale)
        write_atomically(run_folder / CONFIG, resolved_yaml(config))
        record_environment(run_folder, describe_environment())
        job = Job(config, sets, run_folder, executors, fail_fast)
        worked, failed = [], None

        def finished(unit: Unit) -> None:
            worked.append(unit)
            write_results(run_folder, units)

        try:
            execute_units(units, job, planned, finished, on_progress)
            remove_pixels(run_folder)
        except UnitsFailed as error:
            failed = error
        write_results(run_folder, units)
        for unit in units:
            if not is_done(run_folder, unit):
                begin_unit(run_folder, unit)  # whoever reads the folder sees what is missing
    return FinishedRun(run_folder, sets, units, len(worked), failed)


def _find_trained(units: Sequence[Unit], other: Path, ignored: Set[str] = frozenset()) -> dict[str, UnitFolder]:
    """What the run in `other` has trained, by the names of the units here that only train. ThroughlineError for one
    that was not trained there, or from other inputs, except for those `ignored`."""
    finished = {own.unit.identity[1:]: own for own in read_run(other).units.values() if own.done}
    found = dict[str, UnitFolder]()
    for unit in (unit for unit in units if unit.kind == VALIDATE):
        theirs = finished.get(unit.identity[1:])
        if theirs is None:
            what = f"this run has no finished unit {unit.slug} of {unit.model}"
            raise ThroughlineError(what, other, "finish it, or name its config")
        found[unit.name] = theirs
        needs = {role: found[name].name for role, name in unit.needs.items()}
        if changes := input_changes(_trained(theirs.unit, theirs.unit.needs, ignored), _trained(unit, needs, ignored)):
            what = f"{theirs.name} was trained from other inputs ({listed_changes(changes)})"
            raise ThroughlineError(what, other, "undo the change, or name the config to train anew")
    return found


def _trained(unit: Unit, needs: Mapping[str, str], ignored: Set[str]) -> dict[str, Any]:
    """What the weights of a unit depend on, but for what is `ignored`, with the units that it needs by their names."""
    inputs = flattened({**unit.inputs, "needs": needs})
    chosen_by = inputs.get("answering.answers", ())[:1] if inputs.get("selection") == "validation" else ()
    ignored = ignored | CHANGES_NO_WEIGHTS
    kept = {key: value for key, value in inputs.items() if not {key, key.partition(".")[0]} & ignored}
    return kept | {"answering.answers": chosen_by}


def execute_units(
    units: Sequence[Unit],
    job: Job,
    planned: Sequence[PlannedSet],
    finished: Callable[[Unit], None] = lambda unit: None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> None:
    """Has the units executed that are not done in the job's folder; UnitsFailed where that did not go well."""
    costs = estimate_costs(units, job.config, planned)
    done = {unit.name for unit in units if is_done(job.run_folder, unit)}
    run_units(units, job, done=done, costs=costs, finished=finished, on_progress=on_progress)


def _prepared(
    config: RunConfig, previewed: Sequence[PlannedSet], run_folder: Path, report_progress: Callable[[str], None]
) -> list[PlannedSet]:
    """Every image set and its accepted chains on disk."""
    prepared = []
    for position, planned in enumerate(previewed):
        data, images, chains = planned.data, planned.images, planned.chains
        if data.drawn is not None:
            report_progress("drawing images")
            images = draw_images(data, images.name, run_folder / place_of(IMAGES, position))
        if chains is not None:
            report_progress("preparing chains")
            store = run_folder / place_of(CHAINS, position)
            if config.chains.journal is None:
                chains = gather_chains(config, of_sources(data, images), store)
            write_accepted_chains(store, chains)
        prepared.append(PlannedSet(data, images, chains, config.chains.pairs))
    return prepared


def with_commits(config: RunConfig) -> RunConfig:
    """The config with the commits that checkpoints on the hub have now; a local checkpoint has none."""
    first, *others = (
        model.model_copy(update={"revision": resolve_revision(model.checkpoint, model.hub, model.revision)})
        for model in config.models
    )
    return config.model_copy(update={"model": first, "more_models": tuple(others)})
