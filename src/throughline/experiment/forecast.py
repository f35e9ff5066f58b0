"""The forecast of a run: every unit's tokens, FLOPs, peak memory and seconds on named hardware.

`throughline run --dry-run` prints it. It opens the checkpoint's outline (configuration, processor and a model without
weights) and a few hundred chains; where the outline cannot be read, the forecast is one line that says so. Times on
this machine are corrected by those of the units that the run folder has finished.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from PIL import Image
from transformers.utils import logging as transformers_logging

from throughline.chains.formats import FORMATS
from throughline.chains.store import read_store
from throughline.domains.samples import ImageSet
from throughline.drawn.describer import DescriberSettings, describe
from throughline.drawn.world import planned_scenes, read_scenes
from throughline.experiment.config import RunConfig
from throughline.experiment.costs import longest_paths
from throughline.experiment.folder import DONE, UNITS
from throughline.experiment.hardware import CARDS, THIS_MACHINE, Hardware, this_machine
from throughline.experiment.preparation import journal_paths
from throughline.experiment.run import Preview
from throughline.experiment.units import Unit
from throughline.experiment.workload import ANSWERING, SELF_LABELLING, TRAINING, Memory, Phase, Workload, count_paths
from throughline.mllm.checkpoints import checkpoint_folder
from throughline.mllm.shapes import Outline, open_outline
from throughline.teaching.estimate import CHAIN_TOKENS
from throughline.training.methods import METHODS
from throughline.training.objectives import sample_tree

SAMPLED_CHAINS = 300
"""Chains that are looked at: their mean is then known to a few per cent."""
SAMPLED_IMAGES = 100
"""Images whose size is read."""


@dataclass(frozen=True)
class UnitForecast:
    """One unit: its phases, its peak of memory, and seconds by hardware and by training, self-labelling, answering;
    those on this machine were measured where the unit is `done`."""

    unit: Unit
    phases: tuple[Phase, ...]
    memory: Memory
    seconds: Mapping[str, Mapping[str, float]]
    done: bool = False

    def flops(self, group: str) -> int:
        """Of training, self-labelling or answering."""
        return sum(phase.all_flops for phase in self.phases if phase.group == group)

    @property
    def training_tokens(self) -> int:
        """Tokens of trees, over all epochs and rounds."""
        return sum(phase.tokens for phase in self.phases if phase.name == TRAINING)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of prompts and tries."""
        return sum(phase.tokens for phase in self.phases if phase.name != TRAINING)

    @property
    def new_tokens(self) -> int:
        """Tokens written one by one."""
        return sum(phase.new_tokens for phase in self.phases)

    def total_seconds(self, hardware: str) -> float:
        """Of all phases."""
        return sum(self.seconds[hardware].values())

    def to_json(self) -> dict[str, Any]:
        """What `--json` says of a unit."""
        return {
            "training_tokens": self.training_tokens,
            "prompt_tokens": self.prompt_tokens,
            "new_tokens": self.new_tokens,
            "flops": {phase.name: phase.all_flops for phase in self.phases},
            "memory": asdict(self.memory) | {"total": self.memory.total},
            "seconds": self.seconds,
            "done": self.done,
        }


@dataclass(frozen=True)
class Forecast:
    """All units on all hardware. `elapsed` is seconds from start to end by hardware, with its workers, on this machine
    without the units that are done; `missing` one line for hardware of which nothing is known."""

    units: tuple[UnitForecast, ...]
    workload: Workload
    hardware: tuple[Hardware, ...]
    elapsed: Mapping[str, float]
    missing: Mapping[str, str]

    @property
    def memory(self) -> int:
        """The largest unit's peak."""
        return max((unit.memory.total for unit in self.units), default=0)

    def to_json(self) -> dict[str, Any]:
        """What `--json` says of the whole run; the units stand elsewhere."""
        need = self.memory
        return {
            "paths": asdict(self.workload.paths),
            "hardware": [
                asdict(one) | {"seconds": self.elapsed[one.name], "memory_needed": need, "fits": one.holds(need)}
                for one in self.hardware
            ],
            "missing": self.missing,
            "notes": list(self.workload.notes),
        }


def forecast_run(preview: Preview, run_folder: Path | None = None) -> Forecast | str:
    """The forecast, or one line that says why there is none."""
    workload = read_workload(preview)
    if isinstance(workload, str):
        return workload
    here = this_machine(preview.config)
    missing = {THIS_MACHINE: here} if isinstance(here, str) else {}
    hardware = (*(() if isinstance(here, str) else (here,)), *(card.hardware(preview.config) for card in CARDS))
    measured = measured_units(run_folder, preview.units) if run_folder is not None and not missing else {}
    units = _corrected([_unit_forecast(unit, preview, workload, hardware) for unit in preview.units], measured)
    return Forecast(units, workload, hardware, {one.name: _elapsed(units, one) for one in hardware}, missing)


def _unit_forecast(unit: Unit, preview: Preview, workload: Workload, hardware: Sequence[Hardware]) -> UnitForecast:
    method = METHODS[unit.method]
    phases = workload.phases(method, preview.costs[unit.name])
    layers = workload.plain.decoder.layers
    seconds = {one.name: seconds_by_group(one, phases, layers) for one in hardware}
    return UnitForecast(unit, phases, workload.memory(method), seconds)


def seconds_by_group(hardware: Hardware, phases: Sequence[Phase], layers: int) -> dict[str, float]:
    """Seconds of training, self-labelling and answering, where the unit has any."""
    seconds: dict[str, float] = {}
    for phase in phases:
        seconds[phase.group] = seconds.get(phase.group, 0.0) + hardware.seconds(phase, layers)
    return seconds


def _elapsed(units: Sequence[UnitForecast], hardware: Hardware) -> float:
    """No sooner than the longest chain of units that need one another, nor than all work shared among the workers."""
    to_do = {
        one.unit.name: 0.0 if one.done and hardware.name == THIS_MACHINE else one.total_seconds(hardware.name)
        for one in units
    }
    if not any(to_do.values()):
        return 0.0
    longest = max(longest_paths([one.unit for one in units], to_do).values())
    return hardware.shares.starting + max(longest, sum(to_do.values()) / hardware.workers)


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


def _corrected(units: Sequence[UnitForecast], measured: Mapping[str, Mapping[str, float]]) -> tuple[UnitForecast, ...]:
    """Units with what was measured on this machine, the others in the proportion of measured to predicted seconds."""
    if not measured:
        return tuple(units)
    finished = [one for one in units if one.unit.name in measured]
    ratios = {}
    for group in (TRAINING, SELF_LABELLING, ANSWERING):
        predicted = sum(one.seconds[THIS_MACHINE].get(group, 0.0) for one in finished)
        took = sum(measured[one.unit.name].get(group, 0.0) for one in finished)
        ratios[group] = took / predicted if took and predicted else 1.0

    def correct(one: UnitForecast) -> UnitForecast:
        here = {group: seconds * ratios[group] for group, seconds in one.seconds[THIS_MACHINE].items()}
        seconds = {**one.seconds, THIS_MACHINE: measured.get(one.unit.name, here)}
        return UnitForecast(one.unit, one.phases, one.memory, seconds, one.unit.name in measured)

    return tuple(map(correct, units))


# what is read --------------------------------------------------------------------------------------------------------


def read_workload(preview: Preview) -> Workload | str:
    """The checkpoint's shape, the tokens of the run's paths and what they rest on; or why they cannot be told."""
    config, name = preview.config, preview.config.model.checkpoint
    transformers_logging.disable_progress_bar()
    source = checkpoint_folder(name) or _cached_folder(name)
    if source is None:
        files = '--include "*.json" "*.jinja"'
        return f"{name} is not on this machine: hf download {name} {files} brings what a forecast reads"
    try:
        outline = open_outline(str(source), config.model.tiles)
        return make_workload(preview, outline)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StopIteration, TemplateError) as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        return f"{name}: its configuration or its processor cannot be read ({first})"


def make_workload(preview: Preview, outline: Outline) -> Workload:
    """What the run's units compute with the model of an outline."""
    config, images, chat = preview.config, preview.images, outline.chat
    width, height = _typical_size(config, images)
    image = chat.encode_image(Image.new("RGB", (width, height)), "typical")
    chains, source = sample_chains(config, images)
    prompts = config.question_set(images.classes)
    # Every class counts once more, so that those without a sample have their place in the trie.
    labels = [*images.classes, *(label for sample in images.samples for label in sample.labels)]
    paths, typical = count_paths(chat, prompts, image, labels, chains)
    methods = {unit.method: METHODS[unit.method] for unit in preview.units}
    notes = [source]
    if config.model.tiles > 1:
        notes.append(f"an image of {width} x {height} pixels, the mean, is cut into {paths.tiles} tiles")
    plain, adapted = outline.shapes(config.model.lora, image)
    return Workload(
        config=config,
        plain=plain,
        adapted=adapted,
        paths=paths,
        trees={
            name: sample_tree(chat, prompts, image, typical, method.marked)
            for name, method in methods.items()
            if method.trains
        },
        notes=tuple(notes),
    )


def sample_chains(config: RunConfig, images: ImageSet) -> tuple[tuple[str, ...], str]:
    """Texts of chains from the config's journal, or the describer's where it is the teacher, and a sentence that says
    where their length comes from. Chains of the rounds are taken to be as long."""
    settings = config.chains
    if settings.journal is not None:
        texts = tuple(islice(_journal_texts(settings.journal, settings.format), SAMPLED_CHAINS))
        if texts:
            return texts, f"chain length: mean of the first {len(texts)} chains of the journal"
    elif settings.teacher == "describer":
        texts = _described(config, images)
        return texts, f"chain length: mean of {len(texts)} chains of the describer"
    return (" a" * CHAIN_TOKENS,), f"chain length: {CHAIN_TOKENS} tokens, an assumption of ours"


def _journal_texts(journal: str, format: str) -> Iterator[str]:
    store = read_store(journal_paths(journal))
    candidates = store.read(store.answers.index[store.answers["format"] == format])
    return (candidate.text for candidate in candidates if candidate.finish_reason != "length")


def _described(config: RunConfig, images: ImageSet) -> tuple[str, ...]:
    """Faultless chains, as accepted ones are, about every n-th scene."""
    drawn, form = config.data.drawn, FORMATS[config.chains.format]
    if drawn is not None:
        scenes = [(name, scene) for name, _, scene in planned_scenes(per_class=drawn.per_class, seed=drawn.seed)]
    else:
        scenes = list(read_scenes(Path(images.root)).items())
    faultless, seed = DescriberSettings(format_faults=0.0), drawn.seed if drawn is not None else 0
    chosen = scenes[:: max(1, len(scenes) // SAMPLED_CHAINS)]
    return tuple(describe(scene, seed=seed, sample_id=name, format=form, settings=faultless) for name, scene in chosen)


def _cached_folder(name: str) -> Path | None:
    """Where the Hugging Face cache holds a hub checkpoint's config; asks no network."""
    from huggingface_hub import try_to_load_from_cache

    try:
        path = try_to_load_from_cache(name, "config.json")
    except ValueError:  # no name of the hub
        return None
    return Path(path).parent if isinstance(path, str) else None


def _typical_size(config: RunConfig, images: ImageSet) -> tuple[int, int]:
    """Mean width and height of some of the images, from their headers."""
    if config.data.drawn is not None:
        return config.data.drawn.size, config.data.drawn.size
    sizes = list(_sizes(images)) or [(448, 448)]
    width, height = (round(sum(side) / len(sizes)) for side in zip(*sizes, strict=True))
    return width, height


def _sizes(images: ImageSet) -> Iterator[tuple[int, int]]:
    for sample in images.samples[:: max(1, len(images.samples) // SAMPLED_IMAGES)]:
        try:
            with Image.open(sample.path) as image:
                yield image.size
        except OSError:  # `data check` names the unreadable
            continue
