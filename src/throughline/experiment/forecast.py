"""The forecast of a run: every unit's tokens, FLOPs, peak memory and seconds on named hardware.

`throughline run --dry-run` prints it. It opens the checkpoint's outline (configuration, processor and a model without
weights) and a few hundred chains; where the outline cannot be read, the forecast is one line that says so. Times on
this machine are corrected by those of the units that the run folder has finished.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from PIL import Image

from throughline.chains.formats import FORMATS
from throughline.chains.journal import require_journals
from throughline.chains.store import read_store
from throughline.domains.samples import ImageSet
from throughline.drawn.describer import DescriberSettings, describe
from throughline.drawn.scenes import read_scenes
from throughline.drawn.world import planned_scenes
from throughline.experiment.config import RunConfig
from throughline.experiment.context import asked_prompts, some_sizes
from throughline.experiment.costs import longest_paths, own_config
from throughline.experiment.feature_workload import FEATURES, FeatureWorkload, count_features
from throughline.experiment.hardware import THIS_MACHINE, Hardware, cards, this_machine
from throughline.experiment.run import Preview
from throughline.experiment.workload import (
    ANSWERING,
    GROUPS,
    SELF_LABELLING,
    TRAINING,
    Memory,
    Phase,
    Workload,
    count_paths,
)
from throughline.mllm.chat import Chat
from throughline.mllm.checkpoints import checkpoint_folder, endpoint_of
from throughline.mllm.lora import add_lora
from throughline.mllm.shapes import open_outline, shape_of
from throughline.runs.folder import DONE, UNITS
from throughline.runs.unit import Unit
from throughline.teaching.estimate import CHAIN_TOKENS
from throughline.training.methods import method_table
from throughline.training.paths import PathRenderer

SAMPLED_CHAINS = 300
"""Chains that are looked at: their mean is then known to a few per cent."""


@dataclass(frozen=True)
class UnitForecast:
    """One unit: its phases, its peak of memory, and seconds by hardware and by training, self-labelling, answering;
    those on this machine were measured where the unit is `done`."""

    unit: Unit
    phases: tuple[Phase, ...]
    memory: Memory
    seconds: Mapping[str, Mapping[str, float]]
    done: bool = False

    def total(self, quantity: str, *groups: str) -> int:
        """The sum of `tokens`, `new_tokens` or `all_flops` over the phases of these groups."""
        return sum(getattr(phase, quantity) for phase in self.phases if phase.group in groups)

    def total_seconds(self, hardware: str) -> float:
        """Of all phases."""
        return sum(self.seconds[hardware].values())


@dataclass(frozen=True)
class Forecast:
    """All units on all hardware, this machine first. `workloads` are those of their image sets and levels, each once;
    `elapsed` is seconds from start to end by hardware, with its workers, on this machine without the units that are
    done; `unknown` says why nothing is known of this machine."""

    units: tuple[UnitForecast, ...]
    workloads: tuple[Workload | FeatureWorkload, ...]
    hardware: tuple[Hardware, ...]
    elapsed: Mapping[str, float]
    unknown: str | None

    @property
    def memory(self) -> int:
        """The largest unit's peak."""
        return max((unit.memory.total for unit in self.units), default=0)


def forecast_run(preview: Preview, run_folder: Path | None = None) -> Forecast | str:
    """The forecast of all units, or one line that says why there is none."""
    workloads = read_workloads(preview)
    if isinstance(workloads, str):
        return workloads
    here = this_machine(preview.config)
    unknown = here if isinstance(here, str) else None
    hardware = (*(() if isinstance(here, str) else (here,)), *cards(preview.config))
    units, once = [], set[Phase]()
    for unit in preview.units:
        workload = workloads[unit.name]
        phases = workload.phases(unit.method, preview.costs[unit.name], unit.kind)
        phases = tuple(phase for phase in phases if phase not in once)
        once |= {phase for phase in phases if phase.name.startswith(FEATURES)}
        seconds = {machine.name: seconds_by_group(machine, phases, workload.layers) for machine in hardware}
        units.append(UnitForecast(unit, phases, workload.memory(unit.method, unit.kind), seconds))
    if run_folder is not None and unknown is None:
        units = _corrected(units, measured_units(run_folder, preview.units))
    elapsed = {machine.name: _elapsed(units, machine) for machine in hardware}
    return Forecast(tuple(units), tuple(dict.fromkeys(workloads.values())), hardware, elapsed, unknown)


def seconds_by_group(hardware: Hardware, phases: Sequence[Phase], layers: int) -> dict[str, float]:
    """Seconds of training, self-labelling and answering, where the unit has any."""
    seconds: dict[str, float] = {}
    for phase in phases:
        seconds[phase.group] = seconds.get(phase.group, 0.0) + hardware.seconds(phase, layers)
    return seconds


def _elapsed(units: Sequence[UnitForecast], hardware: Hardware) -> float:
    """No sooner than the longest chain of units that need one another, nor than all work shared among the workers."""
    here = hardware.name == THIS_MACHINE
    to_do = {row.unit.name: 0.0 if row.done and here else row.total_seconds(hardware.name) for row in units}
    longest = max(longest_paths([row.unit for row in units], to_do).values(), default=0.0)
    return max(longest, sum(to_do.values()) / hardware.workers) + (hardware.shares.starting if longest else 0.0)


# what a run folder has measured --------------------------------------------------------------------------------------


def measured_units(run_folder: Path, units: Sequence[Unit]) -> dict[str, dict[str, float]]:
    """By the unit's name, the seconds of those that are finished in a folder, by group of phases."""
    measured: dict[str, dict[str, float]] = {}
    for unit in units:
        done = [path.parent for path in (run_folder / UNITS).glob(f"{unit.slug}-*/{DONE}")]
        if len(done) == 1:
            measured[unit.name] = measured_seconds(done[0])
    return measured


def measured_seconds(unit_folder: Path) -> dict[str, float]:
    """Seconds of a finished unit by group, from the times at which its files were written; loading the checkpoint
    counts with what follows it, and a round's training includes the probes around it.

    They mean something where the run wrote the folder and was not interrupted.
    """
    times = {path: path.stat().st_mtime for path in unit_folder.rglob("*") if path.is_file()}
    began, ended = times[unit_folder / "unit.json"], times[unit_folder / DONE]
    rounds = sorted(unit_folder.glob("round-*"), key=lambda path: int(path.name.partition("-")[2]))
    seconds: dict[str, float] = {}
    if rounds:
        before, seconds = began, {TRAINING: 0.0, SELF_LABELLING: 0.0}
        for folder in rounds:
            sampled, trained = times[folder / "journal-0.jsonl"], times[folder / "training.jsonl"]
            seconds[SELF_LABELLING] += sampled - before
            seconds[TRAINING] += trained - sampled
            before = times[folder / "stage.json"]
    elif unit_folder / "training.jsonl" in times:
        seconds = {TRAINING: times[unit_folder / "training.jsonl"] - began}
    return {**seconds, ANSWERING: ended - began - sum(seconds.values())}


def _corrected(units: Sequence[UnitForecast], measured: Mapping[str, Mapping[str, float]]) -> list[UnitForecast]:
    """Units with what was measured on this machine, the others in the proportion of measured to predicted seconds."""
    ratios = {}
    for group in GROUPS:
        finished = [row for row in units if group in measured.get(row.unit.name, {})]
        predicted = sum(row.seconds[THIS_MACHINE].get(group, 0.0) for row in finished)
        ratios[group] = sum(measured[row.unit.name][group] for row in finished) / predicted if predicted else 1.0
    corrected = []
    for row in units:
        here = {group: seconds * ratios[group] for group, seconds in row.seconds[THIS_MACHINE].items()}
        seconds = {**row.seconds, THIS_MACHINE: measured.get(row.unit.name, here)}
        corrected.append(replace(row, seconds=seconds, done=row.unit.name in measured))
    return corrected


# what is read --------------------------------------------------------------------------------------------------------


def read_workloads(preview: Preview) -> dict[str, Workload | FeatureWorkload] | str:
    """By the unit's name, the checkpoint's shape, the tokens of its paths and what they rest on, each of the unit's own
    image set, levels and keys of its method; or why they cannot be told."""
    outlines = cache(open_outline)
    name, folder = preview.config.model.checkpoint, None
    workloads: dict[tuple[str, ...], Workload | FeatureWorkload] = {}
    of_units = {}
    try:
        for unit in preview.units:
            keys = preview.config.keys_of(unit.method, unit.targets)
            about = unit.dataset, unit.model, str(unit.factors), str(keys), unit.method if unit.feature_level else ""
            config, images = own_config(unit, preview.config, preview.sets)
            if about not in workloads and unit.feature_level:
                name = config.baselines.clip.checkpoint
                workloads[about] = count_features(config, images, unit.method)
            elif about not in workloads:
                name = config.model.checkpoint
                if endpoint_of(name) is not None:
                    return f"{name}: what a model behind an endpoint computes is not known"
                folder = checkpoint_folder(name)
                outline = outlines(str(folder or name), config.model.tiles, config.model.revision)
                workloads[about] = make_workload(config, images, *outline)
            of_units[unit.name] = workloads[about]
        return of_units
    except (OSError, ValueError, LookupError, TypeError, AttributeError, StopIteration, TemplateError) as error:
        if folder is None and isinstance(error, OSError):
            files = '--include "*.json" "*.jinja"'
            return f"{name} is not on this machine: hf download {name} {files} brings what a forecast reads"
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        return f"{name}: its configuration or its processor cannot be read ({first})"


def make_workload(config: RunConfig, images: ImageSet, model: Any, chat: Chat) -> Workload:
    """What units on these images compute with a model without weights."""
    width, height = _typical_size(config, images)
    image = chat.encode_image(Image.new("RGB", (width, height)), "typical")
    chains, source = sample_chains(config, images)
    prompts = config.question_set(images.classes, images.names, images.several)
    # Every class counts once more, so that those without a sample have their place in the trie.
    labels = [*images.classes, *(label for sample in images.samples for label in sample.labels)]
    paths, typical = count_paths(chat, prompts, image, labels, chains)
    asked, notes = paths, [source]
    if (shown := config.evaluation.examples) is not None and config.evaluation.shots:
        without = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"examples": None})})
        label = dict(zip(prompts.class_names, prompts.classes, strict=True))[typical.label]
        behind, alone = (next(asked_prompts(own, images, label))[1] for own in (config, without))
        asked = paths.behind_examples(chat, behind, alone, image, alike=shown.choice != "nearest")
        notes.append(f"labelled examples take {asked.shared - paths.shared:,} tokens of a prompt")
    plain = shape_of(model, image)
    with torch.device("meta"):
        wrapped = add_lora(model, config.model.lora, seed=0)
    adapted = shape_of(wrapped, image)
    wrapped.unload()
    if config.model.tiles > 1:
        notes.append(f"an image of {width} x {height} pixels, the mean, is cut into {paths.tiles} tiles")
    renderer = PathRenderer(chat, prompts)
    # a pair of two images, the larger kind
    other = chat.encode_image(Image.new("RGB", (width, height)), "another")
    typical = replace(typical, rejected=replace(typical, images=(other,)))
    trees = {
        method.name: method.stages[-1].objective.tree(renderer, typical)
        for method in method_table([*config.methods, *["cls"] * bool(config.evaluation.few_shot_epochs)]).values()
        if method.stages
    }
    return Workload(config, plain, adapted, paths, asked, trees, tuple(notes))


def sample_chains(config: RunConfig, images: ImageSet) -> tuple[tuple[str, ...], str]:
    """Texts of chains from the config's journal, or the describer's where it is the teacher, and a sentence that says
    where their length comes from. Chains of the rounds are taken to be as long."""
    settings = config.chains
    if settings.journal is not None:
        store = read_store(require_journals(Path(settings.journal)))
        candidates = store.read(store.answers.index[store.answers["format"] == settings.format])
        whole = (candidate.text for candidate in candidates if candidate.finish_reason != "length")
        texts = tuple(islice(whole, SAMPLED_CHAINS))
        if texts:
            return texts, f"chain length: mean of the first {len(texts)} chains of the journal"
    elif settings.teacher == "describer":
        texts = _described(config, images)
        return texts, f"chain length: mean of {len(texts)} chains of the describer"
    return (" a" * CHAIN_TOKENS,), f"chain length: {CHAIN_TOKENS} tokens, an assumption of ours"


def _described(config: RunConfig, images: ImageSet) -> tuple[str, ...]:
    """Faultless chains, as accepted ones are, about every n-th scene."""
    drawn, seed = config.data.drawn, 0
    if drawn is not None:
        scenes = [(name, scene) for name, _, scene in planned_scenes(per_class=drawn.per_class, seed=drawn.seed)]
        seed = drawn.seed
    else:
        scenes = list(read_scenes(Path(images.root)).items())
    form, faultless = FORMATS[config.chains.format], DescriberSettings(format_faults=0.0)
    chosen = scenes[:: max(1, len(scenes) // SAMPLED_CHAINS)]
    return tuple(describe(scene, seed=seed, sample_id=name, format=form, settings=faultless) for name, scene in chosen)


def _typical_size(config: RunConfig, images: ImageSet) -> tuple[int, int]:
    """Mean width and height of some of the images."""
    width, height = (round(sum(side) / len(side)) for side in zip(*some_sizes(config.data, images), strict=True))
    return width, height
