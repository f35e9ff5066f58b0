"""How often a unit trains, samples and answers, counted without the model: for `--dry-run`, the order of units, and the
time left. `forecast` turns these counts into tokens, FLOPs, memory and hours.

Chains that are there are counted. Those that are not written yet are all taken to be accepted: counts are upper bounds.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache

from throughline.baselines.settings import BaselineSettings
from throughline.chains.pairs import pairs_of_sources
from throughline.domains.samples import ImageSet
from throughline.domains.splits import split_domains
from throughline.experiment.config import RunConfig
from throughline.experiment.plan import STEPS, PlannedSet
from throughline.runs.unit import DRAW, EVALUATE, FEW_SHOT, PROBE, START, VALIDATE, Unit
from throughline.training.methods import METHODS, Method, method_table
from throughline.training.stages.context import Stage
from throughline.training.stages.preference import PreferenceStage
from throughline.training.stages.rounds import Rounds


@dataclass(frozen=True)
class Cost:
    """Training samples (images x epochs, all stages of this unit), optimiser steps, chains sampled, answers asked.

    The answers are those of `images_measured` in every way of answering (after each round anew), and of
    `images_validated` in the first way only, to select among checkpoints. Behind the unit's weights will be
    `steps_from_base`, and a stage that sees most `images`, or most `images_with_chain`.
    """

    training_samples: int = 0
    optimiser_steps: int = 0
    chains_sampled: int = 0
    answers: int = 0
    images_measured: int = 0
    images_validated: int = 0
    images: int = 0
    images_with_chain: int = 0
    steps_from_base: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(a + b for a, b in zip(asdict(self).values(), asdict(other).values(), strict=True)))

    @property
    def weight(self) -> float:
        """Relative duration. A training pass costs about three forward passes; sampling a chain on the pocket took
        about as long as four of them, since tokens come one by one.
        """
        return 3.0 * self.training_samples + 4.0 * self.chains_sampled + 2.0 * self.answers + 1.0


def estimate_costs(units: Iterable[Unit], config: RunConfig, sets: Sequence[PlannedSet]) -> dict[str, Cost]:
    """Cost of each unit by its name; `sets` are the image sets in the config's order."""
    methods, images = method_table(config.methods), [planned.images for planned in sets]
    named = {own.name: own for own in images}
    splits = cache(lambda name, *how: split_domains(named[name], config.data.trial_seed, *how))
    chains = {planned.images.name: planned.chains or {} for planned in sets}
    pairs = {planned.images.name: planned.pairs for planned in sets}

    @cache
    def material(dataset: str, targets: tuple[str, ...], at_most: int | None, coverage: str, *how: object) -> _Material:
        inside = (split.inside[:at_most] for name, split in splits(dataset, *how).items() if name not in targets)
        names = list(itertools.chain.from_iterable(inside))
        texts = [len(chains[dataset][name]) for name in names if name in chains[dataset]]
        about = pairs_of_sources(pairs[dataset], targets)
        sources = tuple(pair.source for pair in about if pair.chosen.sample.id in {*names})
        return _Material(len(texts) if coverage == "shared" else len(names), len(texts), sum(texts), sources)

    costs: dict[str, Cost] = {}
    for unit in units:
        own, _ = own_config(unit, config, images)
        # DomainBed's split is the same for every target
        how = own.data.split_rule, unit.targets if own.data.split_rule == "concepts" else ()
        parts, method = splits(unit.dataset, *how), methods[unit.method]
        validation = sum(len(split.out) for domain, split in parts.items() if domain not in unit.targets)
        inside, out = (sum(len(getattr(parts[name], part)) for name in unit.targets) for part in ("inside", "out"))
        target = (name for domain in unit.targets for name in (*parts[domain].inside, *parts[domain].out))
        asked = own.asked([named[unit.dataset].by_id[name] for name in target])
        measured = len(asked) if unit.kind != VALIDATE else 0
        fold = material(unit.dataset, unit.targets, own.data.train_per_domain, own.chains.coverage, *how)
        steps = {role: costs[name].steps_from_base for role, name in unit.needs.items()}
        trained = Cost()
        if unit.kind == FEW_SHOT and own.evaluation.examples is not None:
            method, fold = METHODS["cls"], _Material(own.evaluation.examples.shots, 0, 0, ())
        if unit.feature_level:
            sources = len(parts) - len(unit.targets)
            settings = own.baselines.of(method.name)
            trained = _feature_cost(settings, sources) if unit.kind != EVALUATE else trained
            checkpoints = math.ceil(settings.steps / settings.checkpoint_every)
            validates = trained.optimiser_steps and own.evaluation.selection != "last"
            validated = validation * checkpoints if validates else 0
            cost = trained + Cost(answers=measured + validated, images_measured=measured, images_validated=validated)
        elif unit.kind == EVALUATE:
            cost = _asking_cost(own, measured)
        elif unit.kind == PROBE:
            cost = Cost(answers=inside + out, images_measured=inside + out)
        else:
            trained = sum((_cost_of(stage, own, fold, steps.get(STEPS)) for stage in method.own_stages), trained)
            cost = trained + _answering_cost(method, own, measured, validation)
        if DRAW in unit.factors and method.trains:
            again = inside if len(unit.targets) > 1 else validation if own.evaluation.selection == "last" else 0
            cost += Cost(answers=again, images_validated=again)
        labels = (
            method.self_labelled
            or method.feature_level
            or any(stage.objective.learns_labels for stage in method.stages)
        )
        costs[unit.name] = replace(
            cost,
            images=fold.images if labels else fold.with_chain if method.trains else 0,
            images_with_chain=fold.images if method.self_labelled else fold.with_chain if method.needs_chains else 0,
            steps_from_base=steps.get(START, 0) + trained.optimiser_steps,
        )
    return costs


def own_config(unit: Unit, config: RunConfig, sets: Sequence[ImageSet]) -> tuple[RunConfig, ImageSet]:
    """The config of a unit's image set, model, levels, method and targets, and the set; `sets` are in the config's
    order."""
    position = [images.name for images in sets].index(unit.dataset)
    model = config.model_called(unit.model)
    return config.at(config.image_sets[position], unit.factors, unit.method, unit.targets, model), sets[position]


@dataclass(frozen=True)
class _Material:
    """What a fold has to train on: its images, those of them with a chain, all their chains, and pairs."""

    images: int
    with_chain: int
    chains: int
    pairs: tuple[str, ...]
    """The source of each preference pair about one of the images."""


def _cost_of(stage: Stage, config: RunConfig, fold: _Material, copied: int | None) -> Cost:
    """`copied` are the steps of the method whose number of steps a stage may take."""
    if isinstance(stage, Rounds):
        once, rounds = _stage_cost(config, fold.images), config.training.rounds
        written = fold.images * rounds * (config.training.candidates if stage.objective.has_reference else 1)
        return Cost(once.training_samples * rounds, once.optimiser_steps * rounds, written)
    if isinstance(stage, PreferenceStage):
        return _stage_cost(config, sum(1 for source in fold.pairs if not stage.sources or source in stage.sources))
    if stage.steps_like is not None and copied is not None:
        return Cost(training_samples=copied * config.training.stage.batch, optimiser_steps=copied)
    if not stage.needs_chains:
        return _stage_cost(config, fold.images)
    return _stage_cost(config, fold.chains + (fold.images - fold.with_chain if stage.objective.learns_labels else 0))


def _stage_cost(config: RunConfig, samples: int) -> Cost:
    stage = config.training.stage
    return Cost(training_samples=round(stage.epochs * samples), optimiser_steps=stage.steps(samples))


def _feature_cost(settings: BaselineSettings, sources: int) -> Cost:
    return Cost(settings.steps * settings.batch_per_domain * sources, settings.steps)


def _answering_cost(method: Method, config: RunConfig, images: int, validation: int) -> Cost:
    """A round's weights answer before the next round begins; the last round's are not asked again unless the
    validation may have chosen others."""
    selecting = method.trains and config.evaluation.selection == "validation"
    measured, candidates = images, math.ceil(config.training.stage.epochs)
    if method.self_labelled:
        measured, candidates = images * (config.training.rounds + selecting), config.training.rounds + 1
    validated = validation * candidates if selecting else 0
    return _asking_cost(config, measured) + Cost(answers=validated, images_validated=validated)


def _asking_cost(config: RunConfig, images: int) -> Cost:
    return Cost(answers=images * len(config.evaluation.answering.answers), images_measured=images)


def longest_paths(units: Sequence[Unit], lengths: Mapping[str, float]) -> dict[str, float]:
    """For each unit the length of the longest path of units, each needed by the next, that begins with it; `units` come
    after those they need."""
    paths = {unit.name: lengths[unit.name] for unit in units}
    for unit in reversed(units):
        for parent in unit.needs.values():
            paths[parent] = max(paths[parent], lengths[parent] + paths[unit.name])
    return paths
