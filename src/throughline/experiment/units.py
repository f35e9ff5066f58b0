"""The plan: a config becomes units, the smallest things that are trained or evaluated, in an order that works.

A unit is known by the hash of everything that can change its numbers: `inputs`. It holds content, never a path, a
host, a date or the number of workers. `run` calls `plan`; workers, the run folder and `--dry-run` read the units.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from throughline.core.errors import ThroughlineError
from throughline.core.files import content_hash
from throughline.core.nearest import did_you_mean
from throughline.domains.samples import ImageSet
from throughline.experiment.config import RunConfig
from throughline.experiment.versions import STAGE_VERSIONS
from throughline.mllm.checkpoints import checkpoint_name
from throughline.training.methods import METHODS, Method

# Of a stage's settings: these change memory, time or what is shown, and no number.
WITHOUT_EFFECT = {"auto_batch", "gradient_checkpointing", "loader_workers", "save_steps", "report_to"}

FINAL = "final"
"""Stands for the target in the name of a unit that holds nothing out."""


@dataclass(frozen=True)
class Unit:
    """One method with one target and one seed.

    `starts_from` is the unit whose adapter this one goes on from, `steps_like` the one whose number of optimiser
    steps it takes; both are names of units that must be done first.
    """

    dataset: str
    targets: tuple[str, ...]
    method: str
    model: str
    tiles: int
    seed: int
    trial: int
    inputs: Mapping[str, Any] = field(compare=False, repr=False)
    starts_from: str | None = None
    steps_like: str | None = None

    @cached_property
    def hash(self) -> str:
        """SHA-256 (hex) of the inputs."""
        return content_hash(self.inputs)

    @property
    def slug(self) -> str:
        """The readable part of the name, e.g. `sketch-mtct_sarr-seed0`."""
        targets = "+".join(re.sub(r"[^\w.]+", "_", target) for target in self.targets) or FINAL
        return f"{targets}-{self.method}-seed{self.seed}"

    @property
    def name(self) -> str:
        """Its folder below `units/`."""
        return f"{self.slug}-{self.hash[:8]}"

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the units that must be done before this one starts."""
        return tuple(name for name in (self.starts_from, self.steps_like) if name is not None)

    def describe(self) -> dict[str, Any]:
        """The content of `unit.json`."""
        return {
            "schema": 1,
            "unit": self.name,
            "dataset": self.dataset,
            "targets": list(self.targets),
            "method": self.method,
            "model": self.model,
            "tiles": self.tiles,
            "seed": self.seed,
            "trial": self.trial,
            "starts_from": self.starts_from,
            "steps_like": self.steps_like,
            "inputs": dict(self.inputs),
        }


def plan(
    config: RunConfig, images: ImageSet, chains: Mapping[str, str] | None, model_fingerprint: str
) -> tuple[Unit, ...]:
    """All units of a run, each after those it needs; what a method starts from is added where it is not asked for.

    `chains` gives for each domain the hash of its accepted chains; None where the run has no chains. Raises a
    ThroughlineError for an unknown method or target, for a single domain, and for methods that lack chains.
    """
    methods = with_parents(config.methods)
    targets = _targets(config, images)
    _require_chains(config, methods, chains)
    fingerprint = images.fingerprint()
    units: list[Unit] = []
    for target in targets:
        sources = [domain for domain in images.domains if domain != target]
        content = {
            "images": fingerprint,
            "checkpoint": model_fingerprint,
            "chains": None if chains is None else _source_chains(chains, sources, methods),
        }
        for seed in config.seeds:
            made: dict[str, Unit] = {}
            for method in methods:
                made[method.name] = _unit(config, method, (target,), seed, images=images, content=content, made=made)
            units += made.values()
    return tuple(units)


def plan_final(
    config: RunConfig, images: ImageSet, chains: Mapping[str, str] | None, model_fingerprint: str
) -> tuple[Unit, ...]:
    """The units of a final model (`fitting`): the config's one method with one seed, no target held out.

    The last one is the model, those before it are what it starts from.
    """
    (name,), (seed,) = config.methods, config.seeds
    methods = with_parents([name])
    content = {
        "images": images.fingerprint(),
        "checkpoint": model_fingerprint,
        "chains": None if chains is None else _source_chains(chains, images.domains, methods),
    }
    made: dict[str, Unit] = {}
    for method in methods:
        made[method.name] = _unit(config, method, (), seed, images=images, content=content, made=made)
    return tuple(made.values())


def _unit(
    config: RunConfig,
    method: Method,
    targets: tuple[str, ...],
    seed: int,
    *,
    images: ImageSet,
    content: Mapping[str, str | None],
    made: Mapping[str, Unit],
) -> Unit:
    """One unit, from the hashes of what a fold reads and the units of the same targets and seed it may need."""
    starts_from = made[method.starts_from] if method.starts_from else None
    steps_like = made[method.steps_like] if method.steps_like else None
    return Unit(
        dataset=images.name,
        targets=targets,
        method=method.name,
        model=checkpoint_name(config.model.checkpoint),
        tiles=config.model.tiles,
        seed=seed,
        trial=config.data.trial_seed,
        starts_from=starts_from.name if starts_from else None,
        steps_like=steps_like.name if steps_like else None,
        inputs={
            "method": method.name,
            "targets": list(targets),
            "seed": seed,
            "trial_seed": config.data.trial_seed,
            "images": content["images"],
            "chains": content["chains"] if method.needs_chains else None,
            "parents": {
                "starts_from": starts_from.hash if starts_from else None,
                "steps_like": steps_like.hash if steps_like else None,
            },
            "model": _model_inputs(config, method, content["checkpoint"]),
            **_stage_inputs(config, method),
            "threads": config.threads,
        },
    )


def _model_inputs(config: RunConfig, method: Method, checkpoint: str | None) -> dict[str, Any]:
    """What the base and its adapter are. Weights as they were loaded have no entry, as before there were others."""
    model = config.model
    others: dict[str, str] = {} if model.quantization == "none" else {"quantization": model.quantization}
    others |= {} if model.attention == "sdpa" else {"attention": model.attention}
    return {
        "checkpoint": checkpoint,
        "tiles": model.tiles,
        "dtype": model.dtype,
        "device": model.device,
        "lora": model.lora.model_dump(mode="json") if method.trains else None,
        **others,
    }


def with_parents(names: Iterable[str]) -> tuple[Method, ...]:
    """The methods named, each once and after those it starts from or copies steps from, which are added."""
    found: dict[str, Method] = {}

    def add(name: str) -> None:
        if name not in METHODS:
            raise ThroughlineError(f"no method named {name}", "methods", did_you_mean(name, METHODS, "the methods"))
        method = METHODS[name]
        for parent in (method.starts_from, method.steps_like):
            if parent is not None:
                add(parent)
        found.setdefault(name, method)

    for name in names:
        add(name)
    return tuple(found.values())


def _targets(config: RunConfig, images: ImageSet) -> tuple[str, ...]:
    targets = images.domains if config.data.targets == "all" else tuple(dict.fromkeys(config.data.targets))
    for target in targets:
        images.require_target(target)
    return targets


def _require_chains(config: RunConfig, methods: Iterable[Method], chains: Mapping[str, str] | None) -> None:
    lacking = [method.name for method in methods if method.needs_chains]
    if not lacking or chains is not None:
        return
    teacher = "chains.teacher=describer" if config.data.drawn is not None else "chains.journal=FILE.jsonl"
    without = [name for name in config.methods if not any(method.needs_chains for method in with_parents([name]))]
    raise ThroughlineError(
        f"{', '.join(lacking)} learn from reasoning chains, and the config names none",
        "chains",
        f"add --set {teacher}, or --set methods={','.join(without) or 'cls'}",
    )


def _source_chains(chains: Mapping[str, str], sources: Iterable[str], methods: Iterable[Method]) -> str:
    """Hash of the chains that a fold learns from."""
    found = {domain: chains[domain] for domain in sources if domain in chains}
    if not found and any(method.needs_chains for method in methods):
        raise ThroughlineError(
            f"no chain is accepted in any of the source domains {', '.join(sources)}", "chains", "build some"
        )
    return content_hash(found)


def _stage_inputs(config: RunConfig, method: Method) -> dict[str, Any]:
    """What the unit's own stages read of the config, and their code versions."""
    versions = {"answering": STAGE_VERSIONS["answering"]}
    inputs: dict[str, Any] = {"answering": config.evaluation.answering.model_dump(mode="json")}
    if method.needs_chains or method.self_labelled or "reasoning" in config.evaluation.answering.answers:
        inputs["format"] = config.chains.format  # words the reasoning question
    if method.trains:
        versions["training"] = STAGE_VERSIONS["training"]
        inputs["train_per_domain"] = config.data.train_per_domain
        inputs["stage"] = config.training.stage.model_dump(mode="json", exclude=WITHOUT_EFFECT)
        inputs["selection"] = config.evaluation.selection
    if method.self_labelled:
        versions["sampling"] = STAGE_VERSIONS["sampling"]
        inputs["rounds"] = config.training.rounds
        inputs["rejected"] = config.training.rejected
        inputs["self_labelling"] = config.training.self_labelling.model_dump(mode="json")
        if config.training.sampler.identity:  # absent for chains of this process, as ever
            inputs["sampler"] = config.training.sampler.identity
    return inputs | {"versions": versions}
