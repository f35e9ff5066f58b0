"""The plan: a config becomes units, each after those it needs.

A unit is known by the hash of everything that can change its numbers, its `inputs`: content, never a path, a host, a
date, a kind of device or the number of workers. Called by `run`, by `--dry-run`, and for a final model.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from throughline.chains.pairs import Pair, pairs_of_sources, read_pairs
from throughline.core.errors import ThroughlineError
from throughline.core.files import content_hash
from throughline.core.nearest import did_you_mean
from throughline.domains.samples import ImageSet
from throughline.domains.views import VERSION as VIEW_VERSION
from throughline.experiment.config import DataConfig, RunConfig
from throughline.mllm.checkpoints import checkpoint_name, endpoint_of
from throughline.runs.draws import LEAVE_ONE_DOMAIN_OUT
from throughline.runs.unit import DRAW, EVALUATE, FEW_SHOT, PROBE, START, VALIDATE, Unit
from throughline.training.methods import METHODS, Method, method_table, parent_of

VERSIONS: dict[str, int] = {"training": 5, "sampling": 4, "answering": 4, "probing": 2, "features": 2}
VERSIONS |= {"begun and shuffled": 1, "references in autocast": 1}
"""The code versions that enter a unit's hash: raise one when the numbers of its part change, and only then. A finished
unit of an older version is then stale, and `throughline run` says so instead of mixing the two."""

WITHOUT_EFFECT = {"auto_batch", "gradient_checkpointing", "loader_workers", "save_steps", "report_to"}
"""Of a stage's settings: these change memory, time or what is shown, and no number."""

WHAT_IS_ASKED = {"sample", "view", "misled", "described", "options", "examples"}
"""Of the settings of evaluation: what is asked, besides how."""

FOLD, FINAL = "fold", "final"
"""Further kinds of units: `engine.worker` knows who executes each."""
KINDS_WITHOUT_TRAINING = {EVALUATE, PROBE}
"""Kinds that train nothing."""
STEPS = "steps"
"""The role of the needed unit whose optimiser steps a unit takes."""


@dataclass(frozen=True)
class PlannedSet:
    """One image set of a plan: where the config names it, its images, their accepted chains by sample id, and the
    folder of preference pairs about them; None where the run has none."""

    data: DataConfig
    images: ImageSet
    chains: Mapping[str, Sequence[str]] | None
    pairs_folder: str | None = None

    @cached_property
    def pairs(self) -> list[Pair]:
        """The pairs in that folder."""
        return read_pairs(Path(self.pairs_folder), self.images) if self.pairs_folder is not None else []

    @cached_property
    def chain_hashes(self) -> dict[str, str]:
        """For each domain that has accepted chains a hash of its own: what a fold learns from is content."""
        by_domain: dict[str, list[tuple[str, str]]] = {}
        for name, texts in sorted((self.chains or {}).items()):
            by_domain.setdefault(self.images.by_id[name].domain, []).extend((name, text) for text in texts)
        return {domain: content_hash(pairs) for domain, pairs in by_domain.items()}


def plan(config: RunConfig, sets: Sequence[PlannedSet], *checkpoints: str) -> tuple[Unit, ...]:
    """All units of a run, each after those it needs; what a method starts from is added where it is not asked for.

    `checkpoints` are the fingerprints of the models' content, in the config's order. Raises a ThroughlineError for an
    unknown method or target, for methods that lack chains, and for a method that trains where nothing would be left to
    train on.
    """
    methods = method_table(config.methods)
    for name, _, target in (entry.partition("@") for entry in config.per_method):
        if name not in (names := METHODS | methods):
            raise ThroughlineError(f"no method named {name}", "per_method", did_you_mean(name, names, "the methods"))
        if target and not any(target in planned.images.domains for planned in sets):
            sets[0].images.require_domain(target)
    search, known = config.search, dict[str, Unit]()
    _require_comparable(config, methods)
    with_pairs = search is not None and LEAVE_ONE_DOMAIN_OUT in search.rules
    unmeasured = search is not None and search.measure == "validation"
    trained_once = bool(config.asked_factors)
    for planned, (model, checkpoint) in itertools.product(sets, zip(config.models, checkpoints, strict=True)):
        _require_training_data(config, methods, planned)
        can_train = endpoint_of(model.checkpoint) is None
        for levels in config.combinations():
            targets = _targets(planned, methods)
            trained_levels = {name: level for name, level in levels.items() if name not in config.asked_factors}
            for held_out in [*targets, *(_pairs(planned, targets) if with_pairs else [])]:
                kind = VALIDATE if unmeasured or len(held_out) > 1 else FOLD
                base_is_asked = kind == FOLD and levels.get(DRAW, "0") == "0"
                ours = {
                    name: method
                    for name, method in methods.items()
                    if (can_train or method.feature_level if method.trains else base_is_asked)
                }
                asked = [(m, config.at(planned.data, levels, name, held_out, model)) for name, m in ours.items()]
                # a classifier reads an image and nothing else
                asked = [(m, own) for m, own in asked if not (m.feature_level and own.evaluation.shows_more)]
                trained_here = [
                    (method, config.at(planned.data, trained_levels, method.name, held_out, model))
                    for method, _ in asked
                    if method.trains or not trained_once
                ]
                for seed in config.seeds:
                    fold = _Fold(planned, held_out, seed, checkpoint)
                    trained = _add_units(known, fold, VALIDATE if trained_once else kind, trained_here, trained_levels)
                    if trained_once and kind == FOLD:
                        _add_units(known, fold, EVALUATE, asked, levels, trained)
    if not known:
        if unmeasured:
            raise ThroughlineError(
                "no method trains, so there is nothing to validate", "methods", "add cls, for example"
            )
        raise ThroughlineError("a model behind an endpoint cannot be trained or probed", "methods", "add zero_shot")
    return tuple(known.values())


def plan_final(config: RunConfig, planned: PlannedSet, checkpoint: str) -> tuple[Unit, ...]:
    """The units of a final model: the config's one method with one seed, no target held out.

    The last one is the model, those before it are what it starts from.
    """
    (name,), (seed,) = config.methods, config.seeds
    table = method_table([name])
    if any(method.feature_level for method in table.values()):
        raise ThroughlineError("a feature-level method makes no final model", f"methods: {name}", "use throughline run")
    configs = [(method, config.at(planned.data, {}, own)) for own, method in table.items()]
    known = dict[str, Unit]()
    _add_units(known, _Fold(planned, (), seed, checkpoint), FINAL, configs, {})
    return tuple(known.values())


def _targets(planned: PlannedSet, methods: Mapping[str, Method]) -> list[tuple[str, ...]]:
    """What is held out, fold by fold. A set of one domain can be asked about, not trained on."""
    images, wanted = planned.images, planned.data.targets
    targets = images.domains if wanted == "all" else tuple(dict.fromkeys(wanted))
    trains = any(method.trains for method in methods.values())
    for target in targets:
        if trains:
            images.require_target(target)
        else:
            images.require_domain(target)
    return [(target,) for target in targets]


def _pairs(planned: PlannedSet, targets: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Each target with each source, once where both are targets: DomainBed's leave-one-domain-out."""
    domains = planned.images.domains
    if len(domains) < 3:
        what = "leave_one_domain_out holds two domains out, which leaves none to train on"
        raise ThroughlineError(what, "search.rules", "leave the rule out")
    return [pair for pair in itertools.combinations(domains, 2) if any((target,) in targets for target in pair)]


@dataclass(frozen=True)
class _Fold:
    """What the units of one fold and seed have in common; `checkpoint` is the fingerprint of the base."""

    planned: PlannedSet
    targets: tuple[str, ...]
    seed: int
    checkpoint: str


def _add_units(
    known: dict[str, Unit],
    fold: _Fold,
    kind: str,
    configs: Sequence[tuple[Method, RunConfig]],
    levels: Mapping[str, str],
    trained: Mapping[str, Unit] | None = None,
) -> dict[str, Unit]:
    """Adds the units of one fold and seed to those that are `known` by their inputs, one for each method with its
    config; returns them by method. Those of kind EVALUATE ask what is `trained`. The unit of an earlier draw of a
    search with the same inputs stands for both."""
    planned, targets = fold.planned, fold.targets
    sources = [domain for domain in planned.images.domains if domain not in targets]
    images, names = planned.images.fingerprint(), planned.images.names
    chains = None if planned.chains is None else _source_chains(planned.chain_hashes, sources, configs)
    units: dict[str, Unit] = {}
    for method, config in configs:
        evaluation = config.evaluation
        if evaluation.needs_weights and endpoint_of(config.model.checkpoint) is not None:
            continue
        if evaluation.few_shot_epochs and method.stages:
            what = f"examples that train an adapter are a control of zero_shot, and {method.name} has one of its own"
            raise ThroughlineError(what, "evaluation.examples.epochs", "set it in a run of zero_shot alone")
        config.question_set(planned.images.classes, names)  # what is wrong with names is said before training
        asks = FEW_SHOT if evaluation.few_shot_epochs else EVALUATE
        own = kind if method.trains or not targets else method.kind or asks
        trains = own not in KINDS_WITHOUT_TRAINING
        if not trains:
            needs = {START: trained[method.name]} if trained is not None and method.trains else {}
        else:
            parent = parent_of(method)
            roles = {START: parent.name if parent else None, STEPS: method.steps_like}
            needs = {role: units[name] for role, name in roles.items() if name is not None}
        learns = trains and _needs_chains(method, config)
        named: dict[str, Any] = {"kind": own, "method": method.name}
        named |= {"targets": targets, "seed": fold.seed, "factors": dict(levels)}
        unit = Unit(
            **named,
            dataset=planned.images.name,
            model=config.baselines.model_of(method.name)
            if method.feature_level
            else checkpoint_name(config.model.checkpoint),
            needs={role: unit.name for role, unit in needs.items()},
            inputs={
                **named,
                "trial_seed": config.data.trial_seed,
                **({"split_rule": config.data.split_rule} if config.data.split_rule is not None else {}),
                "images": images,
                **({"names": names} if names else {}),
                "chains": chains if learns else None,
                **({"pairs": _source_pairs(planned, targets)} if method.needs_pairs and trains else {}),
                "needs": {role: unit.hash for role, unit in needs.items()},
                **({} if method.feature_level else {"model": _model_inputs(config, own, fold.checkpoint)}),
                **(_feature_inputs if method.feature_level else _stage_inputs)(config, method, own),
                **config.evaluation.given([s for target in targets for s in planned.images.in_domain(target)]),
                "threads": config.threads,
            },
        )
        others = {name: level for name, level in levels.items() if name != DRAW}
        content = content_hash([unit.dataset, unit.model, {**unit.inputs, "factors": others}])
        units[method.name] = known.setdefault(content, unit)
    return units


def _model_inputs(config: RunConfig, kind: str, checkpoint: str) -> dict[str, Any]:
    """What the base and its adapter are."""
    model = config.model
    if endpoint_of(model.checkpoint) is not None:
        return {"checkpoint": checkpoint, "endpoint": model.endpoint.model_dump(include={"image_side", "params"})}
    return {
        "checkpoint": checkpoint,
        **model.model_dump(include={"tiles", "dtype", "quantization"}),
        "lora": model.lora.model_dump(mode="json") if kind not in KINDS_WITHOUT_TRAINING else None,
    }


def _stage_inputs(config: RunConfig, method: Method, kind: str) -> dict[str, Any]:
    """What the unit's own stages read of the config, and the versions of their code."""
    answering, trains = config.evaluation.answering, kind not in KINDS_WITHOUT_TRAINING
    inputs: dict[str, Any] = {"answering": answering.model_dump(mode="json")} if kind != PROBE else {}
    # what a config of an earlier version cannot have is there only where it is set
    inputs |= config.evaluation.model_dump(mode="json", include=WHAT_IS_ASKED, exclude_defaults=True)
    if config.evaluation.view is not None:
        inputs["view_version"] = VIEW_VERSION
    version = "probing" if kind == PROBE else "answering"
    versions = {version: VERSIONS[version]}
    if config.evaluation.begun is not None and config.evaluation.options == "shuffled":
        versions["begun and shuffled"] = VERSIONS["begun and shuffled"]
    wording = config.questions.model_dump(mode="json")
    inputs["questions"] = {key: value for key, value in wording.items() if value or key in {"label", "instruction"}}
    if (trains and method.needs_chains) or (kind != PROBE and "reasoning" in answering.answers):
        inputs["format"] = config.chains.format  # words the reasoning question
    if trains:
        versions["training"] = VERSIONS["training"]
        inputs["train_per_domain"] = config.data.train_per_domain
        inputs["coverage"] = config.chains.coverage
        inputs["stage"] = config.training.stage.model_dump(mode="json", exclude=WITHOUT_EFFECT)
        inputs["selection"] = config.evaluation.selection
        inputs["method_source"] = method.source
    if trains and method.prefers:
        inputs["preference"] = config.training.preference.model_dump(mode="json")
        if config.training.stage.autocast:
            versions["references in autocast"] = VERSIONS["references in autocast"]
    if trains and method.self_labelled:
        versions["sampling"] = VERSIONS["sampling"]
        inputs |= config.training.model_dump(mode="json", include={"rounds", "rejected", "self_labelling"})
        inputs["sampler"] = config.training.sampler.identity
        inputs |= {"candidates": config.training.candidates} if method.prefers else {}
    return inputs | {"versions": versions}


def _feature_inputs(config: RunConfig, method: Method, kind: str) -> dict[str, Any]:
    """What a unit of a feature-level method reads of the config, and the version of its code."""
    inputs: dict[str, Any] = {"baselines": config.baselines.inputs(method.name)}
    inputs["batch"] = config.evaluation.answering.batch
    inputs |= config.evaluation.model_dump(mode="json", include={"sample", "view"}, exclude_defaults=True)
    if config.evaluation.view is not None:
        inputs["view_version"] = VIEW_VERSION
    if kind not in KINDS_WITHOUT_TRAINING:
        inputs["train_per_domain"] = config.data.train_per_domain
        inputs["coverage"] = config.chains.coverage
        inputs["selection"] = config.evaluation.selection
        inputs["method_source"] = method.source
    return inputs | {"versions": {"features": VERSIONS["features"]}}


def _require_comparable(config: RunConfig, methods: Mapping[str, Method]) -> None:
    """Draws of a search are compared on the first answer path: feature-level methods must have it."""
    first = config.evaluation.answering.answers[0]
    if config.search and first != "likelihood" and any(method.feature_level for method in methods.values()):
        what = f"a search compares draws by the first answer path, {first}, and feature-level methods have likelihood"
        raise ThroughlineError(what, "evaluation.answering.answers", "put likelihood first")


def _require_training_data(config: RunConfig, methods: Mapping[str, Method], planned: PlannedSet) -> None:
    paired = [method.name for method in methods.values() if method.needs_pairs]
    if paired and config.chains.pairs is None:
        what = f"{', '.join(paired)} learn from preference pairs, and the config names none"
        raise ThroughlineError(what, "chains", "add --set chains.pairs=DIR")
    lacking = [method.name for method in methods.values() if method.needs_chains]
    if not lacking or planned.chains is not None:
        return
    teacher = "chains.teacher=describer" if planned.data.drawn is not None else "chains.journal=FILE.jsonl"
    without = [
        name for name in config.methods if not any(method.needs_chains for method in method_table([name]).values())
    ]
    raise ThroughlineError(
        f"{', '.join(lacking)} learn from reasoning chains, and the config names none",
        "chains",
        f"add --set {teacher}, or --set methods={','.join(without) or 'cls'}",
    )


def _source_pairs(planned: PlannedSet, targets: Sequence[str]) -> str:
    """Hash of the preference pairs that a fold learns from."""
    pairs = pairs_of_sources(planned.pairs, targets)
    if not pairs:
        raise ThroughlineError("no pair is about two images of source domains", "chains.pairs", "make some")
    return content_hash([pair.identity for pair in pairs])


def _needs_chains(method: Method, config: RunConfig) -> bool:
    """Whether it learns from chains, or only from the images that have one."""
    return method.needs_chains or (method.trains and config.chains.coverage == "shared")


def _source_chains(
    chains: Mapping[str, str], sources: Iterable[str], configs: Iterable[tuple[Method, RunConfig]]
) -> str:
    """Hash of the chains that a fold learns from, or by which it chooses what it learns from."""
    of_sources = {domain: chains[domain] for domain in sources if domain in chains}
    if not of_sources and any(_needs_chains(method, config) for method, config in configs):
        raise ThroughlineError(
            f"no chain is accepted in any of the source domains {', '.join(sources)}", "chains", "build some"
        )
    return content_hash(of_sources)
