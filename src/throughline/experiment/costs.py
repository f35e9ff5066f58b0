"""How often a unit trains, samples and answers, counted without the model: for `--dry-run`, the order of units, and the
time left. `forecast` turns these counts into tokens, FLOPs, memory and hours.

Counts are upper bounds where samples may be rejected: an image without an accepted chain is trained on less.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from throughline.domains.samples import ImageSet
from throughline.domains.splits import split_domains
from throughline.experiment.config import RunConfig
from throughline.runs.unit import Unit
from throughline.training.methods import METHODS, Method, method_table
from throughline.training.stages.context import Stage
from throughline.training.stages.rounds import Rounds


@dataclass(frozen=True)
class Cost:
    """Training samples (images x epochs, all stages of this unit), optimiser steps, chains sampled, answers asked.

    The answers are those of `images_measured` in every way of answering (after each round anew), and of
    `images_validated` in the first way only, to select among checkpoints.
    """

    training_samples: int = 0
    optimiser_steps: int = 0
    chains_sampled: int = 0
    answers: int = 0
    images_measured: int = 0
    images_validated: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(a + b for a, b in zip(asdict(self).values(), asdict(other).values(), strict=True)))

    @property
    def weight(self) -> float:
        """Relative duration. A training pass costs about three forward passes; sampling a chain on the pocket took
        about as long as four of them, since tokens come one by one.
        """
        return 3.0 * self.training_samples + 4.0 * self.chains_sampled + 2.0 * self.answers + 1.0


def estimate_costs(units: Iterable[Unit], config: RunConfig, sets: Sequence[ImageSet]) -> dict[str, Cost]:
    """Cost of each unit by its name; `sets` are the image sets in the config's order."""
    methods = method_table(config.methods)
    splits = {images.name: split_domains(images, config.data.trial_seed) for images in sets}
    costs: dict[str, Cost] = {}
    for unit in units:
        at, _ = own_config(unit, config, sets)
        sizes = {domain: (len(split.inside), len(split.out)) for domain, split in splits[unit.dataset].items()}
        sources = [domain for domain in sizes if domain not in unit.targets]
        inside = sum(min(sizes[domain][0], at.data.train_per_domain or sizes[domain][0]) for domain in sources)
        validation = sum(sizes[domain][1] for domain in sources)
        measured = sum(sum(sizes[domain]) for domain in unit.targets)
        method = methods[unit.method]
        trained = (_cost_of(stage, at, inside) for stage in method.own_stages)
        costs[unit.name] = sum(trained, _answering_cost(method, at, measured, validation))
    return costs


def own_config(unit: Unit, config: RunConfig, sets: Sequence[ImageSet]) -> tuple[RunConfig, ImageSet]:
    """The config of a unit's image set and levels, and the set; `sets` are in the config's order."""
    position = [images.name for images in sets].index(unit.dataset)
    return config.at(config.image_sets[position], unit.factors), sets[position]


def _stage_cost(config: RunConfig, samples: int) -> Cost:
    stage = config.training.stage
    return Cost(training_samples=round(stage.epochs * samples), optimiser_steps=stage.steps(samples))


def _cost_of(stage: Stage, config: RunConfig, samples: int) -> Cost:
    if isinstance(stage, Rounds):
        once, rounds = _stage_cost(config, samples), config.training.rounds
        return Cost(once.training_samples * rounds, once.optimiser_steps * rounds, samples * rounds)
    if stage.steps_like is not None:
        copied = METHODS[stage.steps_like].stages
        steps = sum(_cost_of(each, config, samples).optimiser_steps for each in copied)
        return Cost(training_samples=steps * config.training.stage.batch, optimiser_steps=steps)
    return _stage_cost(config, samples * (config.chains.per_image if stage.needs_chains else 1))


def _answering_cost(method: Method, config: RunConfig, images: int, validation: int) -> Cost:
    """A round's weights answer before the next round begins; the last round's are not asked again unless the
    validation may have chosen others."""
    selecting = method.trains and config.evaluation.selection == "validation"
    measured, candidates = images, math.ceil(config.training.stage.epochs)
    if method.self_labelled:
        measured, candidates = images * (config.training.rounds + selecting), config.training.rounds + 1
    validated = validation * candidates if selecting else 0
    answers = measured * len(config.evaluation.answering.answers) + validated
    return Cost(answers=answers, images_measured=measured, images_validated=validated)


def longest_paths(units: Sequence[Unit], lengths: Mapping[str, float]) -> dict[str, float]:
    """For each unit the length of the longest path of units, each needed by the next, that begins with it; `units` come
    after those they need."""
    paths = {unit.name: lengths[unit.name] for unit in units}
    for unit in reversed(units):
        for parent in unit.needs.values():
            paths[parent] = max(paths[parent], lengths[parent] + paths[unit.name])
    return paths
