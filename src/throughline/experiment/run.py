"""An experiment from config to results: prepare images and chains, plan, work, derive the results.

Called by the verbs `run` and `demo`. The same call on the same folder continues where an earlier one was stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from throughline.core.files import write_json
from throughline.domains.samples import ImageSet
from throughline.experiment.config import RunConfig
from throughline.experiment.costs import Cost, estimate_costs, longest_first
from throughline.experiment.environment import describe_environment
from throughline.experiment.folder import (
    find_stale,
    is_done,
    locked,
    refuse_stale,
    remove_pixels,
    set_aside,
    write_config,
    write_results,
)
from throughline.experiment.preparation import (
    draw_images,
    has_chains,
    prepare_chains,
    preview_images,
    require_chain_source,
    require_server,
)
from throughline.experiment.scheduling import Progress, run_units
from throughline.experiment.units import Unit, plan
from throughline.experiment.worker import EXECUTOR, Job
from throughline.mllm.checkpoints import checkpoint_source, fingerprint_checkpoint


@dataclass(frozen=True)
class Preview:
    """A run before it begins. Hashes in the units' names are not final: images and chains may not exist yet."""

    config: RunConfig
    images: ImageSet
    units: tuple[Unit, ...]
    costs: dict[str, Cost]

    @property
    def total(self) -> Cost:
        """Of all units."""
        return sum(self.costs.values(), Cost())


@dataclass(frozen=True)
class FinishedRun:
    """A run folder in which every unit of the plan is done. `worked` counts the units done by this call."""

    folder: Path
    images: ImageSet
    units: tuple[Unit, ...]
    worked: int


def preview_run(config: RunConfig) -> Preview:
    """Finds every fault that can be found without torch and without writing; raises ThroughlineError for the first.

    What only the machine that computes must have, a server's program, is not looked for.
    """
    images = preview_images(config)
    source = checkpoint_source(config.model.checkpoint, config.model.hub)
    # Chains that are not built yet stand in by a word, so that methods which need some are found to have some.
    chains = dict.fromkeys(images.domains, "unknown") if has_chains(config) else None
    units = plan(config, images, chains, source)
    require_chain_source(config)
    return Preview(config, images, units, estimate_costs(units, config, images))


def run_experiment(
    config: RunConfig,
    run_folder: Path,
    *,
    redo_stale: bool = False,
    executor: str = EXECUTOR,
    told: Callable[[str], None] = lambda line: None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> FinishedRun:
    """Does whatever of the run is not done yet and writes `results.jsonl` anew after each unit.

    Raises ThroughlineError for faulty input before anything is written, for stale units unless `redo_stale`, and for
    failed units after the others at work have finished; Interrupted after Ctrl-C.
    """
    images = preview_run(config).images
    require_server(config)
    with locked(run_folder):
        if config.data.drawn is not None:
            told("drawing images")
            images = draw_images(config, config.data.drawn, run_folder)
        if has_chains(config):
            told("preparing chains")
        chains = prepare_chains(config, images, run_folder)
        fingerprint = fingerprint_checkpoint(config.model.checkpoint)
        units = plan(config, images, None if chains is None else chains.by_domain, fingerprint)
        stale = find_stale(run_folder, units)
        if redo_stale:
            set_aside(run_folder, stale)
        else:
            refuse_stale(stale)
        write_config(run_folder, config)
        write_json(run_folder / "environment.json", describe_environment())
        costs = estimate_costs(units, config, images)
        done = {unit.name for unit in units if is_done(run_folder, unit)}
        run_units(
            units,
            Job(config, images, run_folder, executor),
            done=done,
            priorities=longest_first(units, costs),
            weights={name: cost.weight for name, cost in costs.items()},
            finished=lambda unit: write_results(run_folder, units),
            on_progress=on_progress,
        )
        write_results(run_folder, units)
        remove_pixels(run_folder)
    return FinishedRun(run_folder, images, units, len(units) - len(done))
