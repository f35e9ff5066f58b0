"""How often a unit trains, samples and answers, counted before anything is loaded: for `--dry-run`, the order of
units, and the time left. `predicting` turns these counts into tokens, FLOPs, memory and hours.

Counts are upper bounds where samples may be rejected: an image without an accepted chain is trained on less.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from throughline.domains.samples import ImageSet
from throughline.domains.splits import split_domains
from throughline.experiment.config import RunConfig
from throughline.experiment.units import Unit
from throughline.training.methods import METHODS, Method


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

    def cells(self) -> tuple[str, ...]:
        """Samples, steps, chains and answers as text, for tables."""
        counts = (self.training_samples, self.optimiser_steps, self.chains_sampled, self.answers)
        return tuple(f"{count:,}" for count in counts)

    @property
    def weight(self) -> float:
        """Relative duration. A training pass costs about three forward passes; sampling a chain on the pocket took
        about as long as four of them, since tokens come one by one.
        """
        return 3.0 * self.training_samples + 4.0 * self.chains_sampled + 2.0 * self.answers + 1.0


def estimate_costs(units: Iterable[Unit], config: RunConfig, images: ImageSet) -> dict[str, Cost]:
    """Cost of each unit by its name; `units` come after those they need."""
    splits = split_domains(images, config.data.trial_seed)
    sizes = {domain: (len(split.inside), len(split.out)) for domain, split in splits.items()}
    costs: dict[str, Cost] = {}
    for unit in units:
        sources = [domain for domain in images.domains if domain not in unit.targets]
        inside = sum(min(sizes[domain][0], config.data.train_per_domain or sizes[domain][0]) for domain in sources)
        validation = sum(sizes[domain][1] for domain in sources)
        asked = sum(sum(sizes[domain]) for domain in unit.targets)
        costs[unit.name] = _training_cost(METHODS[unit.method], config, inside) + _answering_cost(
            METHODS[unit.method], config, asked, validation
        )
    return costs


def _stage_cost(config: RunConfig, samples: int) -> Cost:
    stage = config.training.stage
    steps = math.ceil(stage.epochs * math.ceil(samples / stage.batch))
    return Cost(training_samples=round(stage.epochs * samples), optimiser_steps=steps)


def _training_cost(method: Method, config: RunConfig, samples: int) -> Cost:
    if not method.trains:
        return Cost()
    chains = config.chains.per_image if method.needs_chains and method.steps_like is None else 1
    stage = _stage_cost(config, samples * chains)
    if method.self_labelled:
        rounds = config.training.rounds
        return Cost(stage.training_samples * rounds, stage.optimiser_steps * rounds, samples * rounds)
    if method.steps_like is not None:
        steps = _all_steps(METHODS[method.steps_like], config, samples)
        return Cost(training_samples=steps * config.training.stage.batch, optimiser_steps=steps)
    return stage


def _all_steps(method: Method, config: RunConfig, samples: int) -> int:
    """Optimiser steps of a method with what it starts from."""
    own = _training_cost(method, config, samples).optimiser_steps
    return own + (_all_steps(METHODS[method.starts_from], config, samples) if method.starts_from else 0)


def _answering_cost(method: Method, config: RunConfig, asked: int, validation: int) -> Cost:
    """A round's weights answer before the next round begins; the last round's are not asked again unless the
    validation may have chosen others."""
    selecting = method.trains and config.evaluation.selection == "validation"
    if method.self_labelled:
        rounds = config.training.rounds
        measured, candidates = asked * (rounds + selecting), rounds + 1
    else:
        measured, candidates = asked, math.ceil(config.training.stage.epochs)
    validated = validation * candidates if selecting else 0
    answers = measured * len(config.evaluation.answering.answers) + validated
    return Cost(answers=answers, images_measured=measured, images_validated=validated)


def longest_first(units: Iterable[Unit], costs: Mapping[str, Cost]) -> dict[str, float]:
    """For each unit the weight of the longest path that begins with it: start the largest ones first."""
    ordered = list(units)
    path = {unit.name: costs[unit.name].weight for unit in ordered}
    for unit in reversed(ordered):
        for parent in unit.needs:
            path[parent] = max(path[parent], costs[parent].weight + path[unit.name])
    return path
