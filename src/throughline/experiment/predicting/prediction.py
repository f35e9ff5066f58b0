"""A run's prediction: every unit's tokens, FLOPs, peak memory and seconds on named hardware, from its config alone.

`throughline run --dry-run` prints it. Nothing is loaded but `config.json`, the tokenizer and a few hundred chains;
where the checkpoint's shape or its tokenizer cannot be read, the prediction is one line that says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from PIL import Image

from throughline.chains.formats import FORMATS
from throughline.chains.prompts import make_prompts
from throughline.domains.samples import ImageSet
from throughline.experiment.config import RunConfig
from throughline.experiment.costs import Cost
from throughline.experiment.predicting.chain_lengths import sample_chains
from throughline.experiment.predicting.hardware import (
    CARDS,
    THIS_MACHINE,
    Hardware,
    elapsed,
    seconds_by_group,
    this_machine,
)
from throughline.experiment.predicting.memory import Memory, peak_memory
from throughline.experiment.predicting.tokens import Paths, PromptCounter, count_paths
from throughline.experiment.predicting.work import TRAINING, Phase, phases_of
from throughline.experiment.units import Unit
from throughline.mllm.checkpoints import checkpoint_folder
from throughline.mllm.shapes import CheckpointShape, read_shape
from throughline.training.methods import METHODS

LOOKED_AT = 100  # images whose size is read


@dataclass(frozen=True)
class UnitPrediction:
    """One unit: its phases, its peak of memory, and seconds by hardware and by training, self-labelling, answering."""

    unit: Unit
    phases: tuple[Phase, ...]
    memory: Memory
    seconds: dict[str, dict[str, float]]

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
        }


@dataclass(frozen=True)
class RunPrediction:
    """All units on all hardware. `elapsed` is seconds from start to end by hardware, with its workers; `missing` one
    line for hardware of which nothing is known; `notes` what the numbers rest on."""

    units: tuple[UnitPrediction, ...]
    paths: Paths
    hardware: tuple[Hardware, ...]
    elapsed: dict[str, float]
    missing: dict[str, str]
    notes: tuple[str, ...]

    @property
    def memory(self) -> int:
        """The largest unit's peak."""
        return max((unit.memory.total for unit in self.units), default=0)

    def to_json(self) -> dict[str, Any]:
        """What `--json` says of the whole run; the units stand elsewhere."""
        return {
            "paths": asdict(self.paths),
            "hardware": [
                {
                    **asdict(hardware),
                    "seconds": self.elapsed[hardware.name],
                    "memory_needed": self.memory,
                    "fits": hardware.holds(self.memory),
                }
                for hardware in self.hardware
            ],
            "missing": self.missing,
            "notes": list(self.notes),
        }


def predict_run(
    config: RunConfig, images: ImageSet, units: Sequence[Unit], costs: dict[str, Cost]
) -> RunPrediction | str:
    """The prediction, or one line that says why there is none."""
    read = read_paths(config, images)
    if isinstance(read, str):
        return read
    model, paths, notes = read
    found, missing = [card.hardware(config) for card in CARDS], dict[str, str]()
    here = this_machine(config)
    if isinstance(here, str):
        missing[THIS_MACHINE] = here
    else:
        found.insert(0, here)
    predicted = tuple(predict_unit(unit, costs[unit.name], config, model, paths, found) for unit in units)
    needs = {unit.name: unit.needs for unit in units}
    return RunPrediction(
        units=predicted,
        paths=paths,
        hardware=tuple(found),
        elapsed={
            hardware.name: elapsed(
                {one.unit.name: one.total_seconds(hardware.name) for one in predicted},
                needs,
                hardware.workers,
                hardware.shares.starting,
            )
            for hardware in found
        },
        missing=missing,
        notes=notes,
    )


def predict_unit(
    unit: Unit, cost: Cost, config: RunConfig, model: CheckpointShape, paths: Paths, hardware: Sequence[Hardware]
) -> UnitPrediction:
    """One unit on each hardware."""
    method, layers = METHODS[unit.method], model.shape.decoder.layers
    phases = phases_of(method, cost, config, model.shape, paths)
    return UnitPrediction(
        unit=unit,
        phases=phases,
        memory=peak_memory(method, config, model, paths),
        seconds={one.name: seconds_by_group(one, phases, layers) for one in hardware},
    )


def read_paths(config: RunConfig, images: ImageSet) -> tuple[CheckpointShape, Paths, tuple[str, ...]] | str:
    """The checkpoint's shape, the tokens of the run's paths and what they rest on; or why they cannot be told."""
    name = config.model.checkpoint
    folder = checkpoint_folder(name) or cached_folder(name)
    if folder is None:
        files = '--include "*.json" "*.jinja"'
        return f"{name} is not on this machine: hf download {name} {files} brings what a prediction reads"
    model = read_shape(folder, _typical_size(config, images))
    if isinstance(model, str):
        return f"{name}: {model}"
    try:
        counter = PromptCounter(folder, model, config.model.tiles)
        chains = sample_chains(config, images)
        prompts = make_prompts(images.classes, FORMATS[config.chains.format])
        paths = count_paths(counter, prompts, images, chains.measured)
    except (OSError, ValueError, TemplateError) as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        return f"{name}: its tokens cannot be counted ({first})"
    notes = [chains.source]
    if counter.tiles > 1:
        notes.append(
            f"an image has at most {config.model.tiles} tiles and a thumbnail, by its aspect ratio: all counted"
        )
    return model, paths, tuple(notes)


def cached_folder(name: str) -> Path | None:
    """Where the Hugging Face cache holds a hub checkpoint's config; asks no network."""
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(name, "config.json")
    except ValueError:  # no name of the hub
        return None
    return Path(found).parent if isinstance(found, str) else None


def _typical_size(config: RunConfig, images: ImageSet) -> tuple[int, int] | None:
    """Mean width and height of some of the images, from their headers."""
    if config.data.drawn is not None:
        return config.data.drawn.size, config.data.drawn.size
    sizes = list(islice(_sizes(images), LOOKED_AT))
    if not sizes:
        return None
    width, height = (round(sum(side) / len(sizes)) for side in zip(*sizes, strict=True))
    return width, height


def _sizes(images: ImageSet) -> Iterator[tuple[int, int]]:
    for sample in images.samples[:: max(1, len(images.samples) // LOOKED_AT)]:
        try:
            with Image.open(sample.path) as image:
                yield image.size
        except OSError:  # `data check` names the unreadable
            continue
